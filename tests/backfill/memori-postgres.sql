-- Tables of the library Memori as its third migration leaves them on Postgres, with two people's conversations.
CREATE TABLE memori_schema_version(num BIGINT NOT NULL PRIMARY KEY);
CREATE TABLE memori_entity(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, external_id VARCHAR(100) NOT NULL UNIQUE,
    date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL);
CREATE TABLE memori_process(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, external_id VARCHAR(100) NOT NULL UNIQUE,
    date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL);
CREATE TABLE memori_session(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, entity_id BIGINT DEFAULT NULL REFERENCES memori_entity(id),
    process_id BIGINT DEFAULT NULL REFERENCES memori_process(id),
    date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL);
CREATE TABLE memori_conversation(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, session_id BIGINT NOT NULL UNIQUE REFERENCES memori_session(id),
    summary TEXT DEFAULT NULL, date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL,
    project_id VARCHAR(255) DEFAULT NULL);
CREATE TABLE memori_conversation_message(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, conversation_id BIGINT NOT NULL REFERENCES memori_conversation(id),
    role VARCHAR(255) NOT NULL, type VARCHAR(255) DEFAULT NULL, content TEXT NOT NULL,
    date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL,
    trace TEXT DEFAULT NULL, source VARCHAR(255) DEFAULT NULL, signal VARCHAR(255) DEFAULT NULL);
CREATE TABLE memori_entity_fact(
    id BIGSERIAL PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE, entity_id BIGINT NOT NULL REFERENCES memori_entity(id),
    content TEXT NOT NULL, content_embedding BYTEA NOT NULL, num_times BIGINT NOT NULL, date_last_time TIMESTAMP NOT NULL,
    uniq CHAR(64) NOT NULL, date_created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, date_updated TIMESTAMP DEFAULT NULL);
INSERT INTO memori_schema_version VALUES (3);
INSERT INTO memori_entity(uuid, external_id) VALUES
    ('7d1f0c6e-0000-4000-8000-000000000001', 'customer-7'), ('7d1f0c6e-0000-4000-8000-000000000002', 'customer-8');
INSERT INTO memori_process(uuid, external_id) VALUES ('7d1f0c6e-0000-4000-8000-0000000000a1', 'beekeeper');
INSERT INTO memori_session(uuid, entity_id, process_id) VALUES
    ('5e55-1', 1, 1), ('5e55-2', 2, 1), ('5e55-3', 2, NULL);
INSERT INTO memori_conversation(uuid, session_id) VALUES ('c0-1', 1), ('c0-2', 2), ('c0-3', 3);
-- Conversations are written in turns, so that their rows lie among each other.
INSERT INTO memori_conversation_message(uuid, conversation_id, role, type, content, date_created) VALUES
    ('m-1', 1, 'user', NULL, 'I keep bees.', '2025-03-01 09:00:00.25'),
    ('m-2', 2, 'user', NULL, 'I grow pears.', '2025-03-01 09:00:01'),
    ('m-3', 1, 'assistant', 'text', 'How many hives?', '2025-03-01 09:00:04'),
    ('m-4', 2, 'assistant', 'text', 'Which kind?', '2025-03-01 09:00:05'),
    ('m-5', 1, 'user', NULL, 'I own three hives.', '2025-03-01 09:01:00'),
    ('m-6', 3, 'user', NULL, 'I live in Ghent.', '2025-03-02 10:00:00');
INSERT INTO memori_entity_fact(uuid, entity_id, content, content_embedding, num_times, date_last_time, uniq, date_created) VALUES
    ('f-1', 1, 'The user keeps bees', '\x00', 2, '2025-03-01 09:02:00', repeat('0', 64), '2025-03-01 09:02:00');
