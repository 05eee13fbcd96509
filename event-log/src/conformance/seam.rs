//! One member, one log.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::Provider;
use super::tools::{TOPIC, append, append_each, assigned, at, key_of, number, numbered, record, take, within};
use crate::seam::{AppendError, Commit, Consumer, ConsumerEvent, Header, LogError, NewRecord, Start};
use crate::topic::Topic;

/// The log has a name that stays, every topic has an id of its own, and the counts are fixed.
pub async fn identity_and_watermarks<P: Provider>() {
    let provider = P::fresh(3).await;
    let (one, other) = (provider.connect().await, provider.connect().await);
    let identity = one.identity().await.expect("identity");
    assert_eq!(other.identity().await.expect("identity"), identity);
    assert_eq!(identity.partitions, 3);
    let ids: std::collections::BTreeSet<_> = identity.topic_ids.values().collect();
    assert_eq!(ids.len(), Topic::ALL.len());
    one.create_topics(3).await.expect("making topics is idempotent");
    assert!(matches!(one.create_topics(4).await, Err(LogError::Fatal(_))), "the partition count is fixed");
    let key = key_of(1, 3, 0);
    assert_eq!(one.watermarks(at(1)).await.expect("watermarks"), (0, 0));
    let positions = append(&*one, (0..5).map(|n| numbered(&key, n)).collect()).await;
    assert!(positions.iter().all(|position| position.source == at(1)), "murmur2 of the key decides");
    assert_eq!(other.watermarks(at(1)).await.expect("watermarks"), (0, 5));
    let read = within("a read", other.read(at(1), 2, 2)).await.expect("read");
    assert_eq!(read.iter().map(number).collect::<Vec<_>>(), [2, 3]);
    assert!(positions[2].offset.is_none_or(|told| told == read[0].offset));
    assert_eq!(within("a read", other.read(at(1), 3, 100)).await.expect("read").len(), 2, "fewer only where the log ends");
}

/// Records of a key come in the order of their append, whole, with the place the append said.
pub async fn order_per_key<P: Provider>() {
    let provider = P::fresh(4).await;
    let log = provider.connect().await;
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for round in 0..20 {
        let records: Vec<NewRecord> = (0..15).map(|n| numbered(&format!("entity {}", n % 7), round * 15 + n)).collect();
        let keys: Vec<String> = records.iter().map(|r| String::from_utf8(r.key.to_vec()).expect("text")).collect();
        // Together, or each by a call of its own while the others are under way.
        let positions = if round % 2 == 0 { append(&*log, records).await } else { append_each(&*log, records).await };
        for (n, (position, key)) in positions.into_iter().zip(keys).enumerate() {
            let n = round * 15 + n as u64;
            places.insert(n, position);
            expected.entry(key).or_default().push(n);
        }
    }
    let reader = provider.connect().await;
    let mut consumer = reader.subscribe("readers", &[TOPIC]).await.expect("joins");
    let mut came: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in take(&mut *consumer, 300).await {
        let n = number(&record);
        assert_eq!(record.source, places[&n].source);
        assert!(places[&n].offset.is_none_or(|told| told == record.offset));
        assert_eq!(record.header("tenant"), Some(b"acme".as_slice()));
        assert!(record.appended_at_ms > 1_600_000_000_000, "milliseconds since 1970");
        came.entry(String::from_utf8(record.key.to_vec()).expect("text")).or_default().push(n);
    }
    assert_eq!(came, expected);
    consumer.close(Duration::from_secs(10)).await;
}

/// Small and large records come back as they went in; what will never fit is refused, and nothing else with it.
pub async fn records_of_one_byte_and_of_one_mebibyte<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    let large: Vec<u8> = (0..1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let payloads =
        [Bytes::from_static(b"x"), Bytes::from(large), Bytes::from_static(&[0, 255, 0]), Bytes::from(vec![7; 4 * 1024 * 1024])];
    let mut records: Vec<NewRecord> = payloads.iter().map(|payload| record("k", payload.clone())).collect();
    records[0].headers = vec![
        Header { name: "empty".into(), value: Bytes::new() },
        Header {
            name: "traceparent".into(),
            value: Bytes::from_static(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        },
        Header { name: "bytes".into(), value: Bytes::from_static(&[0, 159, 146, 150]) },
    ];
    append(&*log, records.clone()).await;
    let refused = log.producer().append(&[record("k", vec![0; 9 * 1024 * 1024])], None).await;
    assert!(matches!(refused[0], Err(AppendError::TooLarge(_))), "{refused:?}");
    let refused = log.producer().append_one(&record("k", vec![0; 9 * 1024 * 1024]), None).await;
    assert!(matches!(refused, Err(AppendError::TooLarge(_))), "{refused:?}");
    let mut consumer = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    let came = take(&mut *consumer, payloads.len()).await;
    assert_eq!(came.iter().map(|r| r.payload.len()).collect::<Vec<_>>(), payloads.iter().map(Bytes::len).collect::<Vec<_>>());
    for (record, sent) in came.iter().zip(&records) {
        assert!(record.payload == sent.payload && record.key == sent.key && record.headers == sent.headers);
    }
    consumer.close(Duration::from_secs(10)).await;
}

/// An assignment that is assigned again is moved, and what was on its way from the old place does not come.
pub async fn assigning_again_moves<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    append(&*log, (0..3000).map(|n| numbered("k", n)).collect()).await;
    let mut consumer = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    assert_eq!(assigned(&mut *consumer).await, [at(0)]);
    for start in [2990, 0, 1500, 10] {
        consumer.assign(&[(at(0), Start::Offset(start))]).await.expect("moves");
        let came = take(&mut *consumer, 1).await;
        let offsets: Vec<i64> = came.iter().map(|r| r.offset).collect();
        assert_eq!(offsets[0], start);
        assert!(offsets.is_sorted_by(|a, b| a + 1 == *b), "{offsets:?}");
    }
    consumer.close(Duration::from_secs(10)).await;
}

