//! What became of events: asked when somebody waits, and now and then.
//!
//! Promises: a wait ends with true only where every event of its member is applied (or was erased since); it ends with false when
//! its time is over, where any failed, or once nothing has answered for [`Config::unreachable_after`]; without a time it still
//! ends: an event that nobody knows, and a member none of whose events moves, are given up after a while.
//!
//! [`Config::unreachable_after`]: crate::config::Config::unreachable_after

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Phase, lock};
use crate::ledger::Tally;
use crate::notices::Level;
use crate::stats::add;
use crate::system::{System, ask};

/// The most events in one question.
const ASKED_AT_ONCE: usize = 1_000;
/// How long one question waits for ends at most: then it is looked again whether waiting is any use.
const SLICE: Duration = Duration::from_millis(500);
/// How long a wait sleeps at most where there is nothing to ask.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After how long an event that nobody knows is given up.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// After how long without any movement a wait without a time ends.
const STILL_FOR: Duration = Duration::from_mins(15);
/// How often events are asked about that nobody waits for.
const NOW_AND_THEN: Duration = Duration::from_secs(10);
/// Why an event died is asked for that many at a time.
const REASONS_ASKED: usize = 32;

#[derive(Deserialize)]
struct Ends {
    events: Vec<End>,
}

#[derive(Deserialize)]
struct End {
    event_id: String,
    status: String,
}

#[derive(Default, Deserialize)]
struct Died {
    #[serde(default)]
    class: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// What a look at a member says about its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Over(bool),
    /// Some are not durable yet, and none can be asked about.
    NotDurable,
    Ask,
}

fn look(tally: Tally, away_for: Option<Duration>, unreachable_after: Duration, still_for: Duration) -> Look {
    if tally.queued + tally.open == 0 {
        Look::Over(tally.failed == 0)
    } else if away_for.is_some_and(|away| away >= unreachable_after) || still_for >= STILL_FOR {
        Look::Over(false)
    } else if tally.open == 0 {
        Look::NotDurable
    } else {
        Look::Ask
    }
}

/// Waits until all that a member captured is applied.
pub(crate) async fn wait(engine: Arc<Engine>, member: u64, timeout: Option<Duration>) -> bool {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    let mut unknown_since: HashMap<u64, Instant> = HashMap::new();
    let (mut still_since, mut before) = (Instant::now(), Tally::default());
    let mut moved = engine.moved.subscribe();
    let mut is_first = true;
    loop {
        let now = Instant::now();
        watch_complaint(&engine, now);
        let tally = lock(&engine.ledger).tally(member);
        if tally != before {
            (still_since, before) = (now, tally);
        }
        let away = lock(&engine.reach).away_for(now).map(|(away, why)| (away, why.to_owned()));
        let left = end.map(|end| end.saturating_duration_since(now));
        match look(tally, away.as_ref().map(|(away, _)| *away), engine.config.unreachable_after, now - still_since) {
            Look::Over(applied) => {
                if let (false, Some((away, why))) = (applied, away) {
                    engine.note("unreachable", Level::Warning, || {
                        format!(
                            "memory waits no longer: {} has not answered for {} s: {why}",
                            engine.config.place(),
                            away.as_secs()
                        )
                    });
                }
                return applied;
            }
            // Asked at least once, also by who has no time.
            _ if left.is_some_and(|left| left.is_zero()) && !is_first => return false,
            Look::NotDurable => {
                let pause = left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN));
                let _ = tokio::time::timeout(pause, moved.changed()).await;
            }
            Look::Ask => {
                let slice = left.map_or(SLICE, |left| left.min(SLICE));
                let asking = async {
                    let _place = engine.waits.acquire().await;
                    let Some(system) = engine.system().await else { return false };
                    settle(&engine, &*system, member, slice, &mut unknown_since).await
                };
                // Beyond its slice a question is not waited for: what is behind may hang.
                let answered = tokio::time::timeout(slice + SLICE, asking).await.unwrap_or_else(|_| {
                    lock(&engine.reach).failed(Instant::now(), "it does not answer in time");
                    false
                });
                if !answered {
                    tokio::time::sleep(left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))).await;
                }
            }
        }
        is_first = false;
    }
}

/// The log may be away while reads are answered: the spool holds what nobody can apply then.
fn watch_complaint(engine: &Engine, now: Instant) {
    if let Some(why) = engine.complaint() {
        lock(&engine.reach).failed(now, why);
    }
}

