-- Withdrawals of what a lineage made, see docs/decisions/0005. A selector that is null selects all; the ends are those of the entity's
-- partition in the facts topics when it was asked for.
CREATE TABLE memori.withdrawals (
    tenant text NOT NULL,
    entity_key bytea NOT NULL,
    withdrawal_id text NOT NULL,
    extractor_name text,
    extractor_version text,
    extractor_model text,
    prompt_hash text,
    generation bigint,
    live_end_offset bigint NOT NULL,
    backfill_end_offset bigint NOT NULL,
    requested_at_us bigint NOT NULL,
    applied_at_us bigint NOT NULL,
    PRIMARY KEY (tenant, entity_key, withdrawal_id)
);
ALTER TABLE memori.withdrawals ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants_are_walls ON memori.withdrawals USING (tenant = current_setting('memori.tenant', true));

-- An applied outcome whose facts were withdrawn, until a later attempt takes its place.
ALTER TABLE memori.outcomes ADD COLUMN withdrawn boolean NOT NULL DEFAULT false;
CREATE INDEX outcomes_withdrawn ON memori.outcomes (tenant, entity_key, event_id, content_hash, generation) WHERE withdrawn;
