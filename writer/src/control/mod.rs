//! Tenants, their keys and quotas, what they used, and who changed what: truth, which no log holds.
//!
//! Promises: a change and its line in the audit log are one transaction; a key's secret is never stored, only its hash; what is
//! listed is bounded; a statement about one tenant touches no other's rows.

mod postgres;
mod rollup;
pub(crate) mod sql;
mod sqlite;

use async_trait::async_trait;
use memori_service::auth::{Grant, KeyId, Right};
use serde::{Deserialize, Serialize};

pub use self::postgres::PostgresControl;
pub use self::rollup::{ROLL_UP_PAUSE, roll_up_until};
pub use self::sqlite::SqliteControl;
use crate::reads::ReadError;

/// Keys of one tenant, at most, those that are over included.
pub const MAX_KEYS_OF_TENANT: i64 = 10_000;

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Who does something, and when.
#[derive(Clone, Debug)]
pub struct Act {
    /// A name for it, later ones sort behind earlier ones.
    pub id: String,
    /// When.
    pub at_us: i64,
    /// The key's id, or what else let the caller in.
    pub actor: String,
    /// The tenant of whom.
    pub actor_tenant: String,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TenantRow {
    pub tenant: String,
    pub display_name: Option<String>,
    pub created_at_us: i64,
    pub suspended_at_us: Option<i64>,
}

/// What may change of a tenant; `None`: it stays.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TenantChange {
    pub display_name: Option<Option<String>>,
    pub suspended: Option<bool>,
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct KeyRow {
    pub key_id: KeyId,
    pub tenant: String,
    pub display_name: Option<String>,
    pub sha256: String,
    pub rights: Vec<Right>,
    pub entity_id: Option<String>,
    pub entity_prefix: Option<String>,
    pub created_at_us: i64,
    pub expires_at_us: Option<i64>,
    pub revoked_at_us: Option<i64>,
    pub replaced_by: Option<KeyId>,
    pub last_used_at_us: Option<i64>,
}

/// What a tenant may use; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Quotas {
    pub events_per_second: Option<i64>,
    pub recalls_per_second: Option<i64>,
    pub stored_facts: Option<i64>,
    pub llm_tokens_per_day: Option<i64>,
    /// Of a front door's spool.
    pub spool_percent: Option<i64>,
}

/// How a tenant stands with its quotas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub tenant: String,
    /// What it may.
    pub quotas: Quotas,
    /// Facts that were stored when they were last counted.
    pub facts: i64,
    /// Tokens of calls to a model on that day, as far as they are counted.
    pub tokens: i64,
}

/// What a tenant used on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct UsageRow {
    pub tenant: String,
    pub day: i64,
    pub events: i64,
    pub facts: i64,
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost_micros: i64,
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AuditRow {
    pub act_id: String,
    pub at_us: i64,
    pub tenant: String,
    pub actor: String,
    pub actor_tenant: String,
    pub act: String,
    pub subject: String,
    pub detail: String,
}

/// Which lines of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Of this tenant; `None`: of all.
    pub tenant: Option<String>,
    /// Then or later.
    pub since_us: Option<i64>,
    /// Before then.
    pub until_us: Option<i64>,
    /// Older than this act.
    pub before: Option<String>,
}

/// What came of making something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is there now.
    Yes,
    /// It was there.
    Exists,
    /// What it belongs to is not there.
    NoTenant,
    /// There are as many as there may be.
    TooMany,
}

/// What is kept of tenants.
#[async_trait]
pub trait ControlStore: Send + Sync + 'static {
    /// Makes a tenant.
    async fn create_tenant(&self, row: &TenantRow, act: &Act) -> Result<Made, ReadError>;

    /// Changes a tenant; `false` where there is none.
    async fn change_tenant(&self, tenant: &str, change: &TenantChange, act: &Act) -> Result<bool, ReadError>;

    /// A tenant.
    async fn tenant(&self, tenant: &str) -> Result<Option<TenantRow>, ReadError>;

    /// Tenants by name, after one.
    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<TenantRow>, ReadError>;

    /// Makes a key. One that is bound to every tenant needs none.
    async fn create_key(&self, row: &KeyRow, act: &Act) -> Result<Made, ReadError>;

    /// Puts a new key beside an old one, which ends at `old_ends_at_us` or earlier; `false` where the old one is over, or was
    /// replaced before. Rights and binding are the old one's.
    async fn rotate_key(&self, old: KeyId, new: &KeyRow, old_ends_at_us: i64, act: &Act) -> Result<bool, ReadError>;

    /// Takes a key back; `false` where the tenant has none of that id. Again changes nothing.
    async fn revoke_key(&self, tenant: &str, key_id: KeyId, act: &Act) -> Result<bool, ReadError>;

    /// A key of a tenant.
    async fn key(&self, tenant: &str, key_id: KeyId) -> Result<Option<KeyRow>, ReadError>;

    /// Keys of a tenant by id, after one.
    async fn keys(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<KeyRow>, ReadError>;

    /// What these keys may do; of those that are there.
    async fn grants(&self, key_ids: &[KeyId]) -> Result<Vec<Grant>, ReadError>;

    /// When keys were used.
    async fn note_uses(&self, uses: &[(KeyId, i64)]) -> Result<(), ReadError>;

    /// What a tenant may use; `None` where there is no such tenant.
    async fn quotas(&self, tenant: &str) -> Result<Option<Quotas>, ReadError>;

    /// Says what a tenant may use; `false` where there is no such tenant.
    async fn set_quotas(&self, tenant: &str, quotas: &Quotas, act: &Act) -> Result<bool, ReadError>;

    /// How tenants stand on a day; of those that are there.
    async fn standings(&self, tenants: &[String], day: i64) -> Result<Vec<Standing>, ReadError>;

    /// What was used on the days from one to another, both included, by a tenant or by all; by day and tenant.
    async fn usage(&self, tenant: Option<&str>, from_day: i64, to_day: i64, limit: usize) -> Result<Vec<UsageRow>, ReadError>;

    /// Counts what was used since the start of a day anew. Two at once do no harm.
    async fn roll_up(&self, from_day: i64, today: i64) -> Result<(), ReadError>;

    /// Writes a line of the audit log, of what is no change here: `name` of what was done, `subject` what it was done to.
    async fn note(&self, tenant: &str, name: &str, subject: &str, detail: &serde_json::Value, act: &Act)
    -> Result<(), ReadError>;

    /// Lines of the audit log, the newest first.
    async fn audit(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditRow>, ReadError>;
}
