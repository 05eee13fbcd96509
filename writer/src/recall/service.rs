//! The shell around recall: reads what is missing, keeps it, and asks the pure parts.
//!
//! Promises: each answer is of a version read after the query came in, so a recall sent after a commit sees it; one entity is
//! read and indexed once at a time, and only a few at once; an image that is at hand is brought up to date by what changed, not read
//! again; whatever takes longer than about a millisecond runs beside the runtime, and only as many at once as there are
//! processors; the query's vector is waited for no longer than its deadline, and without it words alone answer.
//!
//! In memory are at most the cache's bytes and, while they load, `loads_at_once` more images with the rows that they are made
//! from. An entity whose image is over the cache's bound by itself is answered exactly and read anew each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memori_embedding::{Embedder, Embedding};
use memori_schemas::{EntityKey, FactId, MessageKey, Micros, TextHash, ids};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::answer::{Ranking, Recalled, answer, chosen, told};
use super::cache::{ImageCache, ImageKey, Images};
use super::image::EntityImage;
use super::items::Model;
use super::loading::{Image, Outlining, Whose};
use super::messages::MessageImage;
use super::outline::{self, Outline};
use super::packed::{Analysed, CHUNK_ITEMS, FactChunk, PackError, fact_inputs};
use super::query::RecallQuery;
use super::query_vectors::{NoVector, QueryVectors};
use super::rank_facts::Facts as _;
use crate::metrics;
use crate::packer::SlowReads;
use crate::plan::EntityRef;
use crate::reads::rows::{Changes, EntityVersion, FactRows, Packed};
use crate::reads::{ReadError, ReadStore};

/// Bounds of recall.
#[derive(Clone, Copy, Debug)]
pub struct RecallConfig {
    /// Of the cached images.
    pub cache_bytes: usize,
    /// Images that are read and indexed at one time.
    pub loads_at_once: usize,
    /// Vectors of queries that are kept.
    pub query_vectors: usize,
    /// How long a query's vector is waited for.
    pub query_embedding_timeout: Duration,
}

impl Default for RecallConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            loads_at_once: 4,
            query_vectors: 4_096,
            query_embedding_timeout: Duration::from_millis(100),
        }
    }
}

impl RecallConfig {
    /// As configured.
    #[must_use]
    pub fn from_settings(settings: &memori_service::settings::Writer) -> Self {
        Self {
            cache_bytes: settings.recall_cache_bytes,
            query_embedding_timeout: Duration::from_millis(settings.query_embedding_timeout_ms),
            ..Self::default()
        }
    }
}

/// What ranking may cost on the runtime's own thread: facts, and messages thrice.
const LARGE: usize = 10_000;

/// Items that were read beside packs without the packer being told.
const MANY_CHANGES: usize = 8;
/// Packs that are taken apart on the runtime's own thread.
const SMALL_BYTES: usize = 2 << 20;

/// Locks that keep two requests from reading the same entity at once.
const STRIPES: usize = 1_024;

/// Answers recalls. Clones share the cache.
#[derive(Clone)]
pub struct Recall(Arc<Shared>);

struct Shared {
    store: Arc<dyn ReadStore>,
    cache: ImageCache,
    stripes: Vec<Mutex<()>>,
    /// Its permits go with the work, which goes on when whoever asked is gone.
    loads: Arc<Semaphore>,
    large: Arc<Semaphore>,
    vectors: Option<QueryVectors>,
    slow_reads: SlowReads,
}

/// What is known of an entity, and what was said where that is asked for.
type Known = (Arc<EntityImage>, Option<Arc<MessageImage>>);

/// What was read for one query.
enum Read {
    Known(Known),
    Outlined(Outlined),
}

/// What was read of an entity of which nothing was at hand.
enum Loaded<I> {
    Image(Arc<I>),
    Outline(Outlined),
}

/// What ranks an entity's facts at a version.
struct Outlined {
    outline: Arc<Outline>,
    entity_key: EntityKey,
    version: EntityVersion,
}

/// A query's vector, or why there is none.
type Vector = Result<Arc<Embedding>, NoVector>;

impl Recall {
    /// Over a store, by words alone.
    #[must_use]
    pub fn new(store: Arc<dyn ReadStore>, config: RecallConfig) -> Self {
        Self::with_embedder(store, config, None)
    }

