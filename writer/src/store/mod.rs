//! Where the view lives: one seam over SQLite and Postgres, and the one flush that both run.
//!
//! Promises: a flush is one transaction, and its offsets move in it; where another has moved them, it fails and writes nothing.
//! It locks its offset rows, then the rows of its entities in key order, and only then reads (READ COMMITTED: each read is a
//! statement after the locks), so flushes of several writers that meet on one entity come one after the other.

mod cells;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dump;
pub(crate) mod failpoint;
pub mod packs;
pub mod postgres;
pub mod sqlite;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use memori_schemas::Lane;

use crate::plan::{
    self, DeadLetterKey, DeadLetterRow, EntityBatch, EntityRef, EntityView, EntityWrites, ImageChange, Needs, OutcomeKind,
    Upserts,
};

pub use dump::Dump;

/// The advisory lock, in Postgres, that all flushes share and a switch between generations has alone.
macro_rules! flushes_lock {
    () => {
        "7308620018"
    };
}
pub(crate) use flushes_lock;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may work when it is repeated: the server is away, a deadlock, a lock or statement timeout.
    #[error("the store cannot do it now: {0}")]
    Retry(String),
    /// The answer to COMMIT was lost: it may or may not have happened. Repeat with [`FlushInput::unsure`].
    #[error("the store did not confirm the commit: {0}")]
    CommitUnknown(String),
    /// Another writer has moved these offsets. Nothing was written.
    #[error("another writer has moved the offsets of {0:?}")]
    Fenced(Vec<OffsetKey>),
    /// A row that was looked up and not there is there. Repeat without COPY.
    #[error("a row is already there: {0}")]
    Conflict(String),
    /// What is stored or answered cannot be right, or the set-up is wrong: says what.
    #[error("the store is broken: {0}")]
    Broken(String),
}

/// A partition of the log, by the log's own ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetKey {
    /// The cluster.
    pub cluster_id: Arc<str>,
    /// The topic's id.
    pub topic_id: Arc<str>,
    /// The partition.
    pub partition: i32,
}

/// A partition's progress by one flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetMove {
    /// Which partition.
    pub key: OffsetKey,
    /// What its row must hold; a missing row holds 0.
    pub from: i64,
    /// What it holds afterwards.
    pub next: i64,
}

/// What one flush writes.
#[derive(Clone, Debug, Default)]
pub struct FlushInput {
    /// Its offsets.
    pub moves: Vec<OffsetMove>,
    /// What it says, by entity.
    pub entities: Arc<BTreeMap<EntityRef, EntityBatch>>,
    /// Dead letters that belong to no entity.
    pub unowned: Vec<DeadLetterRow>,
    /// An earlier attempt may have been committed: offsets that already stand at `next` mean that it was.
    pub unsure: bool,
}

/// What one flush changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Rows that were written or replaced.
    pub rows: usize,
    /// Events whose outcome became applied.
    pub applied: u64,
    /// Those of them that came by the live lane, by when each was accepted, in microseconds since 1970.
    pub applied_accepted_at_us: Vec<i64>,
    /// Events whose outcome became dead, by class.
    pub dead_lettered: BTreeMap<String, u64>,
    /// Events that became erased.
    pub erased: u64,
    /// Entities whose images changed, with how many facts and messages were named; `None` where something was removed.
    pub changed: Vec<(EntityRef, Option<usize>)>,
    /// It had been committed by an earlier attempt.
    pub already_done: bool,
}

/// How new rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertMode {
    /// As fast as the store can; a row that is there after all is a [`StoreError::Conflict`].
    Fast,
    /// A row that is there is replaced.
    Upsert,
}

/// An entity's row, as a flush has locked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedEntity {
    /// Null once nothing but erased events is left.
    pub entity_id: Option<String>,
    /// Which this flush makes.
    pub version: i64,
    /// It is what [`StoreTransaction::foresee`] told.
    pub as_foreseen: bool,
}

/// An entity of which nothing is stored that a batch names, and which nobody has erased or forgotten anything of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// Null once nothing but erased events is left.
    pub entity_id: Option<String>,
    /// Which this flush will make.
    pub version: i64,
}

/// What a flush writes of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedEntity<'a> {
    /// Whose rows.
    pub entity: &'a EntityRef,
    /// The rows.
    pub writes: EntityWrites,
    /// What that means for images.
    pub images: ImageChange,
}

