-- What recall's images are made from besides words: vectors, see docs/decisions/0008.

-- A mention's vector is that of its fact's text: int8 values, each worth vector_scale. Vectors of unlike models are never compared.
ALTER TABLE mentions ADD COLUMN vector_model text;
ALTER TABLE mentions ADD COLUMN vector_scale real;
ALTER TABLE mentions ADD COLUMN vector blob;

-- The vector of a message's first words, by a winning outcome.
CREATE TABLE message_vectors (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    message_key blob NOT NULL,
    event_id text NOT NULL,
    content_hash blob NOT NULL,
    message_index integer NOT NULL,
    vector_model text NOT NULL,
    vector_scale real NOT NULL,
    vector blob NOT NULL,
    PRIMARY KEY (tenant, entity_key, generation, message_key, event_id, content_hash)
) WITHOUT ROWID;

-- Images, see docs/decisions/0008. None of this is base: it says what to read anew, and what was packed so that it is read faster.

-- rebased_version: images older than this are read whole; entity_changes tells of every later version that changed something.
-- packed_version: the version that the packs show; null where there are none.
ALTER TABLE entities ADD COLUMN rebased_version integer NOT NULL DEFAULT 0;
ALTER TABLE entities ADD COLUMN packed_version integer;
UPDATE entities SET rebased_version = version;

-- What a flush changed of an entity. facts: ids, 16 bytes each, one after the other; messages: keys, likewise.
CREATE TABLE entity_changes (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    version integer NOT NULL,
    facts blob NOT NULL,
    messages blob NOT NULL,
    PRIMARY KEY (tenant, entity_key, version)
) WITHOUT ROWID;

-- All of an entity as of entities.packed_version, in a few large values. kind: 1 facts, 2 messages, 3 events without a session.
-- model: empty where the packs hold no vectors. bytes are in the format of recall/packed.
CREATE TABLE packs (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    version integer NOT NULL,
    generation integer NOT NULL,
    kind integer NOT NULL,
    chunk integer NOT NULL,
    model text NOT NULL,
    bytes blob NOT NULL,
    PRIMARY KEY (tenant, entity_key, version, generation, kind, chunk)
);
