//! The statements of the control store, once for both databases.

use async_trait::async_trait;
use memori_service::auth::{EVERY_TENANT, Grant, KeyId, Right};
use serde_json::{Value, json};

use super::{
    Act, AuditFilter, AuditRow, ControlStore, DAY_US, KeyRow, MAX_KEYS_OF_TENANT, Made, Quotas, Standing, TenantChange,
    TenantRow, UsageRow,
};
use crate::reads::ReadError;
use crate::reads::db::{Database, Param, Row, Statement};

const TENANT: &str = "SELECT tenant, display_name, created_at_us, suspended_at_us FROM @@tenants WHERE tenant = $1";

const TENANTS: &str = "SELECT tenant, display_name, created_at_us, suspended_at_us FROM @@tenants \
    WHERE tenant {bytewise} > $1 ORDER BY tenant {bytewise} LIMIT $2";

const CREATE_TENANT: &str = "INSERT INTO @@tenants (tenant, display_name, created_at_us, suspended_at_us, act_id) \
    VALUES ($1, $2, $3, NULL, $4) ON CONFLICT (tenant) DO NOTHING RETURNING tenant";

const CHANGE_TENANT: &str = "UPDATE @@tenants SET display_name = CASE WHEN CAST($2 AS bigint) = 1 THEN CAST($3 AS text) ELSE display_name END, \
    suspended_at_us = CASE CAST($4 AS bigint) WHEN 1 THEN coalesce(suspended_at_us, CAST($5 AS bigint)) WHEN 0 THEN NULL \
    ELSE suspended_at_us END, act_id = $6 WHERE tenant = $1 RETURNING tenant";

const KEY: &str = "SELECT key_id, tenant, display_name, sha256, rights, entity_id, entity_prefix, created_at_us, expires_at_us, \
     revoked_at_us, replaced_by, last_used_at_us FROM @@api_keys WHERE tenant = $1 AND key_id = $2";

const KEYS: &str = "SELECT key_id, tenant, display_name, sha256, rights, entity_id, entity_prefix, created_at_us, expires_at_us, \
     revoked_at_us, replaced_by, last_used_at_us FROM @@api_keys WHERE tenant = $1 AND key_id {bytewise} > $2 \
     ORDER BY key_id {bytewise} LIMIT $3";

const GRANTS: &str = "SELECT k.key_id, k.tenant, k.display_name, k.sha256, k.rights, k.entity_id, k.entity_prefix, k.created_at_us, \
     k.expires_at_us, k.revoked_at_us, k.replaced_by, k.last_used_at_us, t.suspended_at_us FROM @@api_keys k \
     LEFT JOIN @@tenants t ON t.tenant = k.tenant WHERE k.key_id {any $1}";

const CREATE_KEY: &str = "INSERT INTO @@api_keys (key_id, tenant, display_name, sha256, rights, entity_id, entity_prefix, \
    created_at_us, expires_at_us, act_id) SELECT CAST($1 AS text), CAST($2 AS text), CAST($3 AS text), CAST($4 AS text), \
    CAST($5 AS bigint), CAST($6 AS text), CAST($7 AS text), CAST($8 AS bigint), CAST($9 AS bigint), CAST($10 AS text) \
    WHERE (CAST($2 AS text) = '*' OR EXISTS (SELECT 1 FROM @@tenants WHERE tenant = $2)) \
    AND (SELECT count(*) FROM @@api_keys WHERE tenant = $2) < CAST($11 AS bigint) RETURNING key_id";

/// The old key first: its row is the lock of whoever rotates it at the same time.
const END_OLD_KEY: &str = "UPDATE @@api_keys SET replaced_by = $3, \
    expires_at_us = CASE WHEN expires_at_us < CAST($4 AS bigint) THEN expires_at_us ELSE CAST($4 AS bigint) END \
    WHERE tenant = $1 AND key_id = $2 AND replaced_by IS NULL AND revoked_at_us IS NULL \
    AND (expires_at_us IS NULL OR expires_at_us > CAST($5 AS bigint)) RETURNING key_id";