/// A store of the view.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Brings the tables up to date; forward only, idempotent.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Drops the view, offsets included, and keeps what is truth; [`Store::migrate`] makes it anew, and reading the log from its
    /// start fills it. No flush may be under way.
    async fn drop_view(&self) -> Result<(), StoreError>;

    /// Makes the view anew and empty, in one transaction: whoever reads sees the old one or the new one, and a flush that is under way
    /// is committed before or fails. Reading the log from its start fills it.
    async fn empty_view(&self) -> Result<(), StoreError>;

    /// Which making of the view this is: another number after each [`Store::empty_view`].
    async fn epoch(&self) -> Result<i64, StoreError>;

    /// The next offset of each partition, where a flush has moved it.
    async fn next_offsets(&self, keys: &[OffsetKey]) -> Result<Vec<Option<i64>>, StoreError>;

    /// Begins a flush. The transaction must be ended, not dropped half way.
    async fn begin(&self, mode: InsertMode) -> Result<Box<dyn StoreTransaction>, StoreError>;

    /// Tells other writers that something was committed; a hint.
    async fn announce(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Every base table, in an order that does not depend on arrival. For tests and audits: it reads everything.
    async fn dump(&self) -> Result<Dump, StoreError>;
}

/// One flush under way.
#[async_trait]
pub trait StoreTransaction: Send {
    /// Locks the rows, making those that are missing, and answers what each holds.
    async fn lock_offsets(&mut self, keys: &[OffsetKey]) -> Result<Vec<i64>, StoreError>;

    /// Tells of which entities a plan can be made before they are locked; it holds where [`LockedEntity::as_foreseen`] says so.
    fn foresee<'a>(&mut self, _batches: &'a BTreeMap<EntityRef, EntityBatch>) -> BTreeMap<&'a EntityRef, Foreseen> {
        BTreeMap::new()
    }

    /// Locks the entities' rows in the given order (sorted by key), making those that are missing and counting their versions
    /// up, and answers them.
    async fn lock_entities(&mut self, entities: &[&EntityRef]) -> Result<Vec<LockedEntity>, StoreError>;

    /// Reads what is asked for into the views, each a statement after the locks. `first` reads erasures, forgets and withdrawals too.
    async fn read(
        &mut self,
        needs: &BTreeMap<&EntityRef, Needs>,
        first: bool,
        views: &mut BTreeMap<EntityRef, EntityView>,
    ) -> Result<(), StoreError>;

    /// Dead letters by their keys, whoever owns them.
    async fn read_letters(
        &mut self,
        keys: &BTreeSet<&DeadLetterKey>,
    ) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError>;

    /// Writes, deletions first.
    async fn write(&mut self, writes: &[PlannedEntity<'_>], unowned: &Upserts<DeadLetterRow>) -> Result<(), StoreError>;

    /// Moves the offsets.
    async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError>;

    /// Ends it well.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Ends it without a trace.
    async fn rollback(self: Box<Self>);
}

/// Runs one flush to its end: one transaction, or two where the fast way meets a row that is there.
///
/// # Errors
/// As [`StoreError`] says; nothing was written, except after [`StoreError::CommitUnknown`], which leaves it open.
pub async fn flush(store: &dyn Store, input: &FlushInput) -> Result<FlushReport, StoreError> {
    match attempt(store, input, InsertMode::Fast).await {
        Err(StoreError::Conflict(why)) => {
            tracing::warn!(why, "a row was there after all; repeating the flush by upserts");
            attempt(store, input, InsertMode::Upsert).await
        }
        other => other,
    }
}

async fn attempt(store: &dyn Store, input: &FlushInput, mode: InsertMode) -> Result<FlushReport, StoreError> {
    let mut transaction = store.begin(mode).await?;
    match run(&mut *transaction, input).await {
        Ok((report, _)) if report.already_done => {
            transaction.rollback().await;
            Ok(report)
        }
        // What was planned is taken apart while the server commits.
        Ok((report, planned)) => futures::join!(transaction.commit(), async { drop(planned) }).0.map(|()| report),
        Err(error) => {
            transaction.rollback().await;
            Err(error)
        }
    }
}

/// Plans are made for so many entities before the statements under way are looked after again.
const PLANS_AT_ONCE: usize = 16;

/// The plan for an entity of which is known what a read would find; `None` where it wants to read more.
fn plan_foreseen(batch: &EntityBatch, Foreseen { entity_id, version }: Foreseen) -> Option<(ImageChange, EntityWrites)> {
    let writes = plan::plan(batch, &EntityView { entity_id, ..EntityView::default() }).ok()?;
    Some((writes.image_change(version), writes))
}

/// Plans without reading, while the server locks: half of it on a thread of its own, where there is much of it.
async fn plan_ahead<'a>(
    input: &'a FlushInput,
    mut foreseen: BTreeMap<&'a EntityRef, Foreseen>,
) -> BTreeMap<&'a EntityRef, PlannedEntity<'a>> {
    let half = foreseen.keys().nth(foreseen.len() / 2).copied().filter(|_| foreseen.len() >= 2 * PLANS_AT_ONCE);
    let beside = half.map(|half| {
        let theirs: Vec<(EntityRef, Foreseen)> =
            foreseen.split_off(half).into_iter().map(|(entity, foreseen)| (entity.clone(), foreseen)).collect();
        let entities = Arc::clone(&input.entities);
        tokio::task::spawn_blocking(move || {
            let plans = theirs.into_iter().filter_map(|(entity, foreseen)| {
                let planned = plan_foreseen(&entities[&entity], foreseen)?;
                Some((entity, planned))
            });
            plans.collect::<Vec<_>>()
        })
    });
    let mut ahead = BTreeMap::new();
    for (number, (entity, foreseen)) in foreseen.into_iter().enumerate() {
        if let Some((images, writes)) = plan_foreseen(&input.entities[entity], foreseen) {
            ahead.insert(entity, PlannedEntity { entity, images, writes });
        }
        if number % PLANS_AT_ONCE == PLANS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    if let Some(beside) = beside {
        // A panic there is one here. An entity that is not planned ahead is planned later.
        let theirs = beside.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Vec::new(),
        });
        for (entity, (images, writes)) in theirs {
            if let Some((entity, _)) = input.entities.get_key_value(&entity) {
                ahead.insert(entity, PlannedEntity { entity, images, writes });
            }
        }
    }
    ahead
}

