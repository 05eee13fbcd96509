//! The shell around the paces: which endpoint is asked, when, and what becomes of the bound that the driver obeys.
//!
//! Promises: a call waits only shortly for its turn, then it goes back to the driver, which begins nothing while there is no room; a
//! call whose endpoint is in trouble is made once more at another one that has room; an open breaker is probed until a probe is
//! answered, and then what hangs from before is given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memori_event_log::driver::LiveBound;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use super::classify::CallError;
use super::client::{Answered, Client, advice};
use super::config::LlmConfig;
use super::dialect::Dialect;
use super::metrics::{self, Purpose};
use super::prompt::{self, ChatMessage};
use crate::extractor::RetryReason;
use crate::pace::{Call, Outcome, Pool, Position, Trouble, Wait};

/// How long a first call waits for its turn: longer waits are the driver's.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one waits that belongs to a call that was paid for.
const PATIENCE_OF_REPAIRS: Duration = Duration::from_secs(20);
/// How long it is waited whether a probe closes a breaker.
const PATIENCE_OF_PROBES: Duration = Duration::from_secs(3);
/// So many answers in a row, of different events or probes, mean that the endpoints work.
const WITNESSES: usize = 16;
/// Of them, so many probes are made at a time.
const TOGETHER: usize = 4;
/// What they said counts this long.
const FRESH: Duration = Duration::from_secs(10);
/// The same of witnesses that came by themselves.
const RECENT: Duration = Duration::from_secs(30);
/// Looked after at least this far apart.
const LEAST_SLEEP: Duration = Duration::from_millis(5);

/// One event's last call, or a probe.
#[derive(Clone, Copy, Debug)]
struct Witness {
    event: Option<u64>,
    at: Instant,
    failed: bool,
}

/// All endpoints, and how fast they may be asked.
pub(crate) struct Pacer {
    config: Arc<LlmConfig>,
    clients: Vec<Client>,
    pool: Mutex<Pool>,
    /// Something has ended or changed: waiting calls look again, and so does whoever looks after the bound.
    changed: Arc<Notify>,
    bound: LiveBound,
    /// Per endpoint: calls from before this are given up.
    given_up: Vec<watch::Sender<Option<Instant>>>,
    /// When a breaker closed and no other was.
    opened_again: Mutex<Option<Instant>>,
    witnesses: Mutex<VecDeque<Witness>>,
    asked: AsyncMutex<Option<(Instant, Result<(), String>)>>,
}

impl Pacer {
    /// # Errors
    /// No TLS on this machine.
    pub(crate) fn new(config: LlmConfig) -> Result<Self, String> {
        let config = Arc::new(config);
        let clients: Vec<Client> =
            config.endpoints.iter().map(|one| Client::new(Arc::clone(&config), one.clone())).collect::<Result<_, _>>()?;
        let terms: Vec<_> = config.endpoints.iter().map(|one| one.terms).collect();
        let pool = Pool::new(&terms, config.max_concurrency, Instant::now());
        let bound = LiveBound::new(pool.bound(Instant::now()));
        Ok(Self {
            given_up: clients.iter().map(|_| watch::Sender::new(None)).collect(),
            clients,
            pool: Mutex::new(pool),
            changed: Arc::default(),
            bound,
            opened_again: Mutex::default(),
            witnesses: Mutex::default(),
            asked: AsyncMutex::new(None),
            config,
        })
    }

    pub(crate) fn config(&self) -> &LlmConfig {
        &self.config
    }

    /// The endpoint of that place.
    pub(crate) fn client(&self, at: usize) -> &Client {
        &self.clients[at]
    }

