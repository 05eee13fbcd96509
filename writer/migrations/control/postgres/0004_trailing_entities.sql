-- Entities that still read the generation before a switch of their tenant, until the new one has all that they read; see
-- docs/decisions/0024. Empty but for moments after a switch.
CREATE TABLE memori_control.trailing_entities (
    tenant text NOT NULL,
    entity_key bytea NOT NULL,
    generation integer NOT NULL,
    PRIMARY KEY (tenant, entity_key)
);
ALTER TABLE memori_control.trailing_entities ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants_are_walls ON memori_control.trailing_entities USING (tenant = current_setting('memori.tenant', true));
