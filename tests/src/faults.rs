//! A store that fails in the ways that matter: before it writes, in the middle, and after the commit, when only the answer is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use memori_writer::plan::{DeadLetterKey, DeadLetterRow, EntityRef, EntityView, Needs, Upserts};
use memori_writer::store::{
    Dump, InsertMode, LockedEntity, OffsetKey, OffsetMove, PlannedEntity, Store, StoreError, StoreTransaction,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Fails one call in so many, at each place.
const ONE_IN: u32 = 12;

/// The failures of one writer, from a seed.
#[derive(Clone)]
struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    fn fails(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_ratio(1, ONE_IN)
    }
}

/// A store with faults.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    dice: Dice,
}

impl FaultyStore {
    /// Over a sound one.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        Self { inner, dice: Dice(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))) }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.inner.migrate().await
    }

    async fn drop_view(&self) -> Result<(), StoreError> {
        self.inner.drop_view().await
    }

    async fn empty_view(&self) -> Result<(), StoreError> {
        self.inner.empty_view().await
    }

    async fn epoch(&self) -> Result<i64, StoreError> {
        self.inner.epoch().await
    }

    async fn next_offsets(&self, keys: &[OffsetKey]) -> Result<Vec<Option<i64>>, StoreError> {
        self.inner.next_offsets(keys).await
    }

    async fn begin(&self, mode: InsertMode) -> Result<Box<dyn StoreTransaction>, StoreError> {
        Ok(Box::new(FaultyTransaction { inner: self.inner.begin(mode).await?, dice: self.dice.clone() }))
    }

    async fn dump(&self) -> Result<Dump, StoreError> {
        self.inner.dump().await
    }
}

struct FaultyTransaction {
    inner: Box<dyn StoreTransaction>,
    dice: Dice,
}

impl FaultyTransaction {
    fn may_fail(&self, at: &str) -> Result<(), StoreError> {
        if self.dice.fails() { Err(StoreError::Retry(format!("a fault at {at}"))) } else { Ok(()) }
    }
}

#[async_trait]
impl StoreTransaction for FaultyTransaction {
    async fn lock_offsets(&mut self, keys: &[OffsetKey]) -> Result<Vec<i64>, StoreError> {
        self.inner.lock_offsets(keys).await
    }

    async fn lock_entities(&mut self, entities: &[&EntityRef]) -> Result<Vec<LockedEntity>, StoreError> {
        self.inner.lock_entities(entities).await
    }

    async fn read(
        &mut self,
        needs: &BTreeMap<&EntityRef, Needs>,
        first: bool,
        views: &mut BTreeMap<EntityRef, EntityView>,
    ) -> Result<(), StoreError> {
        self.inner.read(needs, first, views).await
    }

    async fn read_letters(
        &mut self,
        keys: &BTreeSet<&DeadLetterKey>,
    ) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError> {
        self.inner.read_letters(keys).await
    }

    async fn write(&mut self, writes: &[PlannedEntity<'_>], unowned: &Upserts<DeadLetterRow>) -> Result<(), StoreError> {
        self.may_fail("the write")?;
        self.inner.write(writes, unowned).await?;
        self.may_fail("the written")
    }

    async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        self.inner.move_offsets(moves).await?;
        self.may_fail("the offsets")
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let Self { inner, dice } = *self;
        if dice.fails() {
            inner.rollback().await;
            return Err(StoreError::CommitUnknown("it was not committed".to_owned()));
        }
        inner.commit().await?;
        if dice.fails() { Err(StoreError::CommitUnknown("it was committed".to_owned())) } else { Ok(()) }
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}