const CREATE_SUCCESSOR: &str = "INSERT INTO @@api_keys (key_id, tenant, display_name, sha256, rights, entity_id, entity_prefix, \
    created_at_us, expires_at_us, act_id) SELECT CAST($3 AS text), tenant, CAST($4 AS text), CAST($5 AS text), rights, entity_id, \
    entity_prefix, CAST($6 AS bigint), CAST($7 AS bigint), CAST($8 AS text) FROM @@api_keys \
    WHERE tenant = $1 AND key_id = $2 AND replaced_by = $3";

const REVOKE_KEY: &str = "UPDATE @@api_keys SET act_id = CASE WHEN revoked_at_us IS NULL THEN CAST($4 AS text) ELSE act_id END, \
    revoked_at_us = coalesce(revoked_at_us, CAST($3 AS bigint)) WHERE tenant = $1 AND key_id = $2 RETURNING key_id";

const NOTE_USE: &str = "UPDATE @@api_keys SET last_used_at_us = CAST($2 AS bigint) \
    WHERE key_id = $1 AND (last_used_at_us IS NULL OR last_used_at_us < CAST($2 AS bigint))";

const QUOTAS: &str = "SELECT q.events_per_second, q.recalls_per_second, q.stored_facts, q.llm_tokens_per_day, q.spool_percent \
    FROM @@tenants t LEFT JOIN @@quotas q ON q.tenant = t.tenant WHERE t.tenant = $1";

const SET_QUOTAS: &str = "INSERT INTO @@quotas (tenant, events_per_second, recalls_per_second, stored_facts, llm_tokens_per_day, \
    spool_percent, act_id) SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS bigint), CAST($4 AS bigint), \
    CAST($5 AS bigint), CAST($6 AS bigint), CAST($7 AS text) WHERE EXISTS (SELECT 1 FROM @@tenants WHERE tenant = $1) \
    ON CONFLICT (tenant) DO UPDATE SET events_per_second = excluded.events_per_second, \
    recalls_per_second = excluded.recalls_per_second, stored_facts = excluded.stored_facts, \
    llm_tokens_per_day = excluded.llm_tokens_per_day, spool_percent = excluded.spool_percent, act_id = excluded.act_id \
    RETURNING tenant";

const STANDINGS: &str = "SELECT t.tenant, q.events_per_second, q.recalls_per_second, q.stored_facts, q.llm_tokens_per_day, \
    q.spool_percent, \
    coalesce((SELECT u.facts FROM @@usage_days u WHERE u.tenant = t.tenant ORDER BY u.usage_day DESC LIMIT 1), 0), \
    coalesce((SELECT u.tokens_in + u.tokens_out FROM @@usage_days u WHERE u.tenant = t.tenant \
      AND u.usage_day = CAST($2 AS bigint)), 0) \
    FROM @@tenants t LEFT JOIN @@quotas q ON q.tenant = t.tenant WHERE t.tenant {any $1}";

const USAGE_OF_ONE: &str = "SELECT tenant, usage_day, events, facts, tokens_in, tokens_out, cost_micros FROM @@usage_days \
     WHERE tenant = $1 AND usage_day >= CAST($2 AS bigint) AND usage_day <= CAST($3 AS bigint) ORDER BY usage_day LIMIT $4";

const USAGE_OF_ALL: &str = "SELECT tenant, usage_day, events, facts, tokens_in, tokens_out, cost_micros FROM @@usage_days \
     WHERE usage_day >= CAST($1 AS bigint) AND usage_day <= CAST($2 AS bigint) \
     ORDER BY usage_day, tenant {bytewise} LIMIT $3";

/// In the order of the key, so that two at once do not wait for each other.
const ROLL_UP_EVENTS: &str = "INSERT INTO @@usage_days (tenant, usage_day, events, facts, tokens_in, tokens_out, cost_micros) \
    SELECT tenant, accepted_at_us / 86400000000, count(*), 0, 0, 0, 0 FROM @events \
    WHERE accepted_at_us >= CAST($1 AS bigint) AND accepted_at_us < CAST($2 AS bigint) GROUP BY 1, 2 ORDER BY 1, 2 \
    ON CONFLICT (tenant, usage_day) DO UPDATE SET events = CASE WHEN excluded.events > usage_days.events THEN excluded.events \
    ELSE usage_days.events END";

