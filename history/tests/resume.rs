//! An import that is stopped anywhere and goes on, over a log that confirms only some of what it is given: in the end the log has every event
//! of the source and no other, and the counts and what was set aside are those of one run.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::{AppendError, Fence, NewRecord, Position, Producer, Topic, TopicPartition};
use memori_history::input::expand;
use memori_history::{Admit, Admitted, Import, ImportError, Options, Summary, importer};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Plain;

impl Admit for Plain {
    fn admit(&self, body: Value) -> Result<Admitted, String> {
        if body["messages"][0]["content"] == "refused by the judge" {
            return Err("refused".to_owned());
        }
        let id = body["event_id"].as_str().unwrap_or_default().to_owned();
        let record = NewRecord {
            topic: Topic::ConversationsBackfill,
            key: id.into(),
            payload: body.to_string().into(),
            headers: Vec::new(),
        };
        Ok(Admitted { record, messages: 1, timeless: true })
    }

    fn admit_text(&self, text: &[u8]) -> Option<Result<Admitted, String>> {
        Some(self.admit(serde_json::from_slice(text).ok()?))
    }
}

/// Takes records, confirms those whose turn it is, and ends the import after so many calls.
struct Flaky {
    taken: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    calls: AtomicUsize,
    unconfirmed_every: usize,
    stop_after: usize,
    stop: CancellationToken,
}

#[async_trait]
impl Producer for Flaky {
    async fn append(&self, records: &[NewRecord], _fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call >= self.stop_after {
            self.stop.cancel();
        }
        let mut taken = self.taken.lock().unwrap();
        let source = TopicPartition { topic: Topic::ConversationsBackfill, partition: 0 };
        let mut results = Vec::new();
        for (n, record) in records.iter().enumerate() {
            if record.key.ends_with(b"7") {
                results.push(Err(AppendError::Unacceptable("it ends with 7".to_owned())));
                continue;
            }
            let confirmed = !(call + n).is_multiple_of(self.unconfirmed_every);
            // What is not confirmed may be there all the same.
            if confirmed || n % 2 == 0 {
                taken.insert(record.key.to_vec(), record.payload.to_vec());
            }
            results.push(if confirmed {
                Ok(Position { source, offset: None })
            } else {
                Err(AppendError::Unconfirmed("later".to_owned()))
            });
        }
        results
    }

    async fn flush(&self, _deadline: Duration) {}
}

async fn run(folder: &Path, producer: Flaky) -> Result<Summary, ImportError> {
    let stop = producer.stop.clone();
    let import = Import {
        inputs: expand(&[folder.join("source").display().to_string()]).unwrap(),
        options: Options::default(),
        admit: Arc::new(Plain),
        producer: Some(Arc::new(producer)),
        calls: 3,
        tenant: None,
        checkpoint: Some(folder.join("checkpoint")),
        rejected: Some(folder.join("rejected")),
        restart: false,
        rate: None,
        give_up_after: Duration::from_secs(60),
        stop,
    };
    importer::run(import, |_| {}).await
}

fn line(n: usize) -> Value {
    let said = if n % 13 == 5 { "refused by the judge" } else { "fine" };
    json!({"event_id": format!("e{n}"), "entity_id": "a", "messages": [{"role": "user", "content": said}]})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_runs_comes_to_the_same(
        sizes in proptest::collection::vec(1_usize..1_500, 1..4),
        stops in proptest::collection::vec(0_usize..4, 0..5),
        unconfirmed_every in 60_usize..900,
    ) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("source")).unwrap();
        let mut expected = BTreeMap::new();
        let (mut records, mut bad) = (0, Vec::new());
        let mut number = 0;
        for (input, size) in sizes.iter().enumerate() {
            let mut file = std::fs::File::create(folder.path().join("source").join(format!("{input}.jsonl"))).unwrap();
            for at in 1..=*size {
                records += 1;
                let broken = number % 11 == 4;
                let line = line(number);
                let refused = line["messages"][0]["content"] != "fine" || number % 10 == 7;
                if broken { writeln!(file, "{{ {number}").unwrap() } else { writeln!(file, "{line}").unwrap() }
                if broken || refused {
                    bad.push((input, at as u64));
                } else {
                    expected.insert(format!("e{number}").into_bytes(), line.to_string().into_bytes());
                }
                number += 1;
            }
        }
        let taken = Arc::new(Mutex::new(BTreeMap::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let flaky = |stop_after| Flaky {
            taken: Arc::clone(&taken),
            calls: AtomicUsize::new(0),
            unconfirmed_every,
            stop_after,
            stop: CancellationToken::new(),
        };
        for stop_after in stops {
            runtime.block_on(run(folder.path(), flaky(stop_after))).unwrap();
        }
        let summary = runtime.block_on(run(folder.path(), flaky(usize::MAX))).unwrap();
        prop_assert!(summary.done);
        prop_assert_eq!(summary.counts.records, records);
        prop_assert_eq!(summary.counts.events, expected.len() as u64);
        prop_assert_eq!(summary.counts.rejected, bad.len() as u64);
        prop_assert_eq!(&*taken.lock().unwrap(), &expected);
        let rejected = std::fs::read_to_string(folder.path().join("rejected")).unwrap_or_default();
        let lines: Vec<(usize, u64)> = rejected.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let input = line["input"].as_str().unwrap().rsplit('/').next().unwrap().trim_end_matches(".jsonl").parse().unwrap();
            (input, line["record"].as_u64().unwrap())
        }).collect();
        prop_assert_eq!(lines, bad);
    }
}
