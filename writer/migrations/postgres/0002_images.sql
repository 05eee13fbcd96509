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

-- Images, see docs/decisions/0008. None of this is base: it says what to read anew, and what was packed so that it is read faster.

-- rebased_version: images older than this are read whole; entity_changes tells of every later version that changed something.
-- packed_version: the version that the packs show; null where there are none.
ALTER TABLE memori.entities
    ADD COLUMN rebased_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN packed_version bigint;
UPDATE memori.entities SET rebased_version = version;

-- What a flush changed of an entity. facts: ids, 16 bytes each, one after the other; messages: keys, likewise.
CREATE TABLE memori.entity_changes (
    tenant text NOT NULL,
    entity_key bytea NOT NULL,
    version bigint NOT NULL,
    facts bytea NOT NULL,
    messages bytea NOT NULL,
    PRIMARY KEY (tenant, entity_key, version)
);
ALTER TABLE memori.entity_changes ALTER COLUMN facts SET STORAGE EXTERNAL;
ALTER TABLE memori.entity_changes ALTER COLUMN messages SET STORAGE EXTERNAL;

-- All of an entity as of entities.packed_version, in a few large values. kind: 1 facts, 2 messages, 3 events without a session.
-- model: empty where the packs hold no vectors. bytes are in the format of recall/packed,
-- and are never compressed, so that they are read as they lie.
CREATE TABLE memori.packs (
    tenant text NOT NULL,
    entity_key bytea NOT NULL,
    version bigint NOT NULL,
    generation integer NOT NULL,
    kind smallint NOT NULL,
    chunk integer NOT NULL,
    model text NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (tenant, entity_key, version, generation, kind, chunk)
);
ALTER TABLE memori.packs ALTER COLUMN bytes SET STORAGE EXTERNAL;
