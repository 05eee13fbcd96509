//! What a front door knows of the key store: keys, and how tenants stand with their quotas. The writer answers for it.
//!
//! Promises: a known key works while the writer is away; a key that nobody knows is asked for once in a while, not with each request;
//! a question that fails makes no queue; whoever asked first asks for all.

pub(crate) mod bucket;
mod keys;
pub(crate) mod quotas;
mod standing;

use std::time::Duration;

use memori_service::Settings;
use memori_service::auth::key_cache::KeyCacheConfig;

pub(crate) use self::keys::KeyStore;
pub(crate) use self::standing::Standings;

/// How a front door keeps keys and quotas.
#[derive(Clone, Copy, Debug)]
pub struct TenantsConfig {
    /// Bounds and ages of remembered keys.
    pub keys: KeyCacheConfig,
    /// Front doors that share the quotas.
    pub replicas: u32,
    /// How often it is asked how tenants stand.
    pub quota_refresh: Duration,
}

impl TenantsConfig {
    /// As configured; `None` where only the file's keys are let in.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Option<Self> {
        let auth = &settings.auth;
        settings.has_key_store().then(|| Self {
            keys: KeyCacheConfig {
                max_keys: auth.key_cache_keys,
                fresh: Duration::from_millis(auth.key_cache_ms),
                keep: Duration::from_millis(auth.key_cache_keep_ms),
                absent_for: Duration::from_millis(auth.key_cache_absent_ms),
            },
            replicas: settings.ingest.replicas,
            quota_refresh: Duration::from_millis(settings.ingest.quota_refresh_ms),
        })
    }
}