/// A paused partition rests while others flow, and goes on where it was.
pub async fn paused_partitions_rest<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let (resting, flowing) = (key_of(0, 2, 0), key_of(1, 2, 0));
    let mut consumer = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    let mut partitions = assigned(&mut *consumer).await;
    partitions.sort();
    assert_eq!(partitions, [at(0), at(1)]);
    consumer.assign(&[(at(0), Start::Committed), (at(1), Start::Committed)]).await.expect("assigns");
    consumer.pause(&[at(0)]).expect("pauses");
    for n in 0..20 {
        append(&*log, vec![numbered(&resting, n), numbered(&flowing, n)]).await;
        let came = take(&mut *consumer, 1).await;
        assert!(came.iter().all(|record| record.source == at(1)), "what is paused rests");
    }
    consumer.resume(&[at(0)]).expect("resumes");
    let came = take(&mut *consumer, 20).await;
    let rested: Vec<u64> = came.iter().filter(|record| record.source == at(0)).map(number).collect();
    assert_eq!(rested, (0..20).collect::<Vec<_>>());
    consumer.close(Duration::from_secs(10)).await;
}

/// What was deleted before it was read is a clear error, whether the store, the group or the reader wants it; never a reset.
pub async fn an_offset_below_the_logs_start_halts<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    append(&*log, (0..10).map(|n| numbered("k", n)).collect()).await;
    let mut consumer = log.subscribe("readers", &[TOPIC]).await.expect("joins");
    assert_eq!(take(&mut *consumer, 10).await.len(), 10);
    consumer.commit(&[Commit { metadata: "beside".to_owned(), ..Commit::at(at(0), 2) }]).await.expect("commits");
    consumer.close(Duration::from_secs(10)).await;
    provider.delete_before(at(0), 5).await;
    assert_eq!(log.watermarks(at(0)).await.expect("watermarks"), (5, 10));
    for (group, start, wanted) in [("readers", Start::Committed, 2), ("others", Start::Offset(3), 3)] {
        let mut consumer = log.subscribe(group, &[TOPIC]).await.expect("joins");
        assigned(&mut *consumer).await;
        let error = match consumer.assign(&[(at(0), start)]).await {
            Err(error) => error,
            Ok(()) => failure(&mut *consumer).await,
        };
        let LogError::BelowLogStart { source_partition, wanted: told, log_start } = error else { panic!("{error:?}") };
        assert_eq!((source_partition, told, log_start), (at(0), wanted, 5));
        let beside = consumer.committed(at(0)).map(|committed| (committed.next_offset, committed.metadata.as_str()));
        assert_eq!(
            beside,
            (start == Start::Committed).then_some((2, "beside")),
            "it is told, for whoever has the records elsewhere"
        );
        consumer.close(Duration::from_secs(10)).await;
    }
    // Nothing committed and nothing wanted: the log's start it is.
    let mut consumer = log.subscribe("new ones", &[TOPIC]).await.expect("joins");
    assert_eq!(take(&mut *consumer, 5).await[0].offset, 5);
    consumer.close(Duration::from_secs(10)).await;
    assert!(matches!(log.read(at(0), 4, 1).await, Err(LogError::BelowLogStart { .. })));
    // What goes while nothing was read of it yet is told just so.
    let mut consumer = log.subscribe("late ones", &[TOPIC]).await.expect("joins");
    assigned(&mut *consumer).await;
    consumer.assign(&[(at(0), Start::Offset(10))]).await.expect("assigns");
    consumer.pause(&[at(0)]).expect("pauses");
    append(&*log, (10..20).map(|n| numbered("k", n)).collect()).await;
    provider.delete_before(at(0), 15).await;
    consumer.resume(&[at(0)]).expect("resumes");
    let LogError::BelowLogStart { wanted, log_start, .. } = failure(&mut *consumer).await else { panic!("it is gone") };
    assert_eq!((wanted, log_start), (10, 15));
    consumer.close(Duration::from_secs(10)).await;
}

async fn failure(consumer: &mut dyn Consumer) -> LogError {
    loop {
        match within("the error", consumer.next()).await {
            Err(error) => return error,
            Ok(ConsumerEvent::Records(records)) => panic!("a reset: {} was read", records[0].offset),
            Ok(_) => {}
        }
    }
}