    /// Runs with the pool locked: never across a wait.
    fn pool<T>(&self, f: impl FnOnce(&mut Pool) -> T) -> T {
        f(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an operator must mend or wait for, if anything.
    pub(crate) fn complaint(&self) -> Option<String> {
        const SILENT: &str = "it does not answer, and is probed until it does";
        let positions: Vec<Position> = self.pool(|pool| pool.endpoints().iter().map(|endpoint| endpoint.position()).collect());
        let own = |(client, position): (&Client, Position)| {
            let silent = || (position != Position::Closed).then(|| SILENT.to_owned());
            client.complaint().or_else(silent).map(|what| (client.config().name.clone(), what))
        };
        let all: Vec<_> = self.clients.iter().zip(positions).filter_map(own).collect();
        match &all[..] {
            [] => None,
            [(_, what)] if self.clients.len() == 1 => Some(what.clone()),
            several => Some(several.iter().map(|(name, what)| format!("endpoint {name}: {what}")).collect::<Vec<_>>().join("; ")),
        }
    }

    /// Whether every breaker is open.
    pub(crate) fn is_shut(&self) -> bool {
        self.pool(|pool| pool.is_shut())
    }

    /// When somebody was asked again after nobody was.
    pub(crate) fn open_since(&self) -> Option<Instant> {
        *self.opened_again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what it answers with, below `most`, for as long as this lives.
    pub(crate) fn look_after(self: &Arc<Self>, most: LiveBound) -> LiveBound {
        let pacer = Arc::downgrade(self);
        let changed = Arc::clone(&self.changed);
        tokio::spawn(async move {
            let mut moved = most.watch();
            loop {
                let notified = changed.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                // Held only while it is looked: where nobody else has it any more, this ends.
                let Some(this) = pacer.upgrade() else { return };
                let bound = *moved.borrow_and_update();
                this.pool(|pool| pool.set_most(bound));
                let wake_at = this.look().max(Instant::now() + LEAST_SLEEP);
                drop(this);
                tokio::select! {
                    () = notified => {}
                    // Never an error: `most` holds the other end.
                    _ = moved.changed() => {}
                    () = tokio::time::sleep_until(wake_at.into()) => {}
                }
            }
        });
        self.bound.clone()
    }

    /// What is due now; and when to look again at the latest.
    fn look(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let mut probes = Vec::new();
        let (bound, next) = self.pool(|pool| {
            for at in 0..self.clients.len() {
                let chance = rand::random();
                let endpoint = pool.endpoint(at);
                if endpoint.stalls_at().is_some_and(|stalls_at| stalls_at <= now) {
                    endpoint.stalled(now);
                    tracing::warn!(endpoint = self.clients[at].config().name, "calls are under way and none ends; probing");
                }
                if endpoint.probe_at().is_some_and(|probe_at| probe_at <= now) {
                    endpoint.probe_begins(now, chance);
                    probes.push(at);
                }
            }
            self.tell(pool);
            (pool.bound(now), pool.next_change(now))
        });
        self.bound.set(bound);
        for at in probes {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.probe(at).await });
        }
        next.unwrap_or(now + RECENT)
    }

    fn tell(&self, pool: &Pool) {
        for (client, endpoint) in self.clients.iter().zip(pool.endpoints()) {
            let (limit, in_flight) = (endpoint.limit(), endpoint.in_flight());
            metrics::paced(&client.config().name, limit, in_flight, endpoint.position());
        }
        metrics::usable(self.clients.iter().all(Client::is_usable));
    }

    async fn probe(self: Arc<Self>, at: usize) {
        let client = &self.clients[at];
        let (answer, _) = client.complete(Purpose::Probe, |_| prompt::probe()).await;
        let trouble = match &answer {
            Ok(_) => None,
            Err(error) => {
                if let CallError::Unsupported { .. } = error {
                    client.complain(&format!("{error}: {}", advice(RetryReason::Misconfigured)));
                }
                trouble_of_probe(error)
            }
        };
        let now = Instant::now();
        self.witnessed(None, trouble.is_some());
        let closed = self.pool(|pool| {
            let was_shut = pool.is_shut();
            let endpoint = pool.endpoint(at);
            let opened_at = endpoint.opened_at();
            let closed = endpoint.probe_ended(now, trouble, rand::random());
            // What is answered late though the endpoint works is answered by nobody any more.
            let hung = now.checked_sub(endpoint.long());
            if closed && was_shut {
                *self.opened_again.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
            }
            closed.then(|| opened_at.into_iter().chain(hung).min())
        });
        if let Some(before) = closed {
            tracing::info!(endpoint = client.config().name, "the endpoint answers again");
            self.given_up[at].send_replace(before);
        }
        self.changed.notify_waiters();
    }

    /// Asks an endpoint, and another one where the first is in trouble. `event` names what it is for.
    pub(crate) async fn complete(
        &self,
        purpose: Purpose,
        event: Option<u64>,
        messages: impl Fn(Dialect) -> Vec<ChatMessage>,
    ) -> Result<Answered, CallError> {
        let patience = if purpose == Purpose::Extract { PATIENCE } else { PATIENCE_OF_REPAIRS };
        // Rendering only to weigh is worth it only where tokens are counted.
        let weighs = self.pool(|pool| pool.counts_tokens());
        let weighs = if weighs { prompt::estimated_tokens(&messages(self.clients[0].dialect())) } else { 0 };
        let (at, call) = self.turn(weighs, patience).await?;
        let first = self.ask(at, call, purpose, &messages).await;
        let first = match first {
            Err(error) if self.clients.len() > 1 && is_of_the_endpoint(&error) => {
                let Ok((other, call)) = self.pool(|pool| pool.begin(Instant::now(), weighs, Some(at))) else {
                    self.witnessed(event, true);
                    return Err(error);
                };
                metrics::failed_over(&self.clients[at].config().name);
                self.ask(other, call, purpose, &messages).await
            }
            first => first,
        };
        let failed = first.as_ref().is_err_and(is_of_the_endpoint);
        self.witnessed(event, failed);
        first
    }

    /// Waits for a turn, but not for long.
    async fn turn(&self, weighs: u64, patience: Duration) -> Result<(usize, Call), CallError> {
        let began = Instant::now();
        let deadline = began + patience;
        let mut waited: Option<Wait> = None;
        let outcome = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let obstacle = match self.pool(|pool| pool.begin(now, weighs, None)) {
                Ok(turn) => break Ok(turn),
                Err(obstacle) => obstacle,
            };
            waited.get_or_insert(obstacle.wait);
            let is_hopeless = obstacle.wait == Wait::Breaker || obstacle.until.is_some_and(|until| until > deadline);
            if is_hopeless || now >= deadline {
                break Err(CallError::NotAsked(obstacle.wait));
            }
            let until = obstacle.until.map_or(deadline, |until| until.max(now + LEAST_SLEEP));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        };
        if let Some(wait) = waited {
            metrics::waited(wait, began.elapsed());
        }
        outcome
    }

