//! Keeps packs of entities that are large enough to be worth it, beside the sink and never in its way.
//!
//! It is told of what flushes change, and of entities that recall has read row by row.
//!
//! Promises: what a flush says of its entities is taken or dropped at once, never waited for; one entity is packed at a time, and
//! between two the packer rests for longer than it worked; what it reads is bounded by [`due::MAX_ITEMS`]. A packer that fails or
//! is not there costs readers time and nothing else: rows and changes tell everything.
//!
//! Pure: [`due`] (which entity, and when). This file is the shell.

pub mod due;
mod metrics;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::due::{Candidates, is_due};
use crate::plan::EntityRef;
use crate::reads::{ReadError, ReadStore};
use crate::recall::{image, packed};
use crate::store::StoreError;
use crate::store::packs::{NewPacks, PackKind, PackState, PackStore, Packing};

pub use metrics::describe;

/// Flushes that may wait to be taken note of.
const NOTES: usize = 1_024;
/// The packer rests this many times as long as it worked.
const REST_PER_WORK: u32 = 3;
/// And at least this long.
const SHORTEST_REST: Duration = Duration::from_millis(20);
/// How often it looks for candidates whose pause has ended.
const LOOK: Duration = Duration::from_secs(1);

/// What a flush named of an entity: `None` where something was removed.
pub type Named = Option<usize>;

/// Where flushes tell what they changed. Clones tell the same packer.
#[derive(Clone, Debug)]
pub struct PackerHandle(mpsc::Sender<Vec<(EntityRef, Named)>>);

impl PackerHandle {
    /// Takes note; where the packer is behind, it is told nothing, and that is counted.
    pub fn flushed(&self, entities: Vec<(EntityRef, Named)>) {
        if !entities.is_empty() && self.0.try_send(entities).is_err() {
            metrics::note_dropped();
        }
    }
}

/// Where recall tells which entities it has read row by row. Clones tell the same packer, once there is one.
#[derive(Clone, Debug, Default)]
pub struct SlowReads(Arc<OnceLock<PackerHandle>>);

impl SlowReads {
    /// This packer is told from now on, unless there is one.
    pub fn to(&self, packer: PackerHandle) {
        let _ = self.0.set(packer);
    }

    /// Takes note of an entity, however little of it has changed: it is asked for, and packs would have answered sooner.
    pub fn read(&self, entity: EntityRef) {
        if let Some(packer) = self.0.get() {
            packer.flushed(vec![(entity, Some(due::MIN_CHANGES + 1))]);
        }
    }
}

/// Why an entity was not packed.
#[derive(Debug, thiserror::Error)]
enum PackerError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("packing panicked")]
    Panicked,
}

/// What a packer works with: connections of its own, where those are few.
#[derive(Clone)]
pub struct PackerConfig {
    /// Where packs go.
    pub store: Arc<dyn PackStore>,
    /// Where their rows come from.
    pub reads: Arc<dyn ReadStore>,
    /// Of the vectors that recall wants.
    pub model: Option<String>,
}

impl std::fmt::Debug for PackerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackerConfig").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Packs what flushes change.
pub struct Packer {
    config: PackerConfig,
    notes: mpsc::Receiver<Vec<(EntityRef, Named)>>,
}

impl Packer {
    /// A packer, and where it is told.
    #[must_use]
    pub fn new(config: PackerConfig) -> (Self, PackerHandle) {
        let (sender, notes) = mpsc::channel(NOTES);
        (Self { config, notes }, PackerHandle(sender))
    }

    /// Runs until `shutdown`; what it has begun then, it ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut candidates = Candidates::default();
        loop {
            // A note or a shutdown that comes while a pack is written waits for it: nothing is cut off.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                note = self.notes.recv() => match note {
                    Some(note) => candidates.note(Instant::now(), note),
                    None => return,
                },
                () = tokio::time::sleep(LOOK) => {}
            }
            while let Ok(note) = self.notes.try_recv() {
                candidates.note(Instant::now(), note);
            }
            while let Some(entity) = candidates.next(Instant::now()) {
                let began = Instant::now();
                self.pack(&entity).await;
                let rest = (began.elapsed() * REST_PER_WORK).max(SHORTEST_REST);
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(rest) => {}
                }
                while let Ok(note) = self.notes.try_recv() {
                    candidates.note(Instant::now(), note);
                }
            }
        }
    }

    /// Packs an entity, where it is due.
    pub async fn pack(&self, entity: &EntityRef) {
        let began = Instant::now();
        match self.try_pack(entity).await {
            Ok(None) => metrics::ended("not_due"),
            Ok(Some((Packing::Packed, bytes))) => metrics::packed(began.elapsed(), bytes),
            Ok(Some((Packing::Outrun, _))) => metrics::ended("outrun"),
            Err(error) => {
                tracing::warn!(%error, "an entity was not packed; it is read by rows");
                metrics::ended("failed");
            }
        }
    }

    async fn try_pack(&self, entity: &EntityRef) -> Result<Option<(Packing, usize)>, PackerError> {
        let Some(state) = self.config.store.pack_state(entity).await? else { return Ok(None) };
        if !is_due(&state, &packed::made_by(self.config.model.as_deref())) {
            return Ok(None);
        }
        let Some(packs) = self.read(entity, &state).await? else { return Ok(None) };
        let bytes = packs.chunks.iter().flat_map(|(_, chunks)| chunks).map(Bytes::len).sum();
        Ok(Some((self.config.store.put_packs(&packs).await?, bytes)))
    }

    async fn read(&self, entity: &EntityRef, state: &PackState) -> Result<Option<NewPacks>, PackerError> {
        let (tenant, key, generation, model) = (&entity.tenant, &entity.key, state.generation, self.config.model.clone());
        let facts = self.config.reads.fact_rows(tenant, key, generation, model.as_deref()).await?;
        let messages = self.config.reads.message_rows(tenant, key, generation, model.as_deref()).await?;
        // Read one after the other; what came in between is read again as a change, which changes nothing.
        let (Some(version), Some(later)) = (facts.version, messages.version) else { return Ok(None) };
        let entity_key = *key;
        let packing = move || {
            let model = model.as_deref();
            let of_facts = image::pack(&entity_key, &facts, model, image::OUTLINED);
            vec![
                (PackKind::Facts, of_facts.facts),
                (PackKind::Vectors, of_facts.vectors),
                (PackKind::Outline, of_facts.outline),
                (PackKind::Messages, packed::pack_messages(&messages, model)),
                (PackKind::Unnamed, vec![packed::pack_unnamed(&facts.unnamed).into()]),
            ]
        };
        let chunks = tokio::task::spawn_blocking(packing).await.map_err(|_| PackerError::Panicked)?;
        let version = version.min(later);
        let made_by = packed::made_by(self.config.model.as_deref());
        Ok(Some(NewPacks { entity: entity.clone(), generation, made_by, version, chunks }))
    }
}