    /// Over a store, with the model that its vectors are compared by.
    #[must_use]
    pub fn with_embedder(store: Arc<dyn ReadStore>, config: RecallConfig, embedder: Option<Arc<dyn Embedder>>) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self(Arc::new(Shared {
            store,
            cache: ImageCache::new(config.cache_bytes),
            stripes,
            loads: Arc::new(Semaphore::new(config.loads_at_once.max(1))),
            large: Arc::new(Semaphore::new(processors)),
            vectors: embedder
                .map(|embedder| QueryVectors::new(embedder, config.query_vectors.max(1), config.query_embedding_timeout)),
            slow_reads: SlowReads::default(),
        }))
    }

    /// Where a packer is to hear of entities that are read row by row.
    #[must_use]
    pub fn slow_reads(&self) -> SlowReads {
        self.0.slow_reads.clone()
    }

    fn model(&self) -> Option<&Model> {
        self.0.vectors.as_ref().map(QueryVectors::model)
    }

    fn model_id(&self) -> Option<&str> {
        self.model().map(|model| &*model.id)
    }

    /// Answers one query. `route` is a metric's label.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn recall(&self, tenant: &str, query: &RecallQuery, route: &'static str) -> Result<Recalled, ReadError> {
        let began = Instant::now();
        // The image is read while the vector is made.
        let (vector, read) = tokio::join!(self.vector_of(query), self.read(tenant, query));
        let known = match read? {
            Read::Known(known) => known,
            Read::Outlined(outlined) => match self.told(tenant, query, &vector, outlined, began, route).await? {
                Some(recalled) => return Ok(recalled),
                None => self.known(tenant, query).await?,
            },
        };
        self.answered(query, vector, known, began, route).await
    }

    /// What is known, or where nothing of it is at hand what ranks it, if that is enough for the query.
    async fn read(&self, tenant: &str, query: &RecallQuery) -> Result<Read, ReadError> {
        let key = ImageKey { tenant: tenant.to_owned(), entity_key: ids::entity_key(tenant, &query.entity_id) };
        if outline::can_answer(query) && self.0.cache.get(&key).facts.is_none() {
            let this = self.clone();
            match to_its_end(async move { this.loaded_at_once(key, true).await }).await? {
                Some(Loaded::Image(facts)) => return Ok(Read::Known((facts, None))),
                Some(Loaded::Outline(outlined)) => return Ok(Read::Outlined(outlined)),
                None => {}
            }
        }
        Ok(Read::Known(self.known(tenant, query).await?))
    }

    /// The answer by what ranks the facts, with what is shown of them read besides; `None` where the entity has changed in between.
    async fn told(
        &self,
        tenant: &str,
        query: &RecallQuery,
        vector: &Vector,
        outlined: Outlined,
        began: Instant,
        route: &'static str,
    ) -> Result<Option<Recalled>, ReadError> {
        let Outlined { outline, entity_key, version } = outlined;
        let (ranking, vector) = self.ranking(vector, outline.model().is_some());
        let now = Micros::now();
        let chosen = if outline.len() > LARGE {
            let (outline, query, large) = (outline.clone(), query.clone(), permit(&self.0.large).await?);
            beside(move || {
                let _large = large;
                chosen(&outline, &query, vector.as_deref(), now)
            })
            .await?
        } else {
            chosen(&outline, query, vector.as_deref(), now)
        };
        let (mut fact_ids, mut chunks) = (Vec::new(), Vec::new());
        for one in chosen.facts.iter().chain(&chosen.instructions) {
            match outline.digest_chunk(one.number) {
                None => fact_ids.push(outline.fact_id(one.number)),
                Some(chunk) if chunks.contains(&chunk) => {}
                Some(chunk) => chunks.push(chunk),
            }
        }
        let store = &self.0.store;
        let (later, rows, chunks) =
            store.named_facts(tenant, &entity_key, version.generation, self.model_id(), &fact_ids, &chunks).await?;
        let unchanged = (later.version, later.epoch, later.generation) == (version.version, version.epoch, version.generation);
        if !unchanged {
            return Ok(None);
        }
        let Ok(chunks) = shown_facts(&rows, chunks) else { return Ok(None) };
        let fact_id = |number| outline.fact_id(number);
        let Some(recalled) = told(chosen, fact_id, &chunks, version.generation, query, now) else { return Ok(None) };
        metrics::ranked(ranking.recipe, ranking.reason.unwrap_or("none"));
        self.completed(ImageKey { tenant: tenant.to_owned(), entity_key }, version, &outline);
        Ok(Some(timed(recalled, ranking, query, began, route)))
    }

    /// Reads the whole image beside the request, where it may be kept and nobody waits to read another.
    fn completed(&self, key: ImageKey, version: EntityVersion, outline: &Outline) {
        if self.0.cache.has_room_for(outline.image_bytes() + key.tenant.len()) && self.0.loads.available_permits() > 0 {
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.loaded_and_kept::<EntityImage>(key, version).await {
                    tracing::debug!(%error, "an image was not read ahead; whoever asks next reads it");
                }
            });
        }
    }

    /// By what an answer is ranked, and the vector for it.
    fn ranking(&self, vector: &Vector, has_vectors: bool) -> (Ranking, Option<Arc<Embedding>>) {
        let vector = vector.clone().and_then(|vector| if has_vectors { Ok(vector) } else { Err(NoVector::NoVectors) });
        let ranking = match (&vector, self.model_id()) {
            (Ok(_), Some(model)) => Ranking::with_vectors(model),
            (Err(why), _) => Ranking::lexical(why.as_str()),
            (Ok(_), None) => Ranking::lexical(NoVector::NoModel.as_str()),
        };
        (ranking, vector.ok())
    }

    /// As [`Self::recall`], of one generation, whichever the tenant reads: what an extractor for it asks.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn recall_of(
        &self,
        tenant: &str,
        query: &RecallQuery,
        generation: i32,
        route: &'static str,
    ) -> Result<Recalled, ReadError> {
        let began = Instant::now();
        let entity_key = ids::entity_key(tenant, &query.entity_id);
        let (vector, facts) = tokio::join!(self.vector_of(query), self.facts_of_generation(tenant, entity_key, generation));
        self.answered(query, vector, (facts?, None), began, route).await
    }

    /// Answers several queries, whose vectors are asked for in one call; each has its own answer or error.
    pub async fn recall_all(
        &self,
        tenant: &str,
        queries: &[RecallQuery],
        route: &'static str,
    ) -> Vec<Result<Recalled, ReadError>> {
        let mut vectors: Vec<Option<Vector>> = self.vectors_of(queries).await.into_iter().map(Some).collect();
        // Entity by entity, so that an image too large for the cache is read once; those with messages first, for the same reason.
        let mut order: Vec<usize> = (0..queries.len()).collect();
        order.sort_by_key(|at| (&queries[*at].entity_id, !queries[*at].include_messages));
        let mut answers: Vec<Option<Result<Recalled, ReadError>>> = queries.iter().map(|_| None).collect();
        let mut last: Option<(&str, Known)> = None;
        for at in order {
            let (query, began) = (&queries[at], Instant::now());
            let known = match last.take() {
                Some((entity_id, known)) if entity_id == query.entity_id => Ok(known),
                _ => self.known(tenant, query).await,
            };
            answers[at] = Some(match known {
                Ok((facts, messages)) => {
                    let vector = vectors[at].take().unwrap_or(Err(NoVector::NoModel));
                    let asked_for = messages.clone().filter(|_| query.include_messages);
                    last = Some((&query.entity_id, (facts.clone(), messages)));
                    self.answered(query, vector, (facts, asked_for), began, route).await
                }
                Err(error) => Err(error),
            });
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(ReadError::Closed))).collect()
    }

    async fn vector_of(&self, query: &RecallQuery) -> Vector {
        self.vectors_of(std::slice::from_ref(query)).await.pop().unwrap_or(Err(NoVector::NoModel))
    }

    async fn vectors_of(&self, queries: &[RecallQuery]) -> Vec<Vector> {
        let Some(vectors) = &self.0.vectors else {
            let none = |query: &RecallQuery| Err(if query.vectors { NoVector::NoModel } else { NoVector::NotWanted });
            return queries.iter().map(none).collect();
        };
        let wanted: Vec<&str> = queries.iter().filter(|query| query.vectors).map(|query| query.query.as_str()).collect();
        let mut made = if wanted.is_empty() { Vec::new() } else { vectors.of(&wanted).await }.into_iter();
        let of = |query: &RecallQuery| {
            if query.vectors { made.next().unwrap_or(Err(NoVector::NoModel)) } else { Err(NoVector::NotWanted) }
        };
        queries.iter().map(of).collect()
    }

    async fn known(&self, tenant: &str, query: &RecallQuery) -> Result<Known, ReadError> {
        let entity_key = ids::entity_key(tenant, &query.entity_id);
        loop {
            let facts = self.facts(tenant, entity_key).await?;
            let messages = if query.include_messages { Some(self.messages(tenant, entity_key).await?) } else { None };
            // Between the two somebody may have switched the tenant to another generation: an answer is of one.
            if messages.as_ref().is_none_or(|messages| messages.generation == facts.generation) {
                return Ok((facts, messages));
            }
        }
    }

    async fn answered(
        &self,
        query: &RecallQuery,
        vector: Vector,
        (facts, messages): Known,
        began: Instant,
        route: &'static str,
    ) -> Result<Recalled, ReadError> {
        let has_vectors = facts.model().is_some() || messages.as_ref().is_some_and(|messages| messages.model().is_some());
        let (ranking, vector) = self.ranking(&vector, has_vectors);
        metrics::ranked(ranking.recipe, ranking.reason.unwrap_or("none"));
        let now = Micros::now();
        let cost = facts.len() + messages.as_ref().map_or(0, |messages| messages.len() * 3);
        let recalled = if cost > LARGE {
            let query = query.clone();
            let large = permit(&self.0.large).await?;
            beside(move || {
                let _large = large;
                answer(&facts, messages.as_deref(), &query, vector.as_deref(), now)
            })
            .await?
        } else {
            answer(&facts, messages.as_deref(), query, vector.as_deref(), now)
        };
        Ok(timed(recalled, ranking, query, began, route))
    }

    /// What is known of an entity in its active generation, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn facts(&self, tenant: &str, entity_key: EntityKey) -> Result<Arc<EntityImage>, ReadError> {
        self.image(tenant, entity_key).await
    }

    /// What was said to and by an entity, as of the last commit.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn messages(&self, tenant: &str, entity_key: EntityKey) -> Result<Arc<MessageImage>, ReadError> {
        self.image(tenant, entity_key).await
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
        let active = self.0.store.entity_version(tenant, &entity_key).await?;
        if active.generation == generation {
            return self.facts(tenant, entity_key).await;
        }
        let (this, tenant) = (self.clone(), tenant.to_owned());
        let version = EntityVersion { generation, ..active };
        to_its_end(async move { this.loaded(&tenant, entity_key, version, None).await }).await
    }

    /// As [`EntityImage::digest`], beside the runtime: digests that came packed are made again, from all facts.
    ///
    /// # Errors
    /// The process is stopping.
    pub async fn digest(
        &self,
        image: &Arc<EntityImage>,
        entity_key: EntityKey,
        fact_id: FactId,
    ) -> Result<Option<(TextHash, Vec<(FactId, MessageKey)>)>, ReadError> {
        if image.find(fact_id).is_none() {
            return Ok(None);
        }
        let (large, image) = (permit(&self.0.large).await?, image.clone());
        beside(move || {
            let _large = large;
            image.digest(&entity_key, fact_id)
        })
        .await
    }

    /// The image of the active generation: the cached one where it is still true.
    async fn image<I: Image>(&self, tenant: &str, entity_key: EntityKey) -> Result<Arc<I>, ReadError> {
        let key = ImageKey { tenant: tenant.to_owned(), entity_key };
        if I::cached(&self.0.cache.get(&key)).is_none() {
            let (this, key) = (self.clone(), key.clone());
            if let Some(Loaded::Image(image)) = to_its_end(async move { this.loaded_at_once(key, false).await }).await? {
                return Ok(image);
            }
        }
        let version = self.0.store.entity_version(tenant, &entity_key).await?;
        if version.version.is_none() {
            return Ok(Arc::new(I::empty(version.generation)));
        }
        if let Some(image) = still_true(&self.0.cache.get(&key), version) {
            metrics::cache_hit(I::PART);
            return Ok(image);
        }
        let this = self.clone();
        to_its_end(async move { this.loaded_and_kept(key, version).await }).await
    }

    /// Where nothing is at hand and nobody is in the way: version and packs in one statement, or what ranks them where that is enough.
    /// `None` where somebody is.
    async fn loaded_at_once<I: Image>(&self, key: ImageKey, outline_will_do: bool) -> Result<Option<Loaded<I>>, ReadError> {
        let Ok(_stripe) = self.stripe(&key).try_lock() else { return Ok(None) };
        let Ok(_load) = self.0.loads.clone().try_acquire_owned() else { return Ok(None) };
        let cached = self.0.cache.get(&key);
        if I::cached(&cached).is_some() {
            return Ok(None);
        }
        let began = Instant::now();
        let store = &*self.0.store;
        // Each chunk is taken apart while the next one comes.
        let (mut chunks, mut size) = (Ok(I::Chunks::default()), 0);
        let mut take = |kind, bytes: Bytes| {
            if let Ok(taken) = &mut chunks {
                size += bytes.len();
                if let Err(error) = I::take(taken, kind, bytes) {
                    chunks = Err(error);
                }
            }
        };
        let whose = (&*key.tenant, &key.entity_key, self.model_id());
        let (version, packed) = I::as_packed(store, whose, outline_will_do, &mut take).await?;
        if version.version.is_none() {
            return Ok(Some(Loaded::Image(Arc::new(I::empty(version.generation)))));
        }
        metrics::cache_miss(I::PART);
        let chunks = match chunks.and_then(|chunks| I::outline(chunks, self.model())) {
            Ok(Outlining::Known(outline)) => {
                metrics::image_built("outline", began.elapsed());
                let outlined = Outlined { outline: Arc::new(outline), entity_key: key.entity_key, version };
                return Ok(Some(Loaded::Outline(outlined)));
            }
            Ok(Outlining::Unknown) => None,
            Ok(Outlining::Whole(chunks)) => Some(Ok(chunks)),
            Err(error) => Some(Err(error)),
        };
        let unpacked = match packed.zip(chunks) {
            Some(((unnamed, since), chunks)) => {
                let (model, entity_key) = (self.model().cloned(), key.entity_key);
                let unpack = move || I::of_chunks(&entity_key, chunks?, unnamed, &since, model.as_ref()).map(Arc::new);
                used(if size < SMALL_BYTES { unpack() } else { beside(unpack).await? }, began)
            }
            None => None,
        };
        let image = match unpacked {
            Some(image) => image,
            None => self.load(&key.tenant, key.entity_key, version, None).await?,
        };
        self.0.cache.put(key, I::cache(cached, image.clone()));
        Ok(Some(Loaded::Image(image)))
    }

    /// One entity is read once at a time: whoever had to wait finds what another has read.
    async fn loaded_and_kept<I: Image>(&self, key: ImageKey, version: EntityVersion) -> Result<Arc<I>, ReadError> {
        let stripe = self.stripe(&key);
        // Who had to wait reads the version again: it has changed where others wait, too.
        let (_stripe, version) = match stripe.try_lock() {
            Ok(held) => (held, version),
            Err(_) => (stripe.lock().await, self.0.store.entity_version(&key.tenant, &key.entity_key).await?),
        };
        let cached = self.0.cache.get(&key);
        if let Some(image) = still_true(&cached, version) {
            metrics::cache_hit(I::PART);
            return Ok(image);
        }
        metrics::cache_miss(I::PART);
        let image = self.loaded(&key.tenant, key.entity_key, version, I::cached(&cached).cloned()).await?;
        self.0.cache.put(key, I::cache(cached, image.clone()));
        Ok(image)
    }

    /// As [`Self::load`], one of a bounded number at a time.
    async fn loaded<I: Image>(
        &self,
        tenant: &str,
        entity_key: EntityKey,
        version: EntityVersion,
        previous: Option<Arc<I>>,
    ) -> Result<Arc<I>, ReadError> {
        let _load = permit(&self.0.loads).await?;
        self.load(tenant, entity_key, version, previous).await
    }

    /// From the least that must be read: what changed since `previous`, else packs and what changed since them, else all rows.
    async fn load<I: Image>(
        &self,
        tenant: &str,
        entity_key: EntityKey,
        version: EntityVersion,
        previous: Option<Arc<I>>,
    ) -> Result<Arc<I>, ReadError> {
        let began = Instant::now();
        let generation = version.generation;
        let whose = Whose { store: &*self.0.store, tenant, entity_key: &entity_key, generation, model: self.model_id() };
        if let Some((image, shown)) = previous.as_ref().and_then(|image| Some((image.clone(), image.shown(generation)?)))
            && version.tells_since(shown)
            && let Changes::Since(rows) = I::changes_since(whose, shown).await?
        {
            let image = beside(move || Arc::new(image.with(&entity_key, &rows))).await?;
            metrics::image_built("changes", began.elapsed());
            return Ok(image);
        }
        if version.packed_version.is_some()
            && let Some(packed) = I::packs(whose).await?
        {
            if I::items_of(&packed.since) > MANY_CHANGES {
                self.0.slow_reads.read(EntityRef { tenant: tenant.to_owned(), key: entity_key });
            }
            if let Some(image) = self.unpacked(entity_key, packed, began).await? {
                return Ok(image);
            }
        }
        self.0.slow_reads.read(EntityRef { tenant: tenant.to_owned(), key: entity_key });
        let rows = I::rows(whose).await?;
        let model = self.model().cloned();
        let image = beside(move || Arc::new(I::of_rows(&entity_key, rows, model.as_ref(), previous.as_deref()))).await?;
        metrics::image_built("rows", began.elapsed());
        Ok(image)
    }

    /// From packs; `None` where they cannot be used. The rows stay the truth; the packer writes them anew once enough has changed.
    async fn unpacked<I: Image>(
        &self,
        entity_key: EntityKey,
        packed: Packed<I::Rows>,
        began: Instant,
    ) -> Result<Option<Arc<I>>, ReadError> {
        let small = packed.chunks.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < SMALL_BYTES;
        let model = self.model().cloned();
        let unpack = move || I::of_packs(&entity_key, packed, model.as_ref()).map(Arc::new);
        Ok(used(if small { unpack() } else { beside(unpack).await? }, began))
    }

    fn stripe(&self, key: &ImageKey) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        &self.0.stripes[stripe]
    }
}