/// Asks about the oldest events of a member, waiting up to `slice` for their ends. False where there was no answer.
async fn settle(
    engine: &Arc<Engine>,
    system: &dyn System,
    member: u64,
    slice: Duration,
    unknown_since: &mut HashMap<u64, Instant>,
) -> bool {
    let open = lock(&engine.ledger).oldest_open(member, ASKED_AT_ONCE);
    if open.is_empty() {
        return true;
    }
    let ids: Vec<&str> = open.iter().map(|(_, id)| id.as_str()).collect();
    let timeout_ms = u64::try_from(slice.as_millis()).unwrap_or(u64::MAX);
    let question = json!({"event_ids": ids, "timeout_ms": timeout_ms}).to_string();
    let (status, answer) = ask(system.router(), Method::POST, "/v1/events/wait", Some(question.into())).await;
    let ends: Ends = match serde_json::from_slice(&answer) {
        Ok(ends) if status == 200 => ends,
        _ => {
            let detail = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
            lock(&engine.reach).failed(Instant::now(), format!("asked for the ends of events it answers {status}: {detail}"));
            return false;
        }
    };
    if system.complaint().is_none() {
        lock(&engine.reach).answered();
    }
    let now = Instant::now();
    let mut died = Vec::new();
    let mut statuses: HashMap<String, String> = ends.events.into_iter().map(|end| (end.event_id, end.status)).collect();
    {
        let mut ledger = lock(&engine.ledger);
        for (number, event_id) in open {
            let status = statuses.remove(&event_id).unwrap_or_default();
            if status != "unknown" {
                unknown_since.remove(&number);
            }
            match status.as_str() {
                "applied" if ledger.ended(member, number) => add(&engine.stats.applied, 1),
                "erased" if ledger.ended(member, number) => add(&engine.stats.erased, 1),
                "dead_lettered" => died.push((number, event_id)),
                "unknown" if now.duration_since(*unknown_since.entry(number).or_insert(now)) >= UNKNOWN_FOR => {
                    unknown_since.remove(&number);
                    let reason = "it was durable, and nobody knows it any more";
                    if ledger.failed(member, number, "unknown", "unknown", reason) {
                        add(&engine.stats.failed, 1);
                    }
                }
                _ => {}
            }
        }
    }
    bury(engine, system, member, died).await;
    engine.moved.send_modify(|count| *count += 1);
    true
}

/// Notes dead letters, with what is known of why.
async fn bury(engine: &Arc<Engine>, system: &dyn System, member: u64, died: Vec<(u64, String)>) {
    for (place, (number, event_id)) in died.into_iter().enumerate() {
        let mut why = Died::default();
        if place < REASONS_ASKED {
            let path = format!("/v1/events/{}", encoded(&event_id));
            let (status, answer) = ask(system.router(), Method::GET, &path, None).await;
            if status == 200 {
                why = serde_json::from_slice(&answer).unwrap_or_default();
            }
        }
        let class = why.class.unwrap_or_else(|| "dead_lettered".to_owned());
        let reason = why.reason.unwrap_or_else(|| "its status says no more".to_owned());
        if lock(&engine.ledger).failed(member, number, "dead_lettered", &class, &reason) {
            add(&engine.stats.failed, 1);
            engine.note("dead", Level::Error, || format!("an event became no memory: {reason} ({class})"));
        }
    }
}

/// An id as a segment of a path.
fn encoded(id: &str) -> String {
    id.bytes().fold(String::with_capacity(id.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

/// Asks about what nobody waits for, so that ledgers stay small and dead letters are heard of, until `stop`.
pub(crate) async fn now_and_then(engine: Arc<Engine>, mut phase: watch::Receiver<Phase>, stop: CancellationToken) {
    let asking = async {
        let mut unknown_since: HashMap<u64, HashMap<u64, Instant>> = HashMap::new();
        loop {
            tokio::time::sleep(NOW_AND_THEN).await;
            let system = match phase.wait_for(|phase| matches!(phase, Phase::Up(_))).await.as_deref() {
                Ok(Phase::Up(system)) => Arc::clone(system),
                _ => return,
            };
            for (kind, level, text) in system.remarks() {
                engine.note(kind, level, || text);
            }
            let busiest = lock(&engine.ledger).busiest();
            unknown_since.retain(|member, _| busiest.iter().any(|(busy, _)| busy == member));
            for (member, open) in busiest {
                // In pieces: each question takes the oldest, and what has no end yet stays the oldest.
                for _ in 0..open.div_ceil(ASKED_AT_ONCE) {
                    let before = lock(&engine.ledger).tally(member).open;
                    let unknown = unknown_since.entry(member).or_default();
                    if !settle(&engine, &*system, member, Duration::ZERO, unknown).await
                        || lock(&engine.ledger).tally(member).open >= before
                    {
                        break;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = asking => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    fn tally(queued: usize, open: usize, failed: u64) -> Tally {
        Tally { queued, open, failed }
    }

    #[test]
    fn only_all_applied_is_true() {
        let look = |tally, away| look(tally, away, AFTER, Duration::ZERO);
        assert_eq!(look(tally(0, 0, 0), None), Look::Over(true));
        assert_eq!(look(tally(0, 0, 0), Some(AFTER * 2)), Look::Over(true), "what is applied stays so");
        assert_eq!(look(tally(0, 0, 1), None), Look::Over(false));
        assert_eq!(look(tally(0, 1, 1), None), Look::Ask, "the others are still waited for");
        assert_eq!(look(tally(1, 0, 0), None), Look::NotDurable);
        assert_eq!(look(tally(1, 1, 0), Some(AFTER / 2)), Look::Ask);
        assert_eq!(look(tally(1, 1, 0), Some(AFTER)), Look::Over(false));
        assert_eq!(super::look(tally(1, 1, 0), None, AFTER, STILL_FOR), Look::Over(false));
    }

    #[test]
    fn any_id_is_a_segment() {
        assert_eq!(encoded("a-b/c ü"), "a-b%2Fc%20%C3%BC");
    }
}