/// Locks everything, offsets first; `None` where an earlier attempt has done it all.
async fn lock(
    transaction: &mut dyn StoreTransaction,
    input: &FlushInput,
    entities: &[&EntityRef],
) -> Result<Option<Vec<LockedEntity>>, StoreError> {
    let keys: Vec<OffsetKey> = input.moves.iter().map(|m| m.key.clone()).collect();
    let held = transaction.lock_offsets(&keys).await?;
    let at_next = |(m, held): (&OffsetMove, &i64)| m.next == *held;
    if input.unsure && !held.is_empty() && input.moves.iter().zip(&held).all(at_next) {
        return Ok(None);
    }
    let moved: Vec<OffsetKey> =
        input.moves.iter().zip(&held).filter(|(m, held)| m.from != **held).map(|(m, _)| m.key.clone()).collect();
    if !moved.is_empty() {
        return Err(StoreError::Fenced(moved));
    }
    if entities.is_empty() { Ok(Some(Vec::new())) } else { transaction.lock_entities(entities).await.map(Some) }
}

/// What it was made of, to be dropped when there is time.
type Planned<'a> = (Vec<PlannedEntity<'a>>, BTreeMap<EntityRef, EntityView>);

async fn run<'a>(
    transaction: &mut dyn StoreTransaction,
    input: &'a FlushInput,
) -> Result<(FlushReport, Planned<'a>), StoreError> {
    let entities: Vec<&EntityRef> = input.entities.keys().collect();
    let foreseen = transaction.foresee(&input.entities);
    let ahead = async { Ok(plan_ahead(input, foreseen).await) };
    let (locked, mut ahead) = futures::try_join!(lock(transaction, input, &entities), ahead)?;
    let Some(locked) = locked else {
        return Ok((FlushReport { already_done: true, ..FlushReport::default() }, Planned::default()));
    };

    let mut writes: Vec<PlannedEntity<'_>> = Vec::with_capacity(input.entities.len());
    let mut views: BTreeMap<EntityRef, EntityView> = BTreeMap::new();
    let mut open: BTreeMap<&EntityRef, (&EntityBatch, i64)> = BTreeMap::new();
    for ((entity, batch), locked) in input.entities.iter().zip(locked) {
        if let Some(planned) = ahead.remove(entity).filter(|_| locked.as_foreseen) {
            writes.push(planned);
            continue;
        }
        open.insert(entity, (batch, locked.version));
        views.insert(entity.clone(), EntityView { entity_id: locked.entity_id, ..EntityView::default() });
    }
    if !open.is_empty() {
        let needs = open.iter().map(|(entity, (batch, _))| (*entity, batch.first_needs())).collect();
        transaction.read(&needs, true, &mut views).await?;
        let needs = open.iter().map(|(entity, (batch, _))| (*entity, batch.fact_needs(&views[*entity])));
        let needs: BTreeMap<&EntityRef, Needs> = needs.filter(|(_, needs)| !needs.is_empty()).collect();
        if !needs.is_empty() {
            transaction.read(&needs, false, &mut views).await?;
        }
    }
    let planned = |entity, version, writes: EntityWrites| PlannedEntity { entity, images: writes.image_change(version), writes };
    let mut more: BTreeMap<&EntityRef, Needs> = BTreeMap::new();
    for (entity, (batch, version)) in &open {
        match plan::plan(batch, &views[*entity]) {
            Ok(rows) => writes.push(planned(*entity, *version, rows)),
            Err(needs) => {
                more.insert(entity, needs);
            }
        }
    }
    if !more.is_empty() {
        transaction.read(&more, false, &mut views).await?;
        for entity in more.keys() {
            let (batch, version) = open[*entity];
            let rows = plan::plan(batch, &views[*entity])
                .map_err(|needs| StoreError::Broken(format!("the plan asks for one more round of reads: {needs:?}")))?;
            writes.push(planned(entity, version, rows));
        }
    }
    let unowned = if input.unowned.is_empty() {
        Upserts::default()
    } else {
        let stored = transaction.read_letters(&input.unowned.iter().map(|letter| &letter.key).collect()).await?;
        plan::plan_unowned(&input.unowned, &stored)
    };
    let report = report(&writes, &unowned, &views);
    transaction.write(&writes, &unowned).await?;
    transaction.move_offsets(&input.moves).await?;
    Ok((report, (writes, views)))
}

