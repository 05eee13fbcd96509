//! The shell around recall: reads what is missing, keeps it, and asks the pure parts.
//!
//! Promises: each answer is of a version read after the query came in, so a recall sent after a commit sees it; one entity is
//! read and indexed once at a time, and only a few at once; indexing runs beside the runtime, not on it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use memori_schemas::{EntityKey, Micros, ids};
use tokio::sync::{Mutex, Semaphore};

use super::answer::{Recalled, answer};
use super::cache::{ImageCache, ImageKey, Images};
use super::image::{EntityImage, MessageImage};
use super::query::RecallQuery;
use crate::metrics;
use crate::reads::rows::EntityVersion;
use crate::reads::{ReadError, ReadStore};

/// Bounds of recall.
#[derive(Clone, Copy, Debug)]
pub struct RecallConfig {
    /// Of the cached images.
    pub cache_bytes: usize,
    /// Images that are read and indexed at one time.
    pub loads_at_once: usize,
}

impl Default for RecallConfig {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, loads_at_once: 4 }
    }
}

/// Facts beyond which ranking leaves the runtime's thread.
const LARGE_ENTITY: usize = 20_000;

/// Locks that keep two requests from reading the same entity at once.
const STRIPES: usize = 64;

/// Answers recalls. Clones share the cache.
#[derive(Clone)]
pub struct Recall(Arc<Shared>);

struct Shared {
    store: Arc<dyn ReadStore>,
    cache: ImageCache,
    stripes: Vec<Mutex<()>>,
    loads: Semaphore,
}

impl Recall {
    /// Over a store.
    #[must_use]
    pub fn new(store: Arc<dyn ReadStore>, config: RecallConfig) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let loads = Semaphore::new(config.loads_at_once.max(1));
        Self(Arc::new(Shared { store, cache: ImageCache::new(config.cache_bytes), stripes, loads }))
    }

    /// Answers one query. `route` is a metric's label.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn recall(&self, tenant: &str, query: &RecallQuery, route: &'static str) -> Result<Recalled, ReadError> {
        let began = Instant::now();
        let entity_key = ids::entity_key(tenant, &query.entity_id);
        let facts = self.facts(tenant, entity_key).await?;
        let messages = if query.include_messages { Some(self.messages(tenant, entity_key).await?) } else { None };
        let now = Micros::now();
        let items = facts.facts.len() + messages.as_ref().map_or(0, |messages| messages.messages.len());
        let mut recalled = if items > LARGE_ENTITY {
            let query = query.clone();
            beside(move || answer(&facts, messages.as_deref(), &query, now)).await?
        } else {
            answer(&facts, messages.as_deref(), query, now)
        };
        let took = began.elapsed();
        metrics::recalled(route, took);
        recalled.took_ms = Some((took.as_secs_f64() * 1e6).round() / 1e3);
        Ok(recalled)
    }

    /// What is known of an entity in its active generation, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn facts(&self, tenant: &str, entity_key: EntityKey) -> Result<Arc<EntityImage>, ReadError> {
        let key = ImageKey { tenant: tenant.to_owned(), entity_key };
        let version = self.0.store.entity_version(tenant, &entity_key).await?;
        if version.version.is_none() {
            return Ok(Arc::new(EntityImage { generation: version.generation, ..EntityImage::default() }));
        }
        if let Some(image) = self.0.cache.get(&key).facts.filter(|image| shows(image, version)) {
            metrics::cache_hit("facts");
            return Ok(image);
        }
        let _stripe = self.stripe(&key).lock().await;
        let version = self.0.store.entity_version(tenant, &entity_key).await?;
        let cached = self.0.cache.get(&key);
        if let Some(image) = cached.facts.clone().filter(|image| shows(image, version)) {
            metrics::cache_hit("facts");
            return Ok(image);
        }
        metrics::cache_miss("facts");
        let _load = self.0.loads.acquire().await.map_err(|_| ReadError::Closed)?;
        let image = self.load_facts(tenant, entity_key, version.generation, cached.facts).await?;
        self.0.cache.put(key, Images { facts: Some(image.clone()), messages: cached.messages });
        Ok(image)
    }

    /// What is known of an entity in a generation that is not the active one; not kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn facts_of_generation(
        &self,
        tenant: &str,
        entity_key: EntityKey,
        generation: i32,
    ) -> Result<Arc<EntityImage>, ReadError> {
        let active = self.0.store.entity_version(tenant, &entity_key).await?.generation;
        if active == generation {
            return self.facts(tenant, entity_key).await;
        }
        let _load = self.0.loads.acquire().await.map_err(|_| ReadError::Closed)?;
        self.load_facts(tenant, entity_key, generation, None).await
    }

    async fn load_facts(
        &self,
        tenant: &str,
        entity_key: EntityKey,
        generation: i32,
        previous: Option<Arc<EntityImage>>,
    ) -> Result<Arc<EntityImage>, ReadError> {
        let began = Instant::now();
        let rows = self.0.store.fact_rows(tenant, &entity_key, generation, None).await?;
        let image = beside(move || Arc::new(EntityImage::build(&entity_key, rows, previous.as_deref()))).await?;
        metrics::image_built(began.elapsed());
        Ok(image)
    }

    /// What was said to and by an entity, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn messages(&self, tenant: &str, entity_key: EntityKey) -> Result<Arc<MessageImage>, ReadError> {
        let key = ImageKey { tenant: tenant.to_owned(), entity_key };
        let version = self.0.store.entity_version(tenant, &entity_key).await?;
        if version.version.is_none() {
            return Ok(Arc::default());
        }
        let current =
            |image: &Arc<MessageImage>, version: EntityVersion| image.version == version.version && image.epoch == version.epoch;
        if let Some(image) = self.0.cache.get(&key).messages.filter(|image| current(image, version)) {
            metrics::cache_hit("messages");
            return Ok(image);
        }
        let _stripe = self.stripe(&key).lock().await;
        let version = self.0.store.entity_version(tenant, &entity_key).await?;
        let cached = self.0.cache.get(&key);
        if let Some(image) = cached.messages.clone().filter(|image| current(image, version)) {
            metrics::cache_hit("messages");
            return Ok(image);
        }
        metrics::cache_miss("messages");
        let _load = self.0.loads.acquire().await.map_err(|_| ReadError::Closed)?;
        let began = Instant::now();
        let rows = self.0.store.message_rows(tenant, &entity_key, version.generation, None).await?;
        let previous = cached.messages;
        let image = beside(move || Arc::new(MessageImage::build(&entity_key, rows, previous.as_deref()))).await?;
        metrics::image_built(began.elapsed());
        self.0.cache.put(key, Images { facts: cached.facts, messages: Some(image.clone()) });
        Ok(image)
    }

    fn stripe(&self, key: &ImageKey) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        &self.0.stripes[stripe]
    }
}

fn shows(image: &EntityImage, version: EntityVersion) -> bool {
    image.version == version.version && image.generation == version.generation && image.epoch == version.epoch
}

/// Runs what takes long beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::Closed)
}