    async fn ask(
        &self,
        at: usize,
        call: Call,
        purpose: Purpose,
        messages: &impl Fn(Dialect) -> Vec<ChatMessage>,
    ) -> Result<Answered, CallError> {
        // Should this be dropped half way, the call is off the count.
        let mut under_way = UnderWay { pacer: self, at, call: Some(call) };
        let client = &self.clients[at];
        let mut given_up = self.given_up[at].subscribe();
        let is_given_up = given_up.wait_for(|before| before.is_some_and(|before| call.began < before));
        let (mut answer, allowed) = tokio::select! {
            done = client.complete(purpose, messages) => done,
            _ = is_given_up => {
                metrics::called(purpose, "given_up", call.began.elapsed());
                return Err(CallError::NotAsked(Wait::Breaker));
            }
        };
        let now = Instant::now();
        if let Ok(answered) = &mut answer {
            answered.at = at;
        }
        let outcome = outcome_of(&answer, purpose);
        if let Outcome::Limited { .. } = outcome {
            metrics::limited(&client.config().name);
        }
        under_way.call = None;
        let opened = self.pool(|pool| {
            pool.endpoint(at).told(&call, now, allowed);
            let opened = pool.endpoint(at).end(call, now, outcome, rand::random());
            self.bound.set(pool.bound(now));
            self.tell(pool);
            opened
        });
        if opened {
            tracing::warn!(endpoint = client.config().name, "the endpoint fails for everybody; it is probed until it answers");
        }
        self.changed.notify_waiters();
        answer
    }

    fn witnessed(&self, event: Option<u64>, failed: bool) {
        let mut all = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        // An event that is tried again is still one witness.
        if event.is_some() {
            all.retain(|witness| witness.event != event);
        }
        all.push_back(Witness { event, at: Instant::now(), failed });
        if all.len() > WITNESSES + 1 {
            all.pop_front();
        }
    }

    /// Whether enough of those who asked lately and were told since then were answered, whoever asks now aside.
    fn is_known_to_work(&self, since: Instant) -> bool {
        let all = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        let recent: Vec<_> = all.iter().filter(|witness| witness.at >= since && witness.at.elapsed() < RECENT).collect();
        recent.len() > WITNESSES && recent.iter().filter(|witness| witness.failed).count() <= 1
    }

