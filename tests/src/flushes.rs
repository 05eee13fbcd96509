//! Flushes of a [`crate::scenario`]: runs of its records, as a writer would hand them to a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use memori_event_log::topic::Topic;
use memori_schemas::{Lane, LogRecordBody, ids};
use memori_writer::plan::intake::{self, Place};
use memori_writer::plan::{EntityBatch, EntityRef};
use memori_writer::store::{self, FlushInput, OffsetKey, OffsetMove, Store, StoreError};

use crate::scenario::TENANT;

/// How often one flush is tried.
const TRIES: usize = 50;

/// A run of records of one topic.
#[derive(Clone, Copy, Debug)]
pub struct Run<'p> {
    /// Which.
    pub topic: Topic,
    /// The offset of the first.
    pub from: usize,
    /// In the order of their offsets.
    pub records: &'p [LogRecordBody],
}

/// What one flush of these runs says.
///
/// # Panics
/// Where a record cannot be stored: the scenario would be wrong.
#[must_use]
pub fn input(runs: &[Run<'_>]) -> FlushInput {
    let mut input = FlushInput::default();
    for run in runs {
        let topic_id: Arc<str> = Arc::from(format!("id-of-{}", run.topic));
        for (n, body) in run.records.iter().enumerate() {
            let offset = i64::try_from(run.from + n).expect("few records");
            let place = Place { lane: run.topic.lane().unwrap_or(Lane::Live), topic_id: topic_id.clone(), partition: 0, offset };
            take(Arc::make_mut(&mut input.entities), body, &place);
        }
        let end = |n: usize| i64::try_from(n).expect("few records");
        let key = OffsetKey { cluster_id: Arc::from("cluster"), topic_id, partition: 0 };
        input.moves.push(OffsetMove { key, from: end(run.from), next: end(run.from + run.records.len()) });
    }
    input
}

fn take(entities: &mut BTreeMap<EntityRef, EntityBatch>, body: &LogRecordBody, place: &Place) {
    let mut batch = |entity_id: &str, put: &mut dyn FnMut(&EntityRef, &mut EntityBatch)| {
        let owner = EntityRef { tenant: TENANT.to_owned(), key: ids::entity_key(TENANT, entity_id) };
        let batch = entities.entry(owner.clone()).or_default();
        batch.entity_id = entity_id.to_owned();
        put(&owner, batch);
    };
    match body {
        LogRecordBody::Conversation(event) => batch(&event.entity_id, &mut |_, batch| {
            batch.copies.push(intake::event_copy(event, place).expect("a storable event"));
        }),
        LogRecordBody::Facts(record) => batch(&record.entity_id, &mut |owner, batch| {
            batch.extractions.push(intake::extraction(owner, record, place).expect("a storable extraction"));
        }),
        LogRecordBody::DeadLetter(letter) => {
            let entity_id = letter.entity_id.as_deref().expect("the scenario's letters have owners");
            batch(entity_id, &mut |_, batch| batch.burials.push(intake::burial(letter, place)));
        }
        LogRecordBody::EraseEntity(control) => batch(&control.entity_id, &mut |_, batch| {
            batch.erasures.push(intake::erasure(control, 7).expect("a storable erasure"));
        }),
        LogRecordBody::ForgetFact(control) => batch(&control.entity_id, &mut |_, batch| {
            batch.forgets.push(intake::forget(control, 7).expect("a storable forget"));
        }),
        LogRecordBody::WithdrawFacts(control) => batch(&control.entity_id, &mut |_, batch| {
            batch.withdrawals.push(intake::withdrawal(control, 7).expect("a storable withdrawal"));
        }),
        LogRecordBody::Flush(_) => {}
    }
}

/// Writes what a writer has gathered: what a store cannot do now, it can do later; what it may have done, it does not do twice.
///
/// # Errors
/// It cannot be done at all.
pub async fn flush(store: &dyn Store, mut input: FlushInput) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match store::flush(store, &input).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Retry(_)) if tries < TRIES => tries += 1,
            Err(StoreError::CommitUnknown(_)) if tries < TRIES => {
                input.unsure = true;
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
