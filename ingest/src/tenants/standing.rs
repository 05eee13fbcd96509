//! How tenants stand with their quotas, asked of the writer now and then for those that call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use memori_schemas::Micros;
use memori_service::auth::EVERY_TENANT;
use memori_service::problem::Answer;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::quotas::{Limits, Quota, QuotaBook, Refusal, SpoolLevel, Standing};
use crate::backend::{BackendError, WriterBackend};
use crate::metrics;

/// Tenants that are remembered.
const MAX_TENANTS: usize = 10_000;
/// Tenants of one question.
const A_QUESTION: usize = 1_000;
/// How long a question may take; the first of a tenant holds its request up.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A tenant that has not called for so long is not asked about.
const LIVELY: Duration = Duration::from_secs(60);

/// The quotas of this front door.
pub(crate) struct Standings {
    backend: WriterBackend,
    book: Mutex<QuotaBook>,
    /// One first question at a time: whoever waits finds it answered.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Told {
    day: i64,
    standings: Vec<OfTenant>,
}

#[derive(Deserialize)]
struct OfTenant {
    tenant: String,
    quotas: Limits,
    facts: i64,
    tokens: i64,
}

impl Standings {
    pub(crate) fn start(backend: WriterBackend, replicas: u32, refresh: Duration, draining: CancellationToken) -> Arc<Self> {
        let book = Mutex::new(QuotaBook::new(replicas, MAX_TENANTS));
        let standings = Arc::new(Self { backend, book, asking: tokio::sync::Mutex::new(()) });
        tokio::spawn(refresh_until(Arc::downgrade(&standings), refresh, draining));
        standings
    }

    fn book(&self) -> MutexGuard<'_, QuotaBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about a tenant that calls for the first time. Where nobody answers, it is let through until somebody does.
    async fn meet(&self, tenant: &str) {
        if self.book().knows(tenant) {
            return;
        }
        let _asking = self.asking.lock().await;
        if self.book().knows(tenant) {
            return;
        }
        if let Err(error) = self.ask(&[tenant.into()]).await {
            tracing::warn!(%error, "how a tenant stands with its quotas is not known");
            self.book().learned(tenant, Standing::default(), Instant::now());
        }
    }

    async fn ask(&self, tenants: &[Arc<str>]) -> Result<(), BackendError> {
        let question = json!({"tenants": tenants});
        let answer = self.backend.ask(EVERY_TENANT, "/internal/v1/tenants/standings", Some(&question), ASK_TIMEOUT).await?;
        let told: Told = serde_json::from_value(answer.unwrap_or_default())
            .map_err(|_| BackendError::Unreachable("its quotas are not as agreed".to_owned()))?;
        let day = told.day;
        let mut of: HashMap<String, OfTenant> = told.standings.into_iter().map(|of| (of.tenant.clone(), of)).collect();
        let now = Instant::now();
        let mut book = self.book();
        for tenant in tenants {
            // Whom the store does not know has no bounds there.
            let standing = of.remove(&**tenant).map(|of| Standing { limits: of.quotas, facts: of.facts, tokens: of.tokens, day });
            book.learned(tenant, standing.unwrap_or_default(), now);
        }
        Ok(())
    }

    /// How many of `wanted` events of a tenant are taken; where not all, why. `spool` is asked only where it matters.
    pub(crate) async fn events(
        &self,
        tenant: &str,
        wanted: usize,
        spool: impl FnOnce() -> Option<SpoolLevel>,
    ) -> (usize, Option<Refusal>) {
        self.meet(tenant).await;
        let level = if self.book().shares_spool(tenant) { spool() } else { None };
        let (taken, refusal) = self.book().events(tenant, wanted, level, Instant::now(), Micros::now().0);
        if let Some(refusal) = refusal {
            metrics::quota_refused(refusal.quota, wanted - taken);
        }
        (taken, refusal)
    }

    /// Whether a tenant's queries have to be counted.
    pub(crate) async fn limits_recalls(&self, tenant: &str) -> bool {
        self.meet(tenant).await;
        self.book().limits_recalls(tenant)
    }

    /// Passes where so many queries are answered.
    ///
    /// # Errors
    /// 429.
    pub(crate) fn recalls(&self, tenant: &str, queries: usize) -> Answer<()> {
        self.book().recalls(tenant, queries, Instant::now()).map_err(|refusal| {
            metrics::quota_refused(Quota::RecallsPerSecond, queries);
            refusal.to_problem()
        })
    }
}

async fn refresh_until(standings: Weak<Standings>, refresh: Duration, draining: CancellationToken) {
    while draining.run_until_cancelled(tokio::time::sleep(refresh)).await.is_some() {
        let Some(standings) = standings.upgrade() else { return };
        let Some(since) = Instant::now().checked_sub(LIVELY) else { continue };
        let lively = standings.book().lively(since);
        for some in lively.chunks(A_QUESTION) {
            if let Err(error) = standings.ask(some).await {
                tracing::debug!(%error, "how tenants stand with their quotas is not known anew");
                break;
            }
        }
        metrics::quotas_used(standings.book().nearest(since, Micros::now().0));
    }
}