/// A call that served several events has one record on the log, and its tokens are counted once.
const ROLL_UP_CALLS: &str = "INSERT INTO @@usage_days (tenant, usage_day, events, facts, tokens_in, tokens_out, cost_micros) \
    SELECT tenant, ended_at_us / 86400000000, 0, 0, CAST(sum(tokens_in) AS bigint), CAST(sum(tokens_out) AS bigint), \
    CAST(sum(cost_micros) AS bigint) FROM (SELECT tenant, max(ended_at_us) AS ended_at_us, max(tokens_in) AS tokens_in, \
      max(tokens_out) AS tokens_out, max(cost_micros) AS cost_micros FROM @outcomes \
      WHERE ended_at_us >= CAST($1 AS bigint) AND ended_at_us < CAST($2 AS bigint) \
      GROUP BY tenant, log_topic_id, log_partition, log_offset) AS calls WHERE true GROUP BY 1, 2 ORDER BY 1, 2 \
    ON CONFLICT (tenant, usage_day) DO UPDATE SET \
    tokens_in = CASE WHEN excluded.tokens_in > usage_days.tokens_in THEN excluded.tokens_in ELSE usage_days.tokens_in END, \
    tokens_out = CASE WHEN excluded.tokens_out > usage_days.tokens_out THEN excluded.tokens_out ELSE usage_days.tokens_out END, \
    cost_micros = CASE WHEN excluded.cost_micros > usage_days.cost_micros THEN excluded.cost_micros \
      ELSE usage_days.cost_micros END";

/// Of who did something today, and of who has a bound: only a count tells that what was deleted is gone.
const ROLL_UP_FACTS: &str = "INSERT INTO @@usage_days (tenant, usage_day, events, facts, tokens_in, tokens_out, cost_micros) \
    SELECT t.tenant, CAST($1 AS bigint), 0, (SELECT count(*) FROM @facts f WHERE f.tenant = t.tenant AND f.generation = \
      coalesce((SELECT g.generation FROM @@active_generations g WHERE g.tenant = t.tenant), 1)), 0, 0, 0 \
    FROM (SELECT tenant FROM @@usage_days WHERE usage_day = CAST($1 AS bigint) UNION \
      SELECT tenant FROM @@quotas WHERE stored_facts IS NOT NULL) AS t WHERE true ORDER BY 1 \
    ON CONFLICT (tenant, usage_day) DO UPDATE SET facts = excluded.facts";

const AUDIT: &str = "SELECT act_id, at_us, tenant, actor, actor_tenant, act, subject, detail FROM @@audit_log \
    WHERE (CAST($1 AS text) = '*' OR tenant = $1) AND at_us >= CAST($2 AS bigint) AND at_us < CAST($3 AS bigint) \
    AND act_id {bytewise} < CAST($4 AS text) ORDER BY act_id {bytewise} DESC LIMIT $5";

/// A line for an act that has changed a row: the row names the act.
const AUDIT_NOTE: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    CAST($7 AS text), CAST($8 AS text)";

const AUDIT_TENANT: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    CAST($7 AS text), CAST($8 AS text) WHERE EXISTS (SELECT 1 FROM @@tenants WHERE tenant = $3 AND act_id = $1)";

const AUDIT_KEY: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    CAST($7 AS text), CAST($8 AS text) WHERE EXISTS (SELECT 1 FROM @@api_keys WHERE tenant = $3 AND act_id = $1)";

const AUDIT_QUOTAS: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    CAST($7 AS text), CAST($8 AS text) WHERE EXISTS (SELECT 1 FROM @@quotas WHERE tenant = $3 AND act_id = $1)";

/// A database that can be changed.
#[async_trait]
pub trait Changing: Database + 'static {
    /// Runs statements in one transaction, to its end even where the caller goes away.
    async fn change(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError>;
}

/// The control store over a database.
#[derive(Clone, Debug)]
pub struct SqlControl<D>(pub(crate) D);

pub(crate) fn text(text: &str) -> Param {
    Param::Text(text.to_owned())
}

fn opt_text(text: Option<&str>) -> Param {
    Param::OptText(text.map(str::to_owned))
}

