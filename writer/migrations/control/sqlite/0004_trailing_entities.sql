-- Entities that still read the generation before a switch of their tenant, until the new one has all that they read; see
-- docs/decisions/0024. Empty but for moments after a switch.
CREATE TABLE trailing_entities (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    PRIMARY KEY (tenant, entity_key)
);
