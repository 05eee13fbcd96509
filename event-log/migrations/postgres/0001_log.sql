-- The log, in the schema that the store's view shares: dropping the view leaves these tables alone. Times are milliseconds since
-- 1970, UTC, by the server's clock. Rows that are updated again and again leave room on their page for their next versions.

-- One row: the log's name, made with it.
CREATE TABLE memori.log_cluster (
    one integer PRIMARY KEY CHECK (one = 1),
    cluster_id text NOT NULL
);

-- topic_id: a topic that was deleted and made again has another.
CREATE TABLE memori.log_topics (
    topic text PRIMARY KEY,
    topic_id text NOT NULL UNIQUE,
    partitions integer NOT NULL CHECK (partitions > 0)
);

-- end_offset moves in the transaction that appends, under the row's lock, so commit order is offset order.
CREATE TABLE memori.log_partitions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    start_offset bigint NOT NULL CHECK (start_offset >= 0),
    end_offset bigint NOT NULL CHECK (end_offset >= start_offset AND end_offset < 1::bigint << 40),
    UNIQUE (topic, log_partition)
) WITH (fillfactor = 20);

-- place: log_partitions.id << 40 | offset, so that a partition is one range of the one index.
CREATE TABLE memori.log_records (
    place bigint PRIMARY KEY,
    appended_at_ms bigint NOT NULL,
    record_key bytea NOT NULL,
    headers bytea NOT NULL,
    payload bytea NOT NULL
);

CREATE TABLE memori.log_group_offsets (
    group_name text NOT NULL,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (group_name, topic, log_partition)
) WITH (fillfactor = 50);

-- One row per group: whoever changes its members or leases holds the row's lock.
CREATE TABLE memori.log_groups (
    group_name text PRIMARY KEY
);

-- epoch: grows with every change of hands and is compared by fenced appends and by commits. owner: null once given back.
CREATE TABLE memori.log_leases (
    group_name text NOT NULL,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    owner text,
    epoch bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    PRIMARY KEY (group_name, topic, log_partition)
) WITH (fillfactor = 50);

-- topics: their names, comma separated.
CREATE TABLE memori.log_members (
    group_name text NOT NULL,
    member text NOT NULL,
    topics text NOT NULL,
    expires_at_ms bigint NOT NULL,
    PRIMARY KEY (group_name, member)
) WITH (fillfactor = 50);
