-- Truth: none of this can be rebuilt from the log, so it is what a backup is for. Times are microseconds since 1970, UTC.

-- act_id: the last administrative act that changed a row, as audit names it.
CREATE TABLE tenants (
    tenant text NOT NULL PRIMARY KEY,
    display_name text,
    created_at_us integer NOT NULL,
    suspended_at_us integer,
    act_id text NOT NULL
);

-- sha256: hexadecimal digits of the hash of the whole key, which is shown once and kept nowhere. rights: one bit each, in the order
-- events, recall, erase, gateway, admin. tenant: `*` for keys that administer every tenant.
CREATE TABLE api_keys (
    key_id text NOT NULL PRIMARY KEY,
    tenant text NOT NULL,
    display_name text,
    sha256 text NOT NULL,
    rights integer NOT NULL,
    entity_id text,
    entity_prefix text,
    created_at_us integer NOT NULL,
    expires_at_us integer,
    revoked_at_us integer,
    replaced_by text,
    last_used_at_us integer,
    act_id text NOT NULL
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant, key_id);

-- null: no bound.
CREATE TABLE quotas (
    tenant text NOT NULL PRIMARY KEY,
    events_per_second integer,
    recalls_per_second integer,
    stored_facts integer,
    llm_tokens_per_day integer,
    spool_percent integer,
    act_id text NOT NULL
);

-- day: days since 1970, UTC. Figures of a day never shrink, but for facts: how many were stored when they were last counted that day.
CREATE TABLE usage_days (
    tenant text NOT NULL,
    usage_day integer NOT NULL,
    events integer NOT NULL,
    facts integer NOT NULL,
    tokens_in integer NOT NULL,
    tokens_out integer NOT NULL,
    cost_micros integer NOT NULL,
    PRIMARY KEY (tenant, usage_day)
);
CREATE INDEX usage_days_by_day ON usage_days (usage_day);

-- Nothing changes or removes a line. actor: the key's id, or `keys-file`. detail: JSON, without secrets.
CREATE TABLE audit_log (
    act_id text NOT NULL PRIMARY KEY,
    at_us integer NOT NULL,
    tenant text NOT NULL,
    actor text NOT NULL,
    actor_tenant text NOT NULL,
    act text NOT NULL,
    subject text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX audit_log_of_tenant ON audit_log (tenant, act_id);
