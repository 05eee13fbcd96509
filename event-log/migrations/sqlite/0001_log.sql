-- The log. Times are milliseconds since 1970, UTC.

-- One row: the log's name, made with it.
CREATE TABLE log_cluster (
    one integer PRIMARY KEY CHECK (one = 1),
    cluster_id text NOT NULL
);

-- topic_id: a topic that was deleted and made again has another.
CREATE TABLE log_topics (
    topic text PRIMARY KEY,
    topic_id text NOT NULL UNIQUE,
    partitions integer NOT NULL CHECK (partitions > 0)
) WITHOUT ROWID;

-- end_offset moves in the transaction that appends, so commit order is offset order.
CREATE TABLE log_partitions (
    id integer PRIMARY KEY,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    start_offset integer NOT NULL CHECK (start_offset >= 0),
    end_offset integer NOT NULL CHECK (end_offset >= start_offset AND end_offset < 1 << 40),
    UNIQUE (topic, log_partition)
);

-- place: log_partitions.id << 40 | offset, so that a partition is one range of the table itself and no index stands beside it.
CREATE TABLE log_records (
    place integer PRIMARY KEY,
    appended_at_ms integer NOT NULL,
    record_key blob NOT NULL,
    headers blob NOT NULL,
    payload blob NOT NULL
);

CREATE TABLE log_group_offsets (
    group_name text NOT NULL,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    next_offset integer NOT NULL,
    PRIMARY KEY (group_name, topic, log_partition)
) WITHOUT ROWID;

-- epoch: grows with every change of hands and is compared by fenced appends and by commits. owner: null once given back.
CREATE TABLE log_leases (
    group_name text NOT NULL,
    topic text NOT NULL,
    log_partition integer NOT NULL,
    owner text,
    epoch integer NOT NULL,
    expires_at_ms integer NOT NULL,
    PRIMARY KEY (group_name, topic, log_partition)
) WITHOUT ROWID;

-- topics: their names, comma separated.
CREATE TABLE log_members (
    group_name text NOT NULL,
    member text NOT NULL,
    topics text NOT NULL,
    expires_at_ms integer NOT NULL,
    PRIMARY KEY (group_name, member)
) WITHOUT ROWID;
