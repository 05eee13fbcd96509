-- What recall's images are made from besides words: vectors, see docs/decisions/0008.

-- A mention's vector is that of its fact's text: int8 values, each worth vector_scale. Vectors of unlike models are never compared.
ALTER TABLE memori.mentions
    ADD COLUMN vector_model text,
    ADD COLUMN vector_scale real,
    ADD COLUMN vector bytea;
ALTER TABLE memori.mentions ALTER COLUMN vector SET STORAGE EXTERNAL;

-- The vector of a message's first words, by a winning outcome.
CREATE TABLE memori.message_vectors (
    tenant text NOT NULL,
    entity_key bytea NOT NULL,
    generation integer NOT NULL,
    message_key bytea NOT NULL,
    event_id text NOT NULL,
    content_hash bytea NOT NULL,
    message_index integer NOT NULL,
    vector_model text NOT NULL,
    vector_scale real NOT NULL,
    vector bytea NOT NULL,
    PRIMARY KEY (tenant, entity_key, generation, message_key, event_id, content_hash)
);
ALTER TABLE memori.message_vectors ALTER COLUMN vector SET STORAGE EXTERNAL;
