//! Generations, for the workers in this process: the store's own.

use std::sync::Arc;

use async_trait::async_trait;
use memori_augment_worker::replay::{Generations, GenerationsError, Made};
use memori_schemas::ContentHash;
use memori_service::generations::Followed;
use memori_writer::generations::{self as kept, GenerationStore};

/// Generations as workers ask for them.
pub(super) struct Kept(pub(super) Arc<dyn GenerationStore>);

#[async_trait]
impl Generations for Kept {
    async fn followed(&self) -> Result<Followed, GenerationsError> {
        self.0.followed().await.map_err(|error| GenerationsError(error.to_string()))
    }

    async fn made(
        &self,
        tenant: &str,
        entity_id: &str,
        generation: i32,
        events: &[(String, ContentHash)],
    ) -> Result<Vec<Made>, GenerationsError> {
        let made = self.0.made_of(tenant, entity_id, generation, events).await;
        let made = made.map_err(|error| GenerationsError(error.to_string()))?;
        let one = |made| match made {
            kept::Made::Pending => Made::Pending,
            kept::Made::Dead => Made::Dead,
            kept::Made::Facts(facts) => Made::Facts(facts),
        };
        Ok(made.into_iter().map(one).collect())
    }
}
