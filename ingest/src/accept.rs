//! Accepting events: the door's judgement, then the log, then memory of it.
//!
//! Promises: requests that race for one id are judged one after the other; what was handed to the log is settled and remembered even
//! if its caller went away; with [`Lookup::Exact`] (one process) no id is ever accepted with two contents.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memori_schemas::{ContentHash, EntityKey, Lane, Micros};
use memori_service::problem::Problem;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;

use crate::backend::{BackendError, WriterBackend};
use crate::door::{Accepted, Claim, EventName, Judgement, RecentEvents, judge};
use crate::flush::Awaited;
use crate::metrics;
use crate::new_event::NewEvent;
use crate::publish::{DurableIn, Publisher};

/// The most names in one question to the writer.
const NAMES_A_QUESTION: usize = 1_000;

/// How ids are looked up at the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Replicas: no answer within this time means: accept.
    BestEffort(Duration),
    /// One process with its writer inside: the writer always answers, and the table keeps what the writer does not know yet.
    Exact,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Accepted(DurableIn),
    /// It was before.
    Duplicate(DurableIn),
    /// It is not.
    Refused(Problem),
}

/// The door.
pub struct Acceptor {
    recent: Mutex<RecentEvents>,
    busy: Mutex<HashSet<EventName>>,
    freed: Notify,
    shrinking: tokio::sync::Mutex<()>,
    clock: Clock,
    backend: WriterBackend,
    lookup: Lookup,
    publisher: Publisher,
}

/// The system's clock, never giving one microsecond twice: events that came one after the other stay in that order.
#[derive(Debug, Default)]
struct Clock(AtomicI64);

impl Clock {
    fn tick(&self) -> Micros {
        let now = Micros::now().0;
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        Micros(now.max(last.unwrap_or_else(|last| last) + 1))
    }
}

/// The right to decide about some names; others wait for its end.
struct Turn<'a> {
    acceptor: &'a Acceptor,
    names: HashSet<EventName>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.acceptor.busy);
        for name in &self.names {
            busy.remove(name);
        }
        drop(busy);
        self.acceptor.freed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be done with one event of a request.
enum Plan {
    /// Publish, as number so many of what is published.
    Publish(usize),
    /// The same as a published one of this request.
    SameAs(usize),
    /// Another content than a published one of this request.
    Contradicts(usize),
    /// Decided.
    Done(Outcome),
}

impl Acceptor {
    /// Remembers what `recent` holds.
    #[must_use]
    pub fn new(recent: RecentEvents, backend: WriterBackend, lookup: Lookup, publisher: Publisher) -> Self {
        Self {
            recent: Mutex::new(recent),
            busy: Mutex::default(),
            freed: Notify::new(),
            shrinking: tokio::sync::Mutex::default(),
            clock: Clock::default(),
            backend,
            lookup,
            publisher,
        }
    }

    /// Now, later than any event that was accepted before.
    pub fn now(&self) -> Micros {
        self.clock.tick()
    }

    /// Remembers what was accepted by others, or before this process started.
    pub(crate) fn remember_older(&self, older: RecentEvents) {
        lock(&self.recent).remember_older(older);
    }

    /// Where records go.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// When an event was accepted, where the door remembers it or the spool holds it.
    pub fn accepted_at(&self, tenant: &str, event_id: &str) -> Option<Micros> {
        let name = EventName::new(tenant, event_id);
        let recent = lock(&self.recent).get(&name).iter().map(|accepted| accepted.accepted_at).min();
        recent.or_else(|| self.publisher.spooled_at(tenant, event_id))
    }