    async fn no_longer_shut(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_shut() {
                return;
            }
            changed.await;
        }
    }

    /// [`Pacer::works`], for whoever may take what was seen a little ago for what is.
    pub(crate) async fn works_lately(&self) -> Result<(), String> {
        let now = Instant::now();
        self.works(now.checked_sub(FRESH).unwrap_or(now)).await
    }

    /// Whether the endpoints have worked for anybody since then: known from others, or asked with a few cheap calls that must all be
    /// answered, since a provider that fails half of its calls must not be believed by the other half.
    pub(crate) async fn works(&self, since: Instant) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if !self.is_shut() && self.is_known_to_work(since) {
            return Ok(());
        }
        if let Some((at, result)) = &*asked
            && (*at >= since || result.is_err())
            && at.elapsed() < FRESH
        {
            return result.clone();
        }
        // One event alone may have opened the breaker: then the next probe closes it.
        if tokio::time::timeout(PATIENCE_OF_PROBES, self.no_longer_shut()).await.is_err() {
            let result = Err("no endpoint answers".to_owned());
            *asked = Some((Instant::now(), result.clone()));
            return result;
        }
        let mut result = Ok(());
        let begin = Instant::now();
        for _ in 0..WITNESSES / TOGETHER {
            let probes = (0..TOGETHER).map(|_| self.complete(Purpose::Probe, None, |_| prompt::probe()));
            let failed = futures::future::join_all(probes).await.into_iter().find_map(Result::err);
            if let Some(error) = failed {
                if let CallError::Unsupported { .. } = error {
                    self.clients[0].complain(&format!("{error}: {}", advice(RetryReason::Misconfigured)));
                }
                result = Err(error.to_string());
                break;
            }
        }
        *asked = Some((begin, result.clone()));
        result
    }
}

struct UnderWay<'a> {
    pacer: &'a Pacer,
    at: usize,
    call: Option<Call>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let now = Instant::now();
        self.pacer.pool(|pool| {
            pool.endpoint(self.at).end(call, now, Outcome::Abandoned, 0.5);
            self.pacer.bound.set(pool.bound(now));
        });
        self.pacer.changed.notify_waiters();
    }
}

/// Whether another endpoint may do better.
fn is_of_the_endpoint(error: &CallError) -> bool {
    matches!(error, CallError::Transient { .. })
}

fn trouble(reason: RetryReason) -> Option<Trouble> {
    match reason {
        RetryReason::Timeout | RetryReason::Unavailable => Some(Trouble::Passing),
        RetryReason::Misconfigured | RetryReason::OutOfQuota => Some(Trouble::Lasting),
        RetryReason::RateLimited | RetryReason::NotAsked => None,
    }
}

fn trouble_of_probe(error: &CallError) -> Option<Trouble> {
    match error {
        CallError::Transient { reason, .. } => trouble(*reason),
        CallError::Unsupported { .. } => Some(Trouble::Lasting),
        CallError::TooLarge(_) | CallError::Refused(_) | CallError::NotAsked(_) => None,
    }
}

fn outcome_of(answer: &Result<Answered, CallError>, purpose: Purpose) -> Outcome {
    match answer {
        // How long so short a call takes says nothing about others.
        Ok(_) if purpose == Purpose::Probe => Outcome::Refused,
        Ok(answered) => {
            let tokens = answered.tokens;
            Outcome::Answered { tokens: tokens.read.saturating_add(tokens.written), written: tokens.written }
        }
        Err(CallError::Transient { reason: RetryReason::RateLimited, retry_after, .. }) => {
            Outcome::Limited { retry_after: *retry_after }
        }
        // A server that says when it will have room is busy, not broken.
        Err(CallError::Transient { reason: RetryReason::Unavailable, retry_after: Some(wait), .. }) => {
            Outcome::Limited { retry_after: Some(*wait) }
        }
        Err(CallError::Transient { reason, .. }) => match trouble(*reason) {
            Some(trouble) => Outcome::Failed { trouble, late: *reason == RetryReason::Timeout },
            None => Outcome::Refused,
        },
        Err(CallError::Unsupported { .. } | CallError::TooLarge(_) | CallError::Refused(_) | CallError::NotAsked(_)) => {
            Outcome::Refused
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}
