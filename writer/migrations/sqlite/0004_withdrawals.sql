-- Withdrawals of what a lineage made, see docs/decisions/0005. A selector that is null selects all; the ends are those of the entity's
-- partition in the facts topics when it was asked for.
CREATE TABLE withdrawals (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    withdrawal_id text NOT NULL,
    extractor_name text,
    extractor_version text,
    extractor_model text,
    prompt_hash text,
    generation integer,
    live_end_offset integer NOT NULL,
    backfill_end_offset integer NOT NULL,
    requested_at_us integer NOT NULL,
    applied_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, withdrawal_id)
) WITHOUT ROWID;

-- An applied outcome whose facts were withdrawn, until a later attempt takes its place.
ALTER TABLE outcomes ADD COLUMN withdrawn integer NOT NULL DEFAULT 0;
CREATE INDEX outcomes_withdrawn ON outcomes (tenant, entity_key, event_id, content_hash, generation) WHERE withdrawn;