    /// Where an event is on the log, as far as the door remembers it: under one id perhaps several. None that waits in the spool.
    pub(crate) fn on_the_log(&self, tenant: &str, event_id: &str) -> Vec<Awaited> {
        if self.publisher.spooled_at(tenant, event_id).is_some() {
            return Vec::new();
        }
        let recent = lock(&self.recent);
        let place = |accepted: &Accepted| Awaited {
            entity_id: Arc::clone(&accepted.entity_id),
            lane: accepted.lane,
            accepted_at: accepted.accepted_at,
        };
        recent.get(&EventName::new(tenant, event_id)).iter().map(place).collect()
    }

    /// Accepts events of one request into a lane, in order. Answers, in the same order, each event's id and what became of it.
    /// Runs to its end on its own task, whatever becomes of the caller.
    pub async fn accept(
        self: &Arc<Self>,
        tenant: Arc<str>,
        events: Vec<NewEvent>,
        lane: Lane,
        traceparent: Option<String>,
    ) -> Vec<(String, Outcome)> {
        let ids: Vec<String> =
            events.iter().map(|event| event.event_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string())).collect();
        let acceptor = Arc::clone(self);
        let named = ids.clone();
        let accepting = tokio::spawn(async move { acceptor.decide(&tenant, events, &named, lane, traceparent.as_deref()).await });
        let outcomes = match accepting.await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(%error, "accepting ended early");
                vec![Outcome::Refused(Problem::internal()); ids.len()]
            }
        };
        for outcome in &outcomes {
            match outcome {
                Outcome::Accepted(durable_in) => metrics::accepted(durable_in.as_str()),
                Outcome::Duplicate(_) => metrics::count(metrics::DUPLICATES, 1),
                Outcome::Refused(problem) => metrics::rejected(problem.status),
            }
        }
        ids.into_iter().zip(outcomes).collect()
    }

    async fn decide(
        &self,
        tenant: &str,
        events: Vec<NewEvent>,
        ids: &[String],
        lane: Lane,
        traceparent: Option<&str>,
    ) -> Vec<Outcome> {
        if let Err(problem) = self.make_room().await {
            return vec![Outcome::Refused(problem); events.len()];
        }
        let names: Vec<EventName> = ids.iter().map(|id| EventName::new(tenant, id)).collect();
        let claims: Vec<Claim> = events
            .iter()
            .map(|event| {
                let claim = Claim::of_new(event, tenant, event.content_hash());
                // Two exports of one conversation may disagree about times; what was said is the same.
                if lane == Lane::Backfill { claim.of_content_alone() } else { claim }
            })
            .collect();
        metrics::count(metrics::CONTEXT_BLOCKS_REMOVED, events.iter().map(|event| event.context_blocks_removed).sum());
        // Only an id that the client gave can have been seen before.
        let given: HashSet<EventName> =
            events.iter().zip(&names).filter(|(event, _)| event.event_id.is_some()).map(|(_, name)| name.clone()).collect();
        let turn = self.take_turn(given).await;
        let unseen: Vec<EventName> = {
            let recent = lock(&self.recent);
            let mut unseen: Vec<_> = turn.names.iter().filter(|name| recent.get(name).is_empty()).cloned().collect();
            unseen.sort_unstable();
            unseen
        };
        let known = match self.ask_known(tenant, &unseen).await {
            Ok(known) => known,
            Err(problem) => return vec![Outcome::Refused(problem); events.len()],
        };

        let mut plans = Vec::with_capacity(events.len());
        let mut records = Vec::new();
        let mut published: Vec<(usize, Arc<str>, Micros)> = Vec::new();
        let mut first_under: HashMap<&EventName, (usize, usize)> = HashMap::new();
        for (place, event) in events.into_iter().enumerate() {
            let (name, claim) = (&names[place], &claims[place]);
            if let Some((first, number)) = first_under.get(name) {
                let same = claim.says_the_same(&claims[*first]);
                plans.push(if same { Plan::SameAs(*number) } else { Plan::Contradicts(*number) });
                continue;
            }
            let judgement = match lock(&self.recent).judge(name, claim) {
                Judgement::Unknown => judge(claim, known.get(&*name.event_id).into_iter().flatten()),
                judged => judged,
            };
            plans.push(match judgement {
                Judgement::Duplicate => Plan::Done(Outcome::Duplicate(self.durable_in(name))),
                Judgement::Conflict => Plan::Done(Outcome::Refused(conflict())),
                Judgement::Unknown => {
                    let accepted_at = self.clock.tick();
                    let number = records.len();
                    first_under.insert(name, (place, number));
                    published.push((place, event.entity_id.as_str().into(), accepted_at));
                    records.push(event.into_record(tenant, name.event_id.to_string(), claim.content_hash, accepted_at));
                    Plan::Publish(number)
                }
            });
        }

        let results = if records.is_empty() { Vec::new() } else { self.publisher.publish(records, lane, traceparent).await };
        {
            let mut recent = lock(&self.recent);
            for ((place, entity_id, accepted_at), result) in published.into_iter().zip(&results) {
                if result.is_ok() {
                    let accepted = Accepted { claim: claims[place].clone(), entity_id, lane, accepted_at };
                    recent.remember(names[place].clone(), accepted);
                }
            }
            if self.lookup != Lookup::Exact {
                recent.forget_surplus();
            }
            metrics::level(metrics::RECENT_EVENTS, recent.len());
        }
        drop(turn);
        plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Done(outcome) => outcome,
                Plan::Publish(number) => match &results[number] {
                    Ok(durable_in) => Outcome::Accepted(*durable_in),
                    Err(problem) => Outcome::Refused(problem.clone()),
                },
                Plan::SameAs(number) => match &results[number] {
                    Ok(durable_in) => Outcome::Duplicate(*durable_in),
                    Err(problem) => Outcome::Refused(problem.clone()),
                },
                Plan::Contradicts(number) => match &results[number] {
                    Ok(_) => Outcome::Refused(conflict()),
                    Err(problem) => Outcome::Refused(problem.clone()),
                },
            })
            .collect()
    }

    fn durable_in(&self, name: &EventName) -> DurableIn {
        if self.publisher.spooled_at(&name.tenant, &name.event_id).is_some() { DurableIn::Spool } else { DurableIn::Log }
    }

    /// Waits until nobody else decides about any of these names. All or none are taken, so that no two requests wait for each other.
    async fn take_turn(&self, names: HashSet<EventName>) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that no end is missed in between.
            freed.as_mut().enable();
            {
                let mut busy = lock(&self.busy);
                if names.is_disjoint(&busy) {
                    busy.extend(names.iter().cloned());
                    return Turn { acceptor: self, names };
                }
            }
            freed.await;
        }
    }

    /// What the writer knows under these names, by event id.
    async fn ask_known(&self, tenant: &str, names: &[EventName]) -> Result<HashMap<String, Vec<Claim>>, Problem> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let (timeout, exact) = match self.lookup {
            Lookup::BestEffort(timeout) => (timeout, false),
            Lookup::Exact => (Duration::from_secs(30), true),
        };
        match known_at_writer(&self.backend, tenant, names, timeout).await {
            Ok(known) => {
                metrics::lookup(true);
                Ok(known)
            }
            Err(error) if exact => {
                tracing::error!(%error, "the store does not say which events it knows");
                Err(Problem::unavailable("the store is not readable now", 1))
            }
            Err(error) => {
                tracing::debug!(%error, "accepting without the writer's look-up");
                metrics::lookup(false);
                Ok(HashMap::new())
            }
        }
    }

    /// Where the table must not forget what the writer does not know: forgets what it does know by now, and refuses where that
    /// leaves the table far over its bound.
    async fn make_room(&self) -> Result<(), Problem> {
        if self.lookup != Lookup::Exact || !lock(&self.recent).is_over() {
            return Ok(());
        }
        let _one_at_a_time = self.shrinking.lock().await;
        while lock(&self.recent).is_over() {
            let oldest: Vec<(EventName, Vec<Claim>)> = {
                let recent = lock(&self.recent);
                let mut names: Vec<&EventName> = Vec::new();
                for name in recent.oldest(NAMES_A_QUESTION) {
                    // One question is about one tenant.
                    if names.first().is_some_and(|first| first.tenant != name.tenant) {
                        break;
                    }
                    names.push(name);
                }
                names.into_iter().map(|name| (name.clone(), recent.get(name).iter().map(|a| a.claim.clone()).collect())).collect()
            };
            let Some((first, _)) = oldest.first() else { break };
            let tenant = Arc::clone(&first.tenant);
            let names: Vec<EventName> = oldest.iter().map(|(name, _)| name.clone()).collect();
            let known = self.ask_known(&tenant, &names).await?;
            let settled = oldest
                .iter()
                .take_while(|(name, claims)| {
                    let known = known.get(&*name.event_id);
                    claims
                        .iter()
                        .all(|claim| known.is_some_and(|known| known.iter().any(|k| k.content_hash == claim.content_hash)))
                })
                .count();
            let mut recent = lock(&self.recent);
            for _ in 0..settled {
                recent.forget_oldest();
            }
            if settled < oldest.len() {
                let far_over = recent.is_far_over();
                drop(recent);
                return if far_over {
                    Err(Problem::unavailable("the store is behind; events are accepted once it has caught up", 1))
                } else {
                    Ok(())
                };
            }
        }
        Ok(())
    }
}

