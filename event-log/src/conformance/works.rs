//! The keyed driver on a provider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Semaphore;

use super::Provider;
use super::tools::{
    Member, Progress, append, at, goes_on_at, key_of, keyed_config, number, numbered, of_another, record, within,
};
use crate::driver::{KeyedConfig, Verdict};
use crate::seam::LogError;

/// A full budget pauses, an emptied one goes on; everything is done in the end, large records too.
pub async fn budget_full_and_reopened<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    // More than one fetch of any provider brings, and twice the bytes of the whole budget in one record.
    append(&*log, vec![record(&keys[0], vec![1; 200_000])]).await;
    for _ in 0..20 {
        append(&*log, (0..200).map(|n| record(&keys[n % 2], vec![2; 500])).collect()).await;
    }
    let (done, permits) = (Progress::<usize>::new(), Arc::new(Semaphore::new(0)));
    let config = KeyedConfig { budget_events: 10, budget_bytes: 100_000, ..keyed_config() };
    let member = {
        let (done, permits) = (Arc::clone(&done), Arc::clone(&permits));
        Member::start(&provider, config, move |_| {
            let (done, permits) = (Arc::clone(&done), Arc::clone(&permits));
            async move {
                permits.acquire().await.expect("open").forget();
                done.change(|done| *done += 1);
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    member.told.until("the budget to be full", |told| told.pauses >= 1).await;
    done.look(|done| assert_eq!(*done, 0));
    permits.add_permits(10_000);
    done.until("everything to be done", |done| *done == 4001).await;
    member.told.until("the budget to be open", |told| told.reopened == told.pauses).await;
    member.stop().await.expect("ends well");
    assert_eq!(goes_on_at(&*log, "workers", 2).await, BTreeMap::from([(0, 2001), (1, 2000)]));
}

/// One record that is tried in vain holds the frontier, whatever else is finished; its key waits, no other does.
pub async fn commit_never_past_an_unfinished_event<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    let (stuck, free) = (key_of(0, 1, 0), key_of(0, 1, 1));
    append(&*log, (0..50).map(|n| numbered(if n == 20 || n == 21 { &stuck } else { &free }, n)).collect()).await;
    let (done, tried) = (Progress::<Vec<u64>>::new(), Progress::<Vec<u32>>::new());
    let member = {
        let (done, tried) = (Arc::clone(&done), Arc::clone(&tried));
        Member::start(&provider, keyed_config(), move |work| {
            let (done, tried) = (Arc::clone(&done), Arc::clone(&tried));
            async move {
                if number(work.record()) == 20 {
                    assert!(work.first_tried_at_ms > 0 && work.fence.is_some());
                    tried.change(|tried| tried.push(work.attempt));
                    return Verdict::RetryAfter(Duration::from_millis(1));
                }
                done.change(|done| done.push(number(work.record())));
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    done.until("the rest to be done", |done| done.len() == 48).await;
    tried.until("attempts", |tried| tried.len() > 3).await;
    member.stop().await.expect("ends well");
    tried.look(|tried| assert!(tried.is_sorted_by(|a, b| a + 1 == *b) && tried[0] == 0, "{tried:?}"));
    done.look(|done| assert!(!done.contains(&21), "a key's next record waits"));
    assert_eq!(goes_on_at(&*log, "workers", 1).await, BTreeMap::from([(0, 20)]));
}

/// One tenant's backlog fills the budget, and another's few records behind it are done all the same; the backlog then comes back, once
/// and in order.
pub async fn a_tenants_backlog_is_read_past<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    let (flood, few) = (key_of(0, 1, 0), key_of(0, 1, 1));
    append(&*log, (0..300).map(|n| numbered(&flood, n)).collect()).await;
    append(&*log, (300..305).map(|n| of_another(numbered(&few, n))).collect()).await;
    let (done, permits) = (Progress::<Vec<u64>>::new(), Arc::new(Semaphore::new(0)));
    let config = KeyedConfig { budget_events: 10, ..keyed_config() };
    let member = {
        let (done, permits) = (Arc::clone(&done), Arc::clone(&permits));
        Member::start(&provider, config, move |work| {
            let (done, permits) = (Arc::clone(&done), Arc::clone(&permits));
            async move {
                let number = number(work.record());
                if number < 300 {
                    permits.acquire().await.expect("open").forget();
                }
                done.change(|done| done.push(number));
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    done.until("the few", |done| done.len() == 5).await;
    permits.add_permits(1_000);
    done.until("the backlog", |done| done.len() == 305).await;
    done.look(|done| assert_eq!(done[..], (300..305).chain(0..300).collect::<Vec<_>>()));
    member.told.until("the count", |told| told.reread == told.put_off).await;
    member.told.look(|told| assert!(told.put_off > 200 && told.held_most <= 20, "{} {}", told.put_off, told.held_most));
    member.stop().await.expect("ends well");
    assert_eq!(goes_on_at(&*log, "workers", 1).await, BTreeMap::from([(0, 305)]));
}

/// A record that must not be passed stops its partition, with the reason told; the others go on.
pub async fn poison_records_halt_their_partition_only<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let (poisoned, healthy) = (key_of(0, 2, 0), key_of(1, 2, 0));
    append(&*log, vec![record(&poisoned, vec![0xff]), numbered(&poisoned, 1), numbered(&healthy, 1)]).await;
    let done = Progress::<Vec<i32>>::new();
    let member = {
        let done = Arc::clone(&done);
        Member::start(&provider, keyed_config(), move |work| {
            let done = Arc::clone(&done);
            async move {
                if work.record().payload.as_ref() == [0xff] {
                    return Verdict::Halt("an unknown record: upgrade first".to_owned());
                }
                done.change(|done| done.push(work.record().source.partition));
                Verdict::Done
            }
            .boxed()
        })
        .await
    };
    member.told.until("the halt", |told| told.halted.contains_key(&at(0))).await;
    append(&*log, vec![numbered(&poisoned, 2), numbered(&healthy, 2)]).await;
    done.until("the healthy partition to go on", |done| done.len() == 2).await;
    done.look(|done| assert_eq!(done[..], [1, 1]));
    member.told.look(|told| assert_eq!(told.halted[&at(0)], "an unknown record: upgrade first"));
    member.stop().await.expect("ends well");
    assert_eq!(goes_on_at(&*log, "workers", 2).await, BTreeMap::from([(0, 0), (1, 2)]));
}

/// A driver whose next record is gone ends with the error that says so.
pub async fn a_driver_halts_below_the_logs_start<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    append(&*log, (0..10).map(|n| numbered("k", n)).collect()).await;
    let done = Progress::<usize>::new();
    let start = async || {
        let done = Arc::clone(&done);
        Member::start(&provider, keyed_config(), move |work| {
            let done = Arc::clone(&done);
            async move {
                done.change(|done| *done += 1);
                if number(work.record()) < 4 { Verdict::Done } else { Verdict::RetryAfter(Duration::from_secs(3600)) }
            }
            .boxed()
        })
        .await
    };
    let member = start().await;
    done.until("five attempts", |done| *done == 5).await;
    member.stop().await.expect("ends well");
    provider.delete_before(at(0), 8).await;
    let error = within("the halt", start().await.ended()).await.expect_err("the next record is gone");
    assert!(matches!(error, LogError::BelowLogStart { wanted: 4, log_start: 8, .. }), "{error:?}");
    done.look(|done| assert_eq!(*done, 5, "nothing was worked on"));
}