/// Facts by their rows and by packed chunks of them, as chunks that can be shown.
fn shown_facts(rows: &FactRows, chunks: Vec<Bytes>) -> Result<Vec<FactChunk>, PackError> {
    // Nobody looks for words in them.
    let inputs = fact_inputs(rows, None, |_| Some(Analysed::default()));
    let of_rows = inputs.chunks(CHUNK_ITEMS).map(FactChunk::of).map(Ok);
    of_rows.chain(chunks.into_iter().map(FactChunk::without_vectors)).collect()
}

/// An answer with what the shell knows of it.
fn timed(recalled: Recalled, ranking: Ranking, query: &RecallQuery, began: Instant, route: &'static str) -> Recalled {
    let took = began.elapsed();
    metrics::recalled(route, took);
    let took_ms = Some((took.as_secs_f64() * 1e6).round() / 1e3);
    Recalled { ranking: query.explain.then_some(ranking), took_ms, ..recalled }
}

fn used<I: Image>(unpacked: Result<Arc<I>, PackError>, began: Instant) -> Option<Arc<I>> {
    match unpacked {
        Ok(image) => {
            metrics::image_built("packs", began.elapsed());
            Some(image)
        }
        Err(error) => {
            metrics::pack_refused(error.label());
            tracing::warn!(%error, "a packed chunk is not used; the rows are read");
            None
        }
    }
}

fn still_true<I: Image>(images: &Images, version: EntityVersion) -> Option<Arc<I>> {
    I::cached(images).filter(|image| image.shows(version)).cloned()
}

/// Reads on when whoever asked is gone: the permits and locks of a load cover all that it does, and what it read is kept.
async fn to_its_end<T: Send + 'static>(
    load: impl Future<Output = Result<T, ReadError>> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::spawn(load).await.map_err(|_| ReadError::Closed)?
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ReadError> {
    of.clone().acquire_owned().await.map_err(|_| ReadError::Closed)
}

/// Runs what takes long beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::Closed)
}
