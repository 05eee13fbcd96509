//! Keys of the key store at this front door: remembered, asked for, and told of when they were used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use memori_schemas::Micros;
use memori_service::auth::key_cache::{KeyCache, KeyCacheConfig, Look};
use memori_service::auth::{Denied, EVERY_TENANT, Grant, KeyId, PresentedKey, Principal};
use memori_service::problem::{Answer, Problem};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, WriterBackend};
use crate::metrics;

/// How long a question may take before what is remembered has to do.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nobody asks after a question that failed.
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// Keys whose questions do not wait for each other.
const LANES: usize = 64;
/// Between two messages of what was used.
const USES_PAUSE: Duration = Duration::from_secs(5);
/// Uses that wait to be told; of more the times are lost, not the keys.
const MAX_USES: usize = 10_000;
/// Uses of one message.
const USES_A_MESSAGE: usize = 1_000;

/// The keys.
pub(crate) struct KeyStore {
    backend: WriterBackend,
    cache: Mutex<KeyCache>,
    /// Who asks for a key holds its lane; who waits there finds it answered.
    lanes: Vec<tokio::sync::Mutex<()>>,
    away_until: Mutex<Option<Instant>>,
    uses: Mutex<HashMap<KeyId, i64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeyStore {
    pub(crate) fn start(backend: WriterBackend, config: KeyCacheConfig, draining: CancellationToken) -> Arc<Self> {
        let store = Arc::new(Self {
            backend,
            cache: Mutex::new(KeyCache::new(config)),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::new(())).collect(),
            away_until: Mutex::new(None),
            uses: Mutex::default(),
        });
        tokio::spawn(tell_of_uses(Arc::downgrade(&store), draining));
        store
    }

    /// Who calls with this key.
    ///
    /// # Errors
    /// 401 and 403 as [`Denied`] says; 503 where the key is not remembered and nobody can be asked.
    pub(crate) async fn admit(self: &Arc<Self>, presented: &PresentedKey) -> Answer<Principal> {
        let now_us = Micros::now().0;
        let grant = self.grant(presented.id).await?;
        let admitted = grant.ok_or(Denied::Unknown).and_then(|grant| grant.admit(presented, now_us));
        match admitted {
            Ok(principal) => {
                self.note_use(presented.id, now_us);
                Ok(principal)
            }
            Err(denied) => {
                metrics::key_denied(denied);
                Err(denied.to_problem())
            }
        }
    }

    async fn grant(self: &Arc<Self>, id: KeyId) -> Answer<Option<Arc<Grant>>> {
        match self.look(id) {
            Look::Fresh { grant, refresh } => {
                if refresh {
                    let this = Arc::clone(self);
                    tokio::spawn(async move {
                        if this.ask(id).await.is_err() {
                            lock(&this.cache).not_refreshed(id);
                        }
                    });
                }
                return Ok(Some(grant));
            }
            Look::Absent => return Ok(None),
            Look::Stale(_) | Look::Unknown => {}
        }
        let _asking = self.lanes[lane_of(id)].lock().await;
        // Who was here first may have been answered.
        let remembered = match self.look(id) {
            Look::Fresh { grant, .. } => return Ok(Some(grant)),
            Look::Absent => return Ok(None),
            Look::Stale(grant) => Some(grant),
            Look::Unknown => None,
        };
        match self.ask(id).await {
            Ok(grant) => Ok(grant),
            Err(_) if remembered.is_some() => {
                metrics::key_looked_up("remembered");
                Ok(remembered)
            }
            Err(_) => Err(Problem::unavailable("the key store, which knows the key, does not answer now", 1)),
        }
    }

    fn look(&self, id: KeyId) -> Look {
        lock(&self.cache).look(id, Instant::now())
    }

    /// Asks the writer, and remembers what it says.
    async fn ask(&self, id: KeyId) -> Result<Option<Arc<Grant>>, ()> {
        let begun = Instant::now();
        if lock(&self.away_until).is_some_and(|until| begun < until) {
            return Err(());
        }
        let question = json!({"key_ids": [id]});
        let answer = self.backend.ask(EVERY_TENANT, "/internal/v1/keys/grants", Some(&question), ASK_TIMEOUT).await;
        let found = answer.and_then(|answer| {
            let grants = answer.map(|mut answer| answer["grants"].take()).unwrap_or_default();
            serde_json::from_value::<Vec<Grant>>(grants)
                .map_err(|_| BackendError::Unreachable("its keys are not as agreed".into()))
        });
        match found {
            Ok(grants) => {
                let grant = grants.into_iter().find(|grant| grant.key_id == id).map(Arc::new);
                metrics::key_looked_up(if grant.is_some() { "found" } else { "unknown" });
                let mut cache = lock(&self.cache);
                // From before the question on: what changed meanwhile is not taken for asked.
                cache.learned(id, grant.clone(), begun);
                metrics::level(metrics::KEYS_REMEMBERED, cache.len());
                *lock(&self.away_until) = None;
                Ok(grant)
            }
            Err(error) => {
                metrics::key_looked_up("unanswered");
                tracing::warn!(%error, "the key store does not answer");
                *lock(&self.away_until) = Some(Instant::now() + AWAY_PAUSE);
                Err(())
            }
        }
    }

    fn note_use(&self, id: KeyId, now_us: i64) {
        let mut uses = lock(&self.uses);
        if uses.len() < MAX_USES || uses.contains_key(&id) {
            uses.insert(id, now_us);
        }
    }

    /// Tells the writer when keys were used. What it does not take is lost: it is said again with the next use.
    async fn tell(&self) {
        let uses: Vec<(KeyId, i64)> = lock(&self.uses).drain().collect();
        for some in uses.chunks(USES_A_MESSAGE) {
            let uses: Vec<_> = some.iter().map(|(id, at_us)| json!({"key_id": id, "at_us": at_us})).collect();
            let told =
                self.backend.ask(EVERY_TENANT, "/internal/v1/keys/used", Some(&json!({"uses": uses})), ASK_TIMEOUT * 5).await;
            if let Err(error) = told {
                tracing::debug!(%error, "when keys were used is not noted");
                return;
            }
        }
    }
}

fn lane_of(id: KeyId) -> usize {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}

/// Now and then, and once more when the process ends.
async fn tell_of_uses(store: Weak<KeyStore>, draining: CancellationToken) {
    loop {
        let ending = draining.run_until_cancelled(tokio::time::sleep(USES_PAUSE)).await.is_none();
        let Some(store) = store.upgrade() else { return };
        store.tell().await;
        if ending {
            return;
        }
    }
}