fn report(
    writes: &[PlannedEntity<'_>],
    unowned: &Upserts<DeadLetterRow>,
    views: &BTreeMap<EntityRef, EntityView>,
) -> FlushReport {
    fn size<R>(upserts: &Upserts<R>) -> usize {
        upserts.insert.len() + upserts.update.len()
    }
    let mut report = FlushReport { rows: size(unowned), ..FlushReport::default() };
    for PlannedEntity { entity, writes: w, images } in writes {
        match images {
            ImageChange::Nothing => {}
            ImageChange::Named(row) => report.changed.push(((*entity).clone(), Some(row.facts.len() + row.messages.len()))),
            ImageChange::Rebased => report.changed.push(((*entity).clone(), None)),
        }
        report.rows += size(&w.events) + w.messages.len() + size(&w.outcomes) + w.mentions.len() + size(&w.facts);
        report.rows += w.message_vectors.len()
            + size(&w.stats)
            + w.validity.len()
            + size(&w.erasures)
            + size(&w.forgets)
            + size(&w.withdrawals)
            + size(&w.dead_letters);
        for outcome in w.outcomes.insert.iter().chain(&w.outcomes.update) {
            match outcome.kind {
                // It was applied before.
                OutcomeKind::Applied if outcome.withdrawn => {}
                OutcomeKind::Applied => {
                    report.applied += 1;
                    if outcome.lane == Lane::Live {
                        report.applied_accepted_at_us.push(outcome.event_accepted_at_us);
                    }
                }
                OutcomeKind::Dead => {
                    *report.dead_lettered.entry(outcome.dead_letter_class.clone().unwrap_or_default()).or_default() += 1;
                }
            }
        }
        let before = |event| views.get(*entity).and_then(|view| view.events.get(event)).is_some_and(|row| row.erased);
        let events = w.events.insert.iter().chain(&w.events.update);
        report.erased += events.filter(|row| row.erased && !before(&row.event)).count() as u64;
    }
    report
}