fn conflict() -> Problem {
    Problem::conflict("another event with other content was accepted under this event_id")
}

#[derive(Deserialize)]
struct KnownAnswer {
    events: Vec<KnownEvent>,
}

/// One event as the writer knows it. An erased one has no client fields.
#[derive(Deserialize)]
struct KnownEvent {
    event_id: String,
    entity_key: String,
    content_hash: String,
    #[serde(default)]
    occurred_at_us: Option<i64>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    message_ids: Option<Vec<Option<String>>>,
    #[serde(default)]
    created_at_us: Option<Vec<Option<i64>>>,
}

/// Asks the writer which of these names (of one tenant) it knows, and with what content.
///
/// # Errors
/// Where it does not answer as agreed within `timeout`.
pub(crate) async fn known_at_writer(
    backend: &WriterBackend,
    tenant: &str,
    names: &[EventName],
    timeout: Duration,
) -> Result<HashMap<String, Vec<Claim>>, BackendError> {
    let mut known: HashMap<String, Vec<Claim>> = HashMap::new();
    for names in names.chunks(NAMES_A_QUESTION) {
        let question = json!({"event_ids": names.iter().map(|name| &*name.event_id).collect::<Vec<_>>()});
        let unexpected = |detail: &str| BackendError::Unexpected { status: http::StatusCode::OK, detail: detail.to_owned() };
        let answer = backend.ask(tenant, "/internal/v1/events/known", Some(&question), timeout).await?;
        let answer: KnownAnswer = serde_json::from_value(answer.unwrap_or_default()).map_err(|e| unexpected(&e.to_string()))?;
        for event in answer.events {
            let key = hex::decode(&event.entity_key).ok().and_then(|bytes| EntityKey::from_slice(&bytes));
            let hash = hex::decode(&event.content_hash).ok().and_then(|bytes| ContentHash::from_slice(&bytes));
            let (Some(entity_key), Some(content_hash)) = (key, hash) else { return Err(unexpected("keys that are no keys")) };
            known.entry(event.event_id).or_default().push(Claim {
                entity_key,
                content_hash,
                occurred_at: event.occurred_at_us.map(Micros),
                session_id: event.session_id,
                message_ids: event.message_ids.unwrap_or_default(),
                created_at: event.created_at_us.unwrap_or_default().into_iter().map(|at| at.map(Micros)).collect(),
            });
        }
    }
    Ok(known)
}