fn count(number: usize) -> Param {
    Param::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(crate) fn line(template: &'static str, act: &Act, tenant: &str, name: &str, subject: &str, detail: &Value) -> Statement {
    let params = vec![
        text(&act.id),
        Param::Int(act.at_us),
        text(tenant),
        text(&act.actor),
        text(&act.actor_tenant),
        text(name),
        text(subject),
        text(&detail.to_string()),
    ];
    Statement::whole(template, params)
}

fn rights_bits(rights: &[Right]) -> i64 {
    Right::ALL.iter().enumerate().filter(|(_, right)| rights.contains(right)).map(|(place, _)| 1 << place).sum()
}

fn rights_of(bits: i64) -> Vec<Right> {
    Right::ALL.into_iter().enumerate().filter(|(place, _)| bits & (1 << place) != 0).map(|(_, right)| right).collect()
}

fn tenant_row(row: &mut Row) -> Result<TenantRow, ReadError> {
    Ok(TenantRow {
        tenant: row.text()?,
        display_name: row.opt_text()?,
        created_at_us: row.int()?,
        suspended_at_us: row.opt_int()?,
    })
}

fn key_id(text: &str) -> Result<KeyId, ReadError> {
    text.parse().map_err(|()| ReadError::Corrupt("a key's id is none"))
}

fn key_row(row: &mut Row) -> Result<KeyRow, ReadError> {
    Ok(KeyRow {
        key_id: key_id(&row.text()?)?,
        tenant: row.text()?,
        display_name: row.opt_text()?,
        sha256: row.text()?,
        rights: rights_of(row.int()?),
        entity_id: row.opt_text()?,
        entity_prefix: row.opt_text()?,
        created_at_us: row.int()?,
        expires_at_us: row.opt_int()?,
        revoked_at_us: row.opt_int()?,
        replaced_by: row.opt_text()?.as_deref().map(key_id).transpose()?,
        last_used_at_us: row.opt_int()?,
    })
}

fn quotas_of(row: &mut Row) -> Result<Quotas, ReadError> {
    Ok(Quotas {
        events_per_second: row.opt_int()?,
        recalls_per_second: row.opt_int()?,
        stored_facts: row.opt_int()?,
        llm_tokens_per_day: row.opt_int()?,
        spool_percent: row.opt_int()?,
    })
}

fn usage_row(row: &mut Row) -> Result<UsageRow, ReadError> {
    Ok(UsageRow {
        tenant: row.text()?,
        day: row.int()?,
        events: row.int()?,
        facts: row.int()?,
        tokens_in: row.int()?,
        tokens_out: row.int()?,
        cost_micros: row.int()?,
    })
}

fn audit_row(row: &mut Row) -> Result<AuditRow, ReadError> {
    Ok(AuditRow {
        act_id: row.text()?,
        at_us: row.int()?,
        tenant: row.text()?,
        actor: row.text()?,
        actor_tenant: row.text()?,
        act: row.text()?,
        subject: row.text()?,
        detail: row.text()?,
    })
}

/// What the audit log says of a key: everything but what lets in.
fn shown_key(row: &KeyRow) -> Value {
    json!({
        "name": row.display_name,
        "rights": row.rights,
        "entity_id": row.entity_id,
        "entity_prefix": row.entity_prefix,
        "expires_at_us": row.expires_at_us,
    })
}

impl<D: Changing> SqlControl<D> {
    async fn all<T>(
        &self,
        template: &'static str,
        params: Vec<Param>,
        read: impl Fn(&mut Row) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        self.0.query(Statement::whole(template, params)).await?.into_iter().map(|mut row| read(&mut row)).collect()
    }

    /// Whether the first of these statements answered a row.
    async fn changed(&self, statements: Vec<Statement>) -> Result<bool, ReadError> {
        Ok(self.0.change(statements).await?.first().is_some_and(|rows| !rows.is_empty()))
    }
}

#[async_trait]
impl<D: Changing> ControlStore for SqlControl<D> {
    async fn create_tenant(&self, row: &TenantRow, act: &Act) -> Result<Made, ReadError> {
        let params = vec![text(&row.tenant), opt_text(row.display_name.as_deref()), Param::Int(row.created_at_us), text(&act.id)];
        let detail = json!({"name": row.display_name});
        let made = self
            .changed(vec![
                Statement::whole(CREATE_TENANT, params),
                line(AUDIT_TENANT, act, &row.tenant, "tenant.create", &row.tenant, &detail),
            ])
            .await?;
        Ok(if made { Made::Yes } else { Made::Exists })
    }

    async fn change_tenant(&self, tenant: &str, change: &TenantChange, act: &Act) -> Result<bool, ReadError> {
        let params = vec![
            text(tenant),
            Param::Int(change.display_name.is_some().into()),
            opt_text(change.display_name.as_ref().and_then(|name| name.as_deref())),
            Param::Int(change.suspended.map_or(-1, i64::from)),
            Param::Int(act.at_us),
            text(&act.id),
        ];
        let mut detail = json!({});
        if let Some(name) = &change.display_name {
            detail["name"] = json!(name);
        }
        if let Some(suspended) = change.suspended {
            detail["suspended"] = suspended.into();
        }
        self.changed(vec![
            Statement::whole(CHANGE_TENANT, params),
            line(AUDIT_TENANT, act, tenant, "tenant.change", tenant, &detail),
        ])
        .await
    }

    async fn tenant(&self, tenant: &str) -> Result<Option<TenantRow>, ReadError> {
        Ok(self.all(TENANT, vec![text(tenant)], tenant_row).await?.pop())
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<TenantRow>, ReadError> {
        self.all(TENANTS, vec![text(after), count(limit)], tenant_row).await
    }

    async fn create_key(&self, row: &KeyRow, act: &Act) -> Result<Made, ReadError> {
        let params = vec![
            text(&row.key_id.to_string()),
            text(&row.tenant),
            opt_text(row.display_name.as_deref()),
            text(&row.sha256),
            Param::Int(rights_bits(&row.rights)),
            opt_text(row.entity_id.as_deref()),
            opt_text(row.entity_prefix.as_deref()),
            Param::Int(row.created_at_us),
            Param::OptInt(row.expires_at_us),
            text(&act.id),
            Param::Int(MAX_KEYS_OF_TENANT),
        ];
        let made = self
            .changed(vec![
                Statement::whole(CREATE_KEY, params),
                line(AUDIT_KEY, act, &row.tenant, "key.create", &row.key_id.to_string(), &shown_key(row)),
            ])
            .await?;
        if made {
            return Ok(Made::Yes);
        }
        let there = row.tenant == EVERY_TENANT || self.tenant(&row.tenant).await?.is_some();
        Ok(if there { Made::TooMany } else { Made::NoTenant })
    }

    async fn rotate_key(&self, old: KeyId, new: &KeyRow, old_ends_at_us: i64, act: &Act) -> Result<bool, ReadError> {
        let (old, new_id) = (old.to_string(), new.key_id.to_string());
        let end = vec![text(&new.tenant), text(&old), text(&new_id), Param::Int(old_ends_at_us), Param::Int(act.at_us)];
        let successor = vec![
            text(&new.tenant),
            text(&old),
            text(&new_id),
            opt_text(new.display_name.as_deref()),
            text(&new.sha256),
            Param::Int(new.created_at_us),
            Param::OptInt(new.expires_at_us),
            text(&act.id),
        ];
        let detail = json!({"new_key_id": new_id, "old_ends_at_us": old_ends_at_us, "expires_at_us": new.expires_at_us});
        self.changed(vec![
            Statement::whole(END_OLD_KEY, end),
            Statement::whole(CREATE_SUCCESSOR, successor),
            line(AUDIT_KEY, act, &new.tenant, "key.rotate", &old, &detail),
        ])
        .await
    }

    async fn revoke_key(&self, tenant: &str, key_id: KeyId, act: &Act) -> Result<bool, ReadError> {
        let id = key_id.to_string();
        let params = vec![text(tenant), text(&id), Param::Int(act.at_us), text(&act.id)];
        self.changed(vec![Statement::whole(REVOKE_KEY, params), line(AUDIT_KEY, act, tenant, "key.revoke", &id, &json!({}))])
            .await
    }

    async fn key(&self, tenant: &str, key_id: KeyId) -> Result<Option<KeyRow>, ReadError> {
        Ok(self.all(KEY, vec![text(tenant), text(&key_id.to_string())], key_row).await?.pop())
    }

    async fn keys(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<KeyRow>, ReadError> {
        self.all(KEYS, vec![text(tenant), text(after), count(limit)], key_row).await
    }

    async fn grants(&self, key_ids: &[KeyId]) -> Result<Vec<Grant>, ReadError> {
        let ids = key_ids.iter().map(ToString::to_string).collect();
        self.all(GRANTS, vec![Param::Texts(ids)], |row| {
            let key = key_row(row)?;
            Ok(Grant {
                key_id: key.key_id,
                tenant: key.tenant.into(),
                rights: key.rights,
                entity_id: key.entity_id.map(Into::into),
                entity_prefix: key.entity_prefix.map(Into::into),
                sha256: key.sha256,
                expires_at_us: key.expires_at_us,
                revoked_at_us: key.revoked_at_us,
                tenant_suspended: row.opt_int()?.is_some(),
            })
        })
        .await
    }

    async fn note_uses(&self, uses: &[(KeyId, i64)]) -> Result<(), ReadError> {
        let mut uses: Vec<(String, i64)> = uses.iter().map(|(id, at_us)| (id.to_string(), *at_us)).collect();
        // Two front doors at once take the rows in one order.
        uses.sort_unstable();
        let statements = uses.iter().map(|(id, at_us)| Statement::whole(NOTE_USE, vec![text(id), Param::Int(*at_us)]));
        self.0.change(statements.collect()).await.map(drop)
    }

    async fn quotas(&self, tenant: &str) -> Result<Option<Quotas>, ReadError> {
        Ok(self.all(QUOTAS, vec![text(tenant)], quotas_of).await?.pop())
    }

    async fn set_quotas(&self, tenant: &str, quotas: &Quotas, act: &Act) -> Result<bool, ReadError> {
        let params = vec![
            text(tenant),
            Param::OptInt(quotas.events_per_second),
            Param::OptInt(quotas.recalls_per_second),
            Param::OptInt(quotas.stored_facts),
            Param::OptInt(quotas.llm_tokens_per_day),
            Param::OptInt(quotas.spool_percent),
            text(&act.id),
        ];
        self.changed(vec![
            Statement::whole(SET_QUOTAS, params),
            line(AUDIT_QUOTAS, act, tenant, "quotas.set", tenant, &json!(quotas)),
        ])
        .await
    }

    async fn standings(&self, tenants: &[String], day: i64) -> Result<Vec<Standing>, ReadError> {
        self.all(STANDINGS, vec![Param::Texts(tenants.to_vec()), Param::Int(day)], |row| {
            Ok(Standing { tenant: row.text()?, quotas: quotas_of(row)?, facts: row.int()?, tokens: row.int()? })
        })
        .await
    }

    async fn usage(&self, tenant: Option<&str>, from_day: i64, to_day: i64, limit: usize) -> Result<Vec<UsageRow>, ReadError> {
        let (from, to, limit) = (Param::Int(from_day), Param::Int(to_day), count(limit));
        match tenant {
            Some(tenant) => self.all(USAGE_OF_ONE, vec![text(tenant), from, to, limit], usage_row).await,
            None => self.all(USAGE_OF_ALL, vec![from, to, limit], usage_row).await,
        }
    }

    async fn roll_up(&self, from_day: i64, today: i64) -> Result<(), ReadError> {
        let window = || vec![Param::Int(from_day * DAY_US), Param::Int((today + 1) * DAY_US)];
        // Each for itself: none waits for another's locks.
        self.0.change(vec![Statement::whole(ROLL_UP_EVENTS, window())]).await?;
        self.0.change(vec![Statement::whole(ROLL_UP_CALLS, window())]).await?;
        self.0.change(vec![Statement::whole(ROLL_UP_FACTS, vec![Param::Int(today)])]).await?;
        Ok(())
    }

    async fn note(&self, tenant: &str, name: &str, subject: &str, detail: &Value, act: &Act) -> Result<(), ReadError> {
        self.0.change(vec![line(AUDIT_NOTE, act, tenant, name, subject, detail)]).await.map(drop)
    }

    async fn audit(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditRow>, ReadError> {
        let params = vec![
            text(filter.tenant.as_deref().unwrap_or(EVERY_TENANT)),
            Param::Int(filter.since_us.unwrap_or(i64::MIN)),
            Param::Int(filter.until_us.unwrap_or(i64::MAX)),
            // Behind every act's name.
            text(filter.before.as_deref().unwrap_or("~")),
            count(limit),
        ];
        self.all(AUDIT, params, audit_row).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_bits_and_back() {
        for bits in 0..32 {
            assert_eq!(rights_bits(&rights_of(bits)), bits);
        }
        assert_eq!(rights_of(0b10001), [Right::Events, Right::Admin]);
    }
}
