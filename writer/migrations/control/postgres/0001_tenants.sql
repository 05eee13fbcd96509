-- Truth: none of this can be rebuilt from the log, so it is what a backup is for. Times are microseconds since 1970, UTC.

-- act_id: the last administrative act that changed a row, as audit names it.
CREATE TABLE memori_control.tenants (
    tenant text NOT NULL PRIMARY KEY,
    display_name text,
    created_at_us bigint NOT NULL,
    suspended_at_us bigint,
    act_id text NOT NULL
);

-- sha256: hexadecimal digits of the hash of the whole key, which is shown once and kept nowhere. rights: one bit each, in the order
-- events, recall, erase, gateway, admin. tenant: `*` for keys that administer every tenant.
CREATE TABLE memori_control.api_keys (
    key_id text NOT NULL PRIMARY KEY,
    tenant text NOT NULL,
    display_name text,
    sha256 text NOT NULL,
    rights bigint NOT NULL,
    entity_id text,
    entity_prefix text,
    created_at_us bigint NOT NULL,
    expires_at_us bigint,
    revoked_at_us bigint,
    replaced_by text,
    last_used_at_us bigint,
    act_id text NOT NULL
);
CREATE INDEX api_keys_of_tenant ON memori_control.api_keys (tenant, key_id);

-- null: no bound.
CREATE TABLE memori_control.quotas (
    tenant text NOT NULL PRIMARY KEY,
    events_per_second bigint,
    recalls_per_second bigint,
    stored_facts bigint,
    llm_tokens_per_day bigint,
    spool_percent bigint,
    act_id text NOT NULL
);

-- day: days since 1970, UTC. Figures of a day never shrink, but for facts: how many were stored when they were last counted that day.
CREATE TABLE memori_control.usage_days (
    tenant text NOT NULL,
    usage_day bigint NOT NULL,
    events bigint NOT NULL,
    facts bigint NOT NULL,
    tokens_in bigint NOT NULL,
    tokens_out bigint NOT NULL,
    cost_micros bigint NOT NULL,
    PRIMARY KEY (tenant, usage_day)
);
CREATE INDEX usage_days_by_day ON memori_control.usage_days (usage_day);

-- Nothing changes or removes a line. actor: the key's id, or `keys-file`. detail: JSON, without secrets.
CREATE TABLE memori_control.audit_log (
    act_id text NOT NULL PRIMARY KEY,
    at_us bigint NOT NULL,
    tenant text NOT NULL,
    actor text NOT NULL,
    actor_tenant text NOT NULL,
    act text NOT NULL,
    subject text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX audit_log_of_tenant ON memori_control.audit_log (tenant, act_id);
