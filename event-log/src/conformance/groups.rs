//! Several members of one group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Semaphore;

use super::Provider;
use super::tools::{Member, Progress, TOPIC, append, at, goes_on_at, key_of, keyed_config, number, numbered, take};
use crate::driver::Verdict;
use crate::seam::Commit;

/// A member that vanishes leaves what it had not committed to the next one, and nothing else.
pub async fn redelivery_after_a_crash<P: Provider>() {
    let provider = P::fresh(2).await;
    let (one, other) = (provider.connect().await, provider.connect().await);
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*one, (0..20).flat_map(|n| [numbered(&keys[0], n), numbered(&keys[1], n)]).collect()).await;
    let mut first = one.subscribe("readers", &[TOPIC]).await.expect("joins");
    assert_eq!(take(&mut *first, 40).await.len(), 40);
    first.commit(&[Commit::at(at(0), 7), Commit::at(at(1), 20)]).await.expect("commits");
    P::crash(first).await;
    let mut second = other.subscribe("readers", &[TOPIC]).await.expect("joins");
    let again = take(&mut *second, 13).await;
    assert!(again.iter().all(|record| record.source == at(0)));
    assert_eq!(again.iter().map(|record| record.offset).collect::<Vec<_>>(), (7..20).collect::<Vec<_>>());
    second.close(Duration::from_secs(10)).await;
}

/// What members finished: (member, key, number) in the order in which they did.
type Finished = Vec<(usize, String, u64)>;

/// A second member joins while work is in flight: it gets its share, the order per key holds over both, nothing is lost, and what
/// was drained is not done twice.
pub async fn rebalance_while_work_is_in_flight<P: Provider>() {
    const PARTITIONS: i32 = 4;
    let provider = P::fresh(PARTITIONS).await;
    let log = provider.connect().await;
    let keys: Vec<String> = (0..PARTITIONS).flat_map(|p| [key_of(p, PARTITIONS, 0), key_of(p, PARTITIONS, 1)]).collect();
    append(&*log, (0..10).flat_map(|n| keys.iter().map(move |key| numbered(key, n))).collect()).await;
    let (finished, busy) = (Progress::<Finished>::new(), Progress::<BTreeSet<(usize, String)>>::new());
    // Work takes as long as there are permits: the case decides how far members get.
    let permits = Arc::new(Semaphore::new(0));
    let start = async |member: usize| {
        let (finished, busy, permits) = (Arc::clone(&finished), Arc::clone(&busy), Arc::clone(&permits));
        Member::start(&provider, keyed_config(), move |work| {
            let (finished, busy, permits) = (Arc::clone(&finished), Arc::clone(&busy), Arc::clone(&permits));
            async move {
                let key = String::from_utf8(work.record().key.to_vec()).expect("text");
                assert!(busy.change(|busy| busy.insert((member, key.clone()))), "two records of {key} at a time");
                permits.acquire().await.expect("open").forget();
                finished.change(|finished| finished.push((member, key.clone(), number(work.record()))));
                busy.change(|busy| busy.remove(&(member, key)));
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    let first = start(0).await;
    permits.add_permits(20);
    finished.until("the first member's work", |finished| finished.len() >= 20).await;
    busy.until("work in flight", |busy| !busy.is_empty()).await;
    let second = start(1).await;
    // From here on, work ends one by one; both must get to work.
    let mut rounds = 0_u64;
    loop {
        let done: BTreeMap<String, BTreeSet<u64>> = finished.look(|finished| {
            let mut done: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
            finished.iter().for_each(|(_, key, n)| {
                done.entry(key.clone()).or_default().insert(*n);
            });
            done
        });
        let both = finished.look(|finished| finished.iter().any(|(member, ..)| *member == 1));
        let all = keys.iter().all(|key| done.get(key).is_some_and(|numbers| (0..10 + rounds).all(|n| numbers.contains(&n))));
        if both && all {
            break;
        }
        if all {
            // The second has had nothing to do yet.
            append(&*log, keys.iter().map(|key| numbered(key, 10 + rounds)).collect()).await;
            rounds += 1;
        }
        let before = finished.look(Vec::len);
        permits.add_permits(1);
        finished.until("progress", |finished| finished.len() > before).await;
    }
    permits.add_permits(1000);
    first.stop().await.expect("the first ends well");
    second.stop().await.expect("the second ends well");
    finished.look(|finished| {
        for key in &keys {
            let numbers: Vec<u64> = finished.iter().filter(|(_, k, _)| k == key).map(|(.., n)| *n).collect();
            assert!(numbers.is_sorted(), "{key} out of order: {numbers:?}");
            let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
            assert_eq!(numbers.len(), distinct.len(), "{key} was drained, and yet done twice: {numbers:?}");
        }
    });
    let ends = 2 * (10 + i64::try_from(rounds).expect("small"));
    let expected: BTreeMap<i32, i64> = (0..PARTITIONS).map(|p| (p, ends)).collect();
    assert_eq!(goes_on_at(&*log, "workers", PARTITIONS).await, expected);
}

/// Work that outlives its assignment does not count: another member has the record, and the late end moves nothing.
pub async fn late_completions_of_an_old_epoch_are_dropped<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*log, vec![numbered(&keys[0], 0), numbered(&keys[1], 1)]).await;
    let (stuck, released) = (Progress::<usize>::new(), Arc::new(Semaphore::new(0)));
    let config = crate::driver::KeyedConfig { drain_deadline: Duration::from_millis(200), ..keyed_config() };
    let slow = {
        let (stuck, released) = (Arc::clone(&stuck), Arc::clone(&released));
        Member::start(&provider, config.clone(), move |_| {
            let (stuck, released) = (Arc::clone(&stuck), Arc::clone(&released));
            async move {
                stuck.change(|stuck| *stuck += 1);
                released.acquire().await.expect("open").forget();
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    stuck.until("both records in work", |stuck| *stuck == 2).await;
    let done = Progress::<Vec<u64>>::new();
    let quick = {
        let done = Arc::clone(&done);
        Member::start(&provider, config, move |work| {
            let done = Arc::clone(&done);
            async move {
                done.change(|done| done.push(number(work.record())));
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    done.until("the record comes again elsewhere", |done| !done.is_empty()).await;
    assert_eq!(slow.told.look(|told| told.dropped), 0);
    released.add_permits(2);
    slow.told.until("the late end is dropped", |told| told.dropped == 1).await;
    slow.stop().await.expect("ends well");
    quick.stop().await.expect("ends well");
    done.look(|done| assert_eq!(done.len(), 1, "only what moved came again: {done:?}"));
    assert_eq!(goes_on_at(&*log, "workers", 2).await, BTreeMap::from([(0, 1), (1, 1)]));
}
