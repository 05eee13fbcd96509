//! What was captured, on its way into the front door, in order.
//!
//! Promises: an event is settled once the door has made it durable or refused it for good; anything else is tried again, behind a
//! pause, with what came after it waiting behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Phase, lock};
use crate::notices::Level;
use crate::queue::Item;
use crate::stats::{Dropped, add};
use crate::system::{System, ask};

/// The most events of one batch.
const BATCH_EVENTS: usize = 500;
/// About the most bytes of one batch.
const BATCH_BYTES: usize = 4 << 20;
/// The first pause after a failure; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What the door said of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Durable { in_spool: bool },
    Refused { class: String, reason: String },
    Again(String),
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    index: usize,
    status: String,
    #[serde(default)]
    durable_in: Option<String>,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    status: u16,
    #[serde(default)]
    detail: String,
}

/// Feeds the door, until `stop`.
pub(crate) async fn run(engine: Arc<Engine>, mut phase: watch::Receiver<Phase>, stop: CancellationToken) {
    let feeding = async {
        let (mut pause, mut max_events) = (FIRST_PAUSE, BATCH_EVENTS);
        loop {
            let system = match phase.wait_for(|phase| matches!(phase, Phase::Up(_))).await.as_deref() {
                Ok(Phase::Up(system)) => Arc::clone(system),
                _ => return,
            };
            let grown = engine.grown.notified();
            if !lock(&engine.queue).has_waiting() {
                grown.await;
                continue;
            }
            // A batch that is refused as a whole is taken apart.
            let (settled, at_once) = feed(&engine, &*system, max_events).await;
            max_events = if settled || at_once == 1 { BATCH_EVENTS } else { (at_once / 2).max(1) };
            if settled {
                pause = FIRST_PAUSE;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = feeding => {}
    }
}

/// Hands one batch over; answers whether all of it is settled, and how many events it had.
async fn feed(engine: &Arc<Engine>, system: &dyn System, max_events: usize) -> (bool, usize) {
    let items = Taken { engine, items: lock(&engine.queue).take(max_events, BATCH_BYTES) };
    let count = items.items.len();
    let body = batch_body(&items.items);
    let (status, answer) = ask(system.router(), Method::POST, "/v1/events/batch", Some(body)).await;
    let verdicts = verdicts(count, status, &answer);
    (items.settle(verdicts), count)
}

fn batch_body(items: &[Item]) -> Bytes {
    let size: usize = items.iter().map(|item| item.json.len() + 1).sum();
    let mut body = Vec::with_capacity(size + 16);
    body.extend_from_slice(br#"{"events":["#);
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&item.json);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// What became of each event, by the door's answer.
fn verdicts(count: usize, status: u16, answer: &[u8]) -> Vec<Verdict> {
    let all = |verdict: Verdict| vec![verdict; count];
    if status != 200 {
        let detail = serde_json::from_slice::<Refusal>(answer).map(|refusal| refusal.detail).unwrap_or_default();
        let transient = status >= 500 || matches!(status, 401 | 403 | 408 | 429);
        return all(if transient || count > 1 {
            Verdict::Again(format!("the front door answers {status}: {detail}"))
        } else {
            Verdict::Refused { class: format!("refused_{status}"), reason: detail }
        });
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(answer) else {
        return all(Verdict::Again("the front door's answer is not readable".to_owned()));
    };
    let mut verdicts = all(Verdict::Again("the front door did not speak of it".to_owned()));
    for one in answer.results {
        let Some(verdict) = verdicts.get_mut(one.index) else { continue };
        *verdict = match (one.status.as_str(), one.error) {
            ("accepted" | "duplicate", _) => Verdict::Durable { in_spool: one.durable_in.as_deref() == Some("spool") },
            (_, Some(error)) if error.status >= 500 || matches!(error.status, 408 | 429) => Verdict::Again(error.detail),
            (_, Some(error)) => Verdict::Refused { class: format!("refused_{}", error.status), reason: error.detail },
            (other, None) => Verdict::Again(format!("the front door says {other:?} of it")),
        };
    }
    verdicts
}

/// A batch on its way. Where the task is stopped in between, it goes back into the queue.
struct Taken<'a> {
    engine: &'a Arc<Engine>,
    items: Vec<Item>,
}

impl Taken<'_> {
    /// Notes what became of it; false where some of it has to be tried again.
    fn settle(mut self, verdicts: Vec<Verdict>) -> bool {
        let (engine, now) = (self.engine, Instant::now());
        let mut again = Vec::new();
        let mut why_again = None;
        let spooled = verdicts.iter().filter(|verdict| **verdict == Verdict::Durable { in_spool: true }).count();
        // What only the spool has taken says nothing of what is behind it.
        let is_taken_behind = verdicts.contains(&Verdict::Durable { in_spool: false });
        {
            let mut queue = lock(&engine.queue);
            let mut ledger = lock(&engine.ledger);
            for (item, verdict) in std::mem::take(&mut self.items).into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Durable { in_spool } => {
                        queue.settle(item.number);
                        ledger.durable(item.member, item.number);
                        add(&engine.stats.durable, 1);
                        add(&engine.stats.spooled, u64::from(in_spool));
                    }
                    Verdict::Refused { class, reason } => {
                        queue.settle(item.number);
                        ledger.failed(item.member, item.number, "refused", &class, &reason);
                        engine.stats.dropped(Dropped::Refused);
                        engine.note("refused", Level::Error, || format!("memory refused an event: {reason} ({class})"));
                    }
                    Verdict::Again(why) => {
                        why_again.get_or_insert(why);
                        again.push(item);
                    }
                }
            }
            queue.give_back(again);
            engine.settled.send_replace(queue.first_unsettled());
        }
        engine.moved.send_modify(|count| *count += 1);
        if spooled > 0 {
            engine.note("spooled", Level::Warning, || {
                let (place, why) = (engine.config.place(), engine.complaint().map(|why| format!(": {why}")).unwrap_or_default());
                format!("memory keeps events on this machine, because {place} does not take them now{why}; it sends them later")
            });
        }
        match why_again {
            None => {
                if is_taken_behind && engine.complaint().is_none() {
                    lock(&engine.reach).answered();
                }
                true
            }
            Some(why) => {
                engine.note("not_durable", Level::Warning, || format!("memory cannot make events durable now: {why}"));
                lock(&engine.reach).failed(now, why);
                false
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.items.is_empty() {
            lock(&self.engine.queue).give_back(std::mem::take(&mut self.items));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_of_a_batch_has_its_own_verdict() {
        let answer = br#"{"results":[
            {"index":0,"event_id":"a","status":"accepted","durable_in":"log"},
            {"index":1,"event_id":"b","status":"duplicate","durable_in":"spool"},
            {"index":2,"event_id":"c","status":"rejected","error":{"status":503,"detail":"away"}},
            {"index":3,"event_id":"d","status":"rejected","error":{"status":422,"detail":"bad"}},
            {"index":9,"event_id":"x","status":"accepted"}]}"#;
        assert_eq!(
            verdicts(5, 200, answer),
            [
                Verdict::Durable { in_spool: false },
                Verdict::Durable { in_spool: true },
                Verdict::Again("away".into()),
                Verdict::Refused { class: "refused_422".into(), reason: "bad".into() },
                Verdict::Again("the front door did not speak of it".into()),
            ]
        );
    }

    #[test]
    fn what_only_the_spool_took_is_no_answer_of_what_is_behind_it() {
        let config = r#"{"mode":"platform","url":"http://h","data_dir":"/nowhere"}"#;
        let engine = Arc::new(Engine::new(config.to_owned(), crate::Config::read(config).unwrap()));
        lock(&engine.reach).failed(Instant::now(), "away");
        let settle = |in_spool: bool| {
            lock(&engine.queue).push(0, "e".to_owned(), Bytes::from_static(b"{}")).unwrap();
            let items = lock(&engine.queue).take(1, 10);
            assert!(Taken { engine: &engine, items }.settle(vec![Verdict::Durable { in_spool }]));
            lock(&engine.reach).away_for(Instant::now()).is_some()
        };
        assert!(settle(true), "still away");
        assert!(!settle(false));
    }

    #[test]
    fn a_door_that_does_not_answer_is_asked_again() {
        for (status, body) in [(503, "{}"), (500, "x"), (200, "x"), (429, "{}"), (400, "{}")] {
            assert!(verdicts(2, status, body.as_bytes()).iter().all(|v| matches!(v, Verdict::Again(_))), "{status}");
        }
        let alone = verdicts(1, 413, br#"{"status":413,"detail":"too large"}"#);
        assert_eq!(alone, [Verdict::Refused { class: "refused_413".into(), reason: "too large".into() }]);
    }

    #[test]
    fn a_batch_is_one_json_object() {
        let item = |json: &'static str| Item {
            number: 0,
            member: 0,
            event_id: String::new(),
            json: Bytes::from_static(json.as_bytes()),
        };
        assert_eq!(batch_body(&[item("1"), item("{}")]), r#"{"events":[1,{}]}"#);
    }
}
