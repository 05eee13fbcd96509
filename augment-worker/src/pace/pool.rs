//! Endpoints beside each other: who gets the next call, and how many calls there may be.

use std::time::Instant;

use super::breaker::Position;
use super::endpoint::{Call, Endpoint, Terms, Wait};

/// Endpoints beside each other.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    endpoints: Vec<Endpoint>,
    /// Whose turn it is: smooth weighted round robin.
    turns: Vec<i64>,
    most: usize,
}

/// Why no call can begin, and until when at least, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) wait: Wait,
    pub(crate) until: Option<Instant>,
}

impl Pool {
    /// `most` calls at a time by all of them together.
    pub(crate) fn new(terms: &[Terms], most: usize, now: Instant) -> Self {
        let mut pool =
            Self { endpoints: terms.iter().map(|terms| Endpoint::new(*terms, now)).collect(), turns: vec![0; terms.len()], most };
        pool.set_most(most);
        pool
    }

    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
        for endpoint in &mut self.endpoints {
            endpoint.set_most(self.most);
        }
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn endpoint(&mut self, at: usize) -> &mut Endpoint {
        &mut self.endpoints[at]
    }

    /// Begins a call with a prompt of so many tokens at the endpoint whose turn it is, but not at `other_than`.
    ///
    /// # Errors
    /// What stands in the way at all of them; the least of it.
    pub(crate) fn begin(&mut self, now: Instant, prompt: u64, other_than: Option<usize>) -> Result<(usize, Call), Obstacle> {
        let in_flight: usize = self.endpoints.iter().map(Endpoint::in_flight).sum();
        let mut ready = Vec::new();
        let mut least: Option<Obstacle> = None;
        for (at, endpoint) in self.endpoints.iter().enumerate().filter(|(at, _)| Some(*at) != other_than) {
            let found = endpoint.obstacle(now, endpoint.expected_tokens(prompt));
            let found = if found.is_none() && in_flight >= self.most { Some((Wait::Limit, None)) } else { found };
            let Some((wait, until)) = found else {
                ready.push(at);
                continue;
            };
            // What passes with the next call's end, before what passes at a time, before what nobody knows.
            let rank = |obstacle: &Obstacle| (obstacle.wait != Wait::Limit, obstacle.until.is_none(), obstacle.until);
            let obstacle = Obstacle { wait, until };
            if least.as_ref().is_none_or(|least| rank(&obstacle) < rank(least)) {
                least = Some(obstacle);
            }
        }
        let Some(at) = self.turn_of(&ready) else {
            return Err(least.unwrap_or(Obstacle { wait: Wait::Breaker, until: None }));
        };
        let tokens = self.endpoints[at].expected_tokens(prompt);
        Ok((at, self.endpoints[at].begin(now, tokens)))
    }

    /// Each gets turns by its weight, among those that are ready.
    fn turn_of(&mut self, ready: &[usize]) -> Option<usize> {
        let weight = |at: &usize| i64::from(self.endpoints[*at].weight.max(1));
        let all: i64 = ready.iter().map(weight).sum();
        for at in ready {
            self.turns[*at] += i64::from(self.endpoints[*at].weight.max(1));
        }
        let next = *ready.iter().max_by_key(|at| (self.turns[**at], std::cmp::Reverse(**at)))?;
        self.turns[next] -= all;
        Some(next)
    }

    /// How many calls there may be in flight now.
    pub(crate) fn bound(&self, now: Instant) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.in_flight() + endpoint.room(now)).sum::<usize>().min(self.most)
    }

    /// Whether any endpoint's tokens are counted, by us or by its provider.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.endpoints.iter().any(Endpoint::counts_tokens)
    }

    /// Whether no endpoint's breaker is closed.
    pub(crate) fn is_shut(&self) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.position() != Position::Closed)
    }

    /// When something may change that no call's end tells: room, a probe, a stall.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        let of = |endpoint: &Endpoint| [endpoint.room_at(now), endpoint.probe_at(), endpoint.stalls_at()];
        self.endpoints.iter().flat_map(of).flatten().min()
    }
}
