//! What stands beside a committed offset.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;

use super::Provider;
use super::tools::{
    Member, Progress, TOPIC, append, assigned, at, goes_on_at, key_of, keyed_config, number, numbered, take, within,
};
use crate::driver::Verdict;
use crate::finished;
use crate::seam::{Commit, Committed, ConsumerEvent, LogError, Start};

fn beside(partition: i32, next_offset: i64, metadata: &str) -> Commit {
    Commit { metadata: metadata.to_owned(), ..Commit::at(at(partition), next_offset) }
}

fn committed(next_offset: i64, metadata: &str, log_end: i64) -> Committed {
    Committed { next_offset, metadata: metadata.to_owned(), log_end }
}

/// A member that takes a partition up is told the text with the offset, whole, and always that of the last commit.
pub async fn what_stands_beside_an_offset_comes_back<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*log, (0..5).flat_map(|n| keys.iter().map(move |key| numbered(key, n))).collect()).await;
    let longest: String = ('!'..='~').cycle().take(finished::MAX_BYTES).collect();
    let mut first = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    take(&mut *first, 10).await;
    assert!((0..2).all(|partition| first.committed(at(partition)).is_none()), "nothing was committed");
    first.commit(&[beside(0, 2, "two"), beside(1, 1, "one")]).await.expect("commits");
    first.commit(&[beside(0, 2, &longest)]).await.expect("the same offset again");
    first.close(Duration::from_secs(10)).await;

    let mut second = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    take(&mut *second, 3 + 4).await;
    assert_eq!(second.committed(at(0)), Some(&committed(2, &longest, 5)));
    assert_eq!(second.committed(at(1)), Some(&committed(1, "one", 5)));
    second.commit(&[Commit::at(at(0), 3)]).await.expect("commits");
    P::crash(second).await;

    let mut third = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    take(&mut *third, 2 + 4).await;
    assert_eq!(third.committed(at(0)), Some(&committed(3, "", 5)), "it went with its offset");
    assert_eq!(third.committed(at(1)), Some(&committed(1, "one", 5)));
    third.assign(&[(at(1), Start::Offset(0))]).await.expect("moves");
    assert_eq!(third.committed(at(1)), None, "it was not taken up where the group stands");
    third.close(Duration::from_secs(10)).await;
}

/// What one owner said is told to the next; what it says once it has let go is refused as a whole.
pub async fn what_stands_beside_an_offset_goes_to_the_next_owner<P: Provider>() {
    let provider = P::fresh(2).await;
    let (one, other) = (provider.connect().await, provider.connect().await);
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*one, (0..5).flat_map(|n| keys.iter().map(move |key| numbered(key, n))).collect()).await;
    let mut leaving = one.subscribe("readers", &[TOPIC]).await.expect("joins");
    take(&mut *leaving, 10).await;
    leaving.commit(&[beside(0, 1, "of 0"), beside(1, 1, "of 1")]).await.expect("commits");
    let mut coming = other.subscribe("readers", &[TOPIC]).await.expect("joins");
    let gone = within("a partition to be asked back", async {
        loop {
            match leaving.next().await.expect("the log answers") {
                ConsumerEvent::Revoked(partitions) => break partitions,
                ConsumerEvent::Records(_) => {}
                event => panic!("unexpected {event:?}"),
            }
        }
    })
    .await;
    let [gone] = gone[..] else { panic!("one of two, not {gone:?}") };
    // The last word is had while it drains.
    leaving.commit(&[beside(gone.partition, 2, "last word")]).await.expect("commits");
    leaving.unassign(&[gone]).await.expect("lets go");
    let taken = tokio::select! {
        taken = assigned(&mut *coming) => taken,
        event = leaving.next() => panic!("unexpected {event:?}"),
    };
    assert_eq!(taken, [gone]);
    let refused = leaving.commit(&[beside(gone.partition, 5, "too late")]).await;
    assert!(matches!(refused, Err(LogError::Fenced(partition)) if partition == gone), "{refused:?}");
    coming.assign(&[(gone, Start::Committed)]).await.expect("takes it up");
    assert_eq!(coming.committed(gone), Some(&committed(2, "last word", 5)));
    assert_eq!(leaving.committed(gone), None, "it has let go");
    coming.close(Duration::from_secs(10)).await;
    leaving.close(Duration::from_secs(10)).await;
}

/// Only what is not done holds the frontier; after a restart that alone is worked on again.
pub async fn what_is_finished_above_the_frontier_is_not_worked_on_again<P: Provider>() {
    const RECORDS: u64 = 200;
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    append(&*log, (0..RECORDS).map(|n| numbered(&format!("entity {n}"), n)).collect()).await;
    let worked = Progress::<Vec<u64>>::new();
    let start = async |parked: Option<u64>| {
        let worked = std::sync::Arc::clone(&worked);
        Member::start(&provider, keyed_config(), move |work| {
            let worked = std::sync::Arc::clone(&worked);
            async move {
                let n = number(work.record());
                worked.change(|worked| worked.push(n));
                if parked == Some(n) { Verdict::RetryAfter(Duration::from_secs(3600)) } else { Verdict::Done }
            }
            .boxed()
        })
        .await
    };
    let first = start(Some(0)).await;
    worked.until("all to be tried", |worked| worked.len() == 200).await;
    first.stop().await.expect("ends well");
    worked.change(Vec::clear);

    append(&*log, vec![numbered("entity 0", RECORDS)]).await;
    let second = start(None).await;
    worked.until("what is left", |worked| worked.len() == 2).await;
    second.told.until("the rest to come again", |told| told.skipped == 199).await;
    second.stop().await.expect("ends well");
    worked.look(|worked| assert_eq!(worked[..], [0, RECORDS], "in the order of their key"));
    assert_eq!(goes_on_at(&*log, "workers", 1).await, BTreeMap::from([(0, 201)]));
}
