//! Which generations are dropped, for the sink: what still arrives of them is passed over.
//!
//! A rebuild reads their records too, so the sink does not begin before this is known.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use memori_service::generations::Followed;
use tokio_util::sync::CancellationToken;

use super::GenerationStore;
use crate::reads::ReadError;

/// How often a sink asks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is dropped, as it was last heard.
#[derive(Clone, Debug, Default)]
pub struct DroppedGenerations(Arc<RwLock<Followed>>);

impl DroppedGenerations {
    /// Whether a record of this generation and tenant is passed over.
    #[must_use]
    pub fn contains(&self, tenant: &str, generation: i32) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_dropped(tenant, generation)
    }

    /// Asks once.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn look(&self, store: &dyn GenerationStore) -> Result<(), ReadError> {
        let followed = store.followed().await?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Followed { generations: Vec::new(), ..followed };
        Ok(())
    }
}

/// Asks again and again until `stop`.
pub async fn follow_dropped_until(dropped: DroppedGenerations, store: Arc<dyn GenerationStore>, stop: CancellationToken) {
    let following = async {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Err(error) = dropped.look(&*store).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "which generations are dropped could not be read");
            }
        }
    };
    stop.run_until_cancelled(following).await;
}
