-- Base tables are sets keyed by their whole identity; see docs/decisions/0003. Times are microseconds since 1970, UTC.

CREATE TABLE log_offsets (
    cluster_id text NOT NULL,
    topic_id text NOT NULL,
    log_partition integer NOT NULL,
    next_offset integer NOT NULL,
    PRIMARY KEY (cluster_id, topic_id, log_partition)
);

-- version: bumped by every flush that touches the entity. entity_id: null once nothing but erased events is left.
CREATE TABLE entities (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    entity_id text,
    version integer NOT NULL,
    PRIMARY KEY (tenant, entity_key)
);

-- One row per event. erased rows have no content: process_id, session_id and client_fields are null.
-- first_*: over all copies of the event, where its lowest copy of each lane stands (its origin counts), and when its first
-- spooled copy was accepted: what an erasure that arrives later needs to know (decision 5).
-- client_fields: JSON of what the client gave besides the content: occurred_at_us, session_id, message_ids, created_at_us (decision 4).
CREATE TABLE events (
    tenant text NOT NULL,
    event_id text NOT NULL,
    entity_key blob NOT NULL,
    content_hash blob NOT NULL,
    erased boolean NOT NULL,
    process_id text,
    session_id text,
    occurred_at_us integer NOT NULL,
    accepted_at_us integer NOT NULL,
    spooled boolean NOT NULL,
    lane integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset integer NOT NULL,
    origin_lane integer,
    origin_offset integer,
    attempt integer NOT NULL,
    first_live_offset integer,
    first_backfill_offset integer,
    first_spooled_at_us integer,
    client_fields text,
    PRIMARY KEY (tenant, event_id, entity_key, content_hash)
) WITHOUT ROWID;
CREATE INDEX events_of_entity ON events (tenant, entity_key);

CREATE TABLE messages (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    message_key blob NOT NULL,
    event_id text NOT NULL,
    content_hash blob NOT NULL,
    message_index integer NOT NULL,
    message_id text NOT NULL,
    role integer NOT NULL,
    name text,
    content text NOT NULL,
    content_format integer NOT NULL,
    created_at_us integer,
    process_id text,
    session_id text,
    occurred_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, message_key, event_id, content_hash, message_index)
) WITHOUT ROWID;

-- The best-ranked outcome of each (generation, event). kind: 1 applied, 2 dead.
-- event_*: what the outcome's record says of its event, so that an erasure can be decided without the event's own row.
CREATE TABLE outcomes (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    event_id text NOT NULL,
    content_hash blob NOT NULL,
    kind integer NOT NULL,
    lane integer NOT NULL,
    log_topic_id text NOT NULL,
    log_partition integer NOT NULL,
    log_offset integer NOT NULL,
    event_lane integer NOT NULL,
    event_offset integer NOT NULL,
    event_origin_lane integer,
    event_origin_offset integer,
    event_spooled boolean NOT NULL,
    event_accepted_at_us integer NOT NULL,
    attempt integer NOT NULL,
    dead_letter_class text,
    dead_letter_reason text,
    extractor_name text,
    extractor_version text,
    extractor_model text,
    prompt_hash text,
    tokens_in integer NOT NULL,
    tokens_out integer NOT NULL,
    cost_micros integer NOT NULL,
    ended_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, event_id, content_hash, generation)
) WITHOUT ROWID;

-- Wording and triple are those of the mention with the smallest (occurred_at_us, event_id, message_index).
CREATE TABLE facts (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    fact_id blob NOT NULL,
    kind integer NOT NULL,
    body text NOT NULL,
    subject text,
    predicate text,
    object text,
    slot text,
    confidence real NOT NULL,
    process_id text,
    extractor text NOT NULL,
    rep_occurred_at_us integer NOT NULL,
    rep_event_id text NOT NULL,
    rep_message_index integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, generation, fact_id)
) WITHOUT ROWID;

-- Only facts of single-valued slots stand in it, so that the flush finds the others of a slot.
CREATE INDEX facts_of_slot ON facts (tenant, entity_key, generation, slot) WHERE slot IS NOT NULL;

-- One event's support for a fact by one message, by a winning outcome. surface: JSON of what this mention says.
CREATE TABLE mentions (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    fact_id blob NOT NULL,
    message_key blob NOT NULL,
    event_id text NOT NULL,
    content_hash blob NOT NULL,
    message_index integer NOT NULL,
    message_id text NOT NULL,
    session_id text,
    occurred_at_us integer NOT NULL,
    lane integer NOT NULL,
    log_partition integer NOT NULL,
    log_offset integer NOT NULL,
    text_hash blob NOT NULL,
    triple_hash blob,
    surface text NOT NULL,
    PRIMARY KEY (tenant, entity_key, generation, fact_id, message_key, event_id, content_hash)
) WITHOUT ROWID;

CREATE TABLE fact_stats (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    fact_id blob NOT NULL,
    mentions integer NOT NULL,
    first_mentioned_at_us integer NOT NULL,
    last_mentioned_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, generation, fact_id)
) WITHOUT ROWID;

-- Every fact has at least one interval; facts of single-valued slots may have several.
CREATE TABLE validity (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    generation integer NOT NULL,
    fact_id blob NOT NULL,
    valid_from_us integer NOT NULL,
    valid_to_us integer,
    closed_by blob,
    PRIMARY KEY (tenant, entity_key, generation, fact_id, valid_from_us)
) WITHOUT ROWID;

CREATE TABLE erasures (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    erasure_id text NOT NULL,
    requested_at_us integer NOT NULL,
    live_end_offset integer NOT NULL,
    backfill_end_offset integer NOT NULL,
    applied_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, erasure_id)
);

-- message_keys: 16 bytes each, one after the other.
CREATE TABLE forgets (
    tenant text NOT NULL,
    entity_key blob NOT NULL,
    forget_id text NOT NULL,
    fact_id blob NOT NULL,
    text_hash blob NOT NULL,
    triple_hash blob,
    message_keys blob NOT NULL,
    requested_at_us integer NOT NULL,
    applied_at_us integer NOT NULL,
    PRIMARY KEY (tenant, entity_key, forget_id)
);

-- covers: JSON list of the events that end here, with what an erasure needs to know of each.
CREATE TABLE dead_letters (
    source_topic_id text NOT NULL,
    source_partition integer NOT NULL,
    source_offset integer NOT NULL,
    generation integer NOT NULL,
    tenant text,
    entity_key blob,
    source_topic text NOT NULL,
    lane integer NOT NULL,
    class text NOT NULL,
    reason text NOT NULL,
    attempts integer NOT NULL,
    covers text NOT NULL,
    erased boolean NOT NULL,
    original_key blob,
    original_payload blob,
    failed_at_us integer NOT NULL,
    PRIMARY KEY (source_topic_id, source_partition, source_offset, generation)
);
CREATE INDEX dead_letters_of_entity ON dead_letters (tenant, entity_key);

-- Truth, not view: which generation recall reads. A tenant without a row reads generation 1.
CREATE TABLE IF NOT EXISTS active_generations (
    tenant text NOT NULL PRIMARY KEY,
    generation integer NOT NULL
);
