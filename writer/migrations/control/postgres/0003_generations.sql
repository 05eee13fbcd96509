-- Generations beside the first, see docs/decisions/0024. Rows are never removed, so that a number never comes again.

-- base: what is not extracted anew is carried over from it. tenants, spec, selection, limits: JSON. created_at_us: events that were
-- accepted before are history. freed_at_us: when nothing of a dropped one was left.
CREATE TABLE memori_control.generations (
    generation integer NOT NULL PRIMARY KEY,
    base integer NOT NULL,
    tenants text NOT NULL,
    spec text NOT NULL,
    selection text NOT NULL,
    limits text NOT NULL,
    state text NOT NULL,
    reason text,
    created_at_us bigint NOT NULL,
    created_by text NOT NULL,
    dropped_at_us bigint,
    freed_at_us bigint,
    act_id text NOT NULL
);

-- Of one tenant, the first generation too: what it read before, since when it reads this, and whether it is dropped.
CREATE TABLE memori_control.tenant_generations (
    tenant text NOT NULL,
    generation integer NOT NULL,
    before_generation integer,
    cut_over_at_us bigint,
    dropped_at_us bigint,
    freed_at_us bigint,
    act_id text NOT NULL,
    PRIMARY KEY (tenant, generation)
);
ALTER TABLE memori_control.tenant_generations ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenants_are_walls ON memori_control.tenant_generations USING (tenant = current_setting('memori.tenant', true));
