//! Limiters against providers with hidden capacities, in virtual time: what they settle at, and how they share.
//!
//! Every run is a function of its seed, which a failure prints.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::{Allowed, Call, Outcome, Pool, Position, Remaining, Terms, Trouble, Wait};

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// What a provider does beyond its capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beyond {
    /// 429, with this `Retry-After`.
    Refuse(Option<Duration>),
    /// It queues.
    Queue,
}

/// So many requests per minute, counted by a bucket with this burst.
#[derive(Clone, Copy, Debug)]
struct PerMinute {
    requests: f64,
    burst: f64,
    /// Whether answers say what is left.
    says: bool,
}

#[derive(Clone, Copy, Debug)]
struct Provider {
    slots: usize,
    beyond: Beyond,
    per_minute: Option<PerMinute>,
    /// Of a call, in seconds, and its scatter as the deviation of its logarithm.
    service: f64,
    scatter: f64,
    /// What it fails by, while it is down.
    down: Option<Down>,
    /// After so long a client gives up, in seconds.
    timeout: f64,
    /// Of the calls, those that fail whoever makes them: they are about events that cannot be extracted.
    hopeless: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Down {
    /// It says at once that it cannot, or that it will not.
    Says(Trouble),
    /// It never answers.
    Hangs,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            slots: usize::MAX,
            beyond: Beyond::Queue,
            per_minute: None,
            service: 1.0,
            scatter: 0.0,
            down: None,
            timeout: f64::INFINITY,
            hopeless: 0.0,
        }
    }
}

enum Happens {
    /// An answer reaches its client.
    Answer {
        client: usize,
        call: Call,
        outcome: Outcome,
        allowed: Allowed,
    },
    /// A service ends at the provider.
    Served {
        client: usize,
        call: Call,
    },
    Probe {
        client: usize,
        trouble: Option<Trouble>,
    },
    Look {
        client: usize,
    },
}

struct Simulation {
    start: Instant,
    now_us: u64,
    provider: Provider,
    clients: Vec<Pool>,
    looks_at: Vec<Option<u64>>,
    happens: BinaryHeap<Reverse<(u64, u64)>>,
    what: std::collections::HashMap<u64, Happens>,
    number: u64,
    busy: usize,
    queue: VecDeque<(usize, Call)>,
    bucket: (f64, u64),
    chance: Chance,
    /// Answers of each client, and the sum of its limit over time, since the last look.
    served: Vec<u64>,
    limit_us: Vec<f64>,
    since_us: u64,
    refused: u64,
    most_in_flight: usize,
}

const ROUND_TRIP_US: u64 = 20_000;

impl Simulation {
    fn new(seed: u64, clients: usize, most: usize, provider: Provider) -> Self {
        let start = Instant::now();
        let terms = Terms { weight: 1, most, is_adaptive: true, requests_per_minute: None, tokens_per_minute: None };
        Self::of(seed, (0..clients).map(|_| Pool::new(&[terms], most, start)).collect(), provider, start)
    }

    fn of(seed: u64, clients: Vec<Pool>, provider: Provider, start: Instant) -> Self {
        let n = clients.len();
        let mut simulation = Self {
            start,
            now_us: 0,
            provider,
            clients,
            looks_at: vec![None; n],
            happens: BinaryHeap::new(),
            what: std::collections::HashMap::new(),
            number: 0,
            busy: 0,
            queue: VecDeque::new(),
            bucket: (provider.per_minute.map_or(0.0, |per_minute| per_minute.burst), 0),
            chance: Chance(seed),
            served: vec![0; n],
            limit_us: vec![0.0; n],
            since_us: 0,
            refused: 0,
            most_in_flight: 0,
        };
        for client in 0..n {
            let at = (simulation.chance.unit() * 5e5) as u64;
            simulation.then(at, Happens::Look { client });
        }
        simulation
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    fn then(&mut self, in_us: u64, what: Happens) {
        self.number += 1;
        self.happens.push(Reverse((self.now_us + in_us, self.number)));
        self.what.insert(self.number, what);
    }

    /// Goes on for so many seconds, and forgets what was measured before.
    fn run(&mut self, seconds: u64) -> &mut Self {
        self.run_ms(seconds * 1_000)
    }

    fn run_ms(&mut self, milliseconds: u64) -> &mut Self {
        self.served.fill(0);
        self.limit_us.fill(0.0);
        self.since_us = self.now_us;
        self.refused = 0;
        self.most_in_flight = 0;
        let end = self.now_us + milliseconds * 1_000;
        while let Some(Reverse((at, number))) = self.happens.peek().copied().filter(|Reverse((at, _))| *at <= end) {
            self.happens.pop();
            for (sum, client) in self.limit_us.iter_mut().zip(&self.clients) {
                *sum += client.endpoints().iter().map(|e| e.limit()).sum::<usize>() as f64 * (at - self.now_us) as f64;
            }
            self.now_us = at;
            let what = self.what.remove(&number).expect("it was put there");
            self.happened(what);
        }
        for (sum, client) in self.limit_us.iter_mut().zip(&self.clients) {
            *sum += client.endpoints().iter().map(|e| e.limit()).sum::<usize>() as f64 * (end - self.now_us) as f64;
        }
        self.now_us = end;
        self
    }

    fn happened(&mut self, what: Happens) {
        let now = self.now();
        match what {
            Happens::Answer { client, call, outcome, allowed } => {
                let chance = self.chance.unit();
                let endpoint = self.clients[client].endpoint(0);
                endpoint.told(&call, now, allowed);
                endpoint.end(call, now, outcome, chance);
                match outcome {
                    Outcome::Answered { .. } => self.served[client] += 1,
                    Outcome::Limited { .. } => self.refused += 1,
                    _ => {}
                }
                self.ask(client);
            }
            Happens::Served { client, call } => {
                self.busy -= 1;
                let allowed = self.said();
                let is_hopeless = self.provider.hopeless > 0.0 && self.chance.unit() < self.provider.hopeless;
                let outcome = if is_hopeless {
                    Outcome::Failed { trouble: Trouble::Passing, late: false }
                } else {
                    Outcome::Answered { tokens: 1_000, written: 200 }
                };
                self.then(ROUND_TRIP_US / 2, Happens::Answer { client, call, outcome, allowed });
                while self.busy < self.provider.slots
                    && let Some((client, call)) = self.queue.pop_front()
                {
                    self.serve(client, call);
                }
            }
            Happens::Probe { client, trouble } => {
                let chance = self.chance.unit();
                self.clients[client].endpoint(0).probe_ended(now, trouble, chance);
                self.ask(client);
            }
            Happens::Look { client } => {
                self.looks_at[client] = None;
                self.ask(client);
            }
        }
    }

    /// A client begins whatever it may, and looks again when that may change.
    fn ask(&mut self, client: usize) {
        let now = self.now();
        let chance = self.chance.unit();
        if self.clients[client].endpoint(0).probe_at().is_some_and(|at| at <= now) {
            self.clients[client].endpoint(0).probe_begins(now, chance);
            let trouble = self.provider.down.map(|down| if let Down::Says(trouble) = down { trouble } else { Trouble::Passing });
            self.then(ROUND_TRIP_US, Happens::Probe { client, trouble });
        }
        while let Ok((_, call)) = self.clients[client].begin(now, 800, None) {
            self.arrives(client, call);
        }
        self.most_in_flight = self.most_in_flight.max(self.clients.iter().map(|c| c.endpoint_in_flight()).sum());
        if let Some(at) = self.clients[client].next_change(now) {
            let in_us = (at.saturating_duration_since(now).as_micros() as u64).max(1_000);
            let at_us = self.now_us + in_us;
            if self.looks_at[client].is_none_or(|looks_at| looks_at > at_us) {
                self.looks_at[client] = Some(at_us);
                self.then(in_us, Happens::Look { client });
            }
        }
    }

    fn arrives(&mut self, client: usize, call: Call) {
        let refuse = |wait: Option<Duration>| Outcome::Limited { retry_after: wait };
        let answer = |outcome, allowed| Happens::Answer { client, call, outcome, allowed };
        if let Some(Down::Says(trouble)) = self.provider.down {
            let failed = Outcome::Failed { trouble, late: false };
            return self.then(ROUND_TRIP_US, answer(failed, Allowed::default()));
        }
        if let Some(per_minute) = self.provider.per_minute {
            self.fill(per_minute);
            if self.bucket.0 < 1.0 {
                let seconds = (1.0 - self.bucket.0) / (per_minute.requests / 60.0);
                let allowed = self.said();
                // As providers do: whole seconds.
                return self.then(ROUND_TRIP_US, answer(refuse(Some(Duration::from_secs_f64(seconds.ceil()))), allowed));
            }
            self.bucket.0 -= 1.0;
        }
        if self.busy < self.provider.slots {
            return self.serve(client, call);
        }
        match self.provider.beyond {
            Beyond::Refuse(wait) => self.then(ROUND_TRIP_US, answer(refuse(wait), Allowed::default())),
            Beyond::Queue => self.queue.push_back((client, call)),
        }
    }

    fn serve(&mut self, client: usize, call: Call) {
        let seconds = self.provider.service * (self.provider.scatter * self.chance.normal()).exp();
        if self.provider.down == Some(Down::Hangs) || seconds > self.provider.timeout {
            let outcome = Outcome::Failed { trouble: Trouble::Passing, late: true };
            let late = Happens::Answer { client, call, outcome, allowed: Allowed::default() };
            return self.then((self.provider.timeout * 1e6) as u64, late);
        }
        self.busy += 1;
        self.then((seconds * 1e6) as u64 + ROUND_TRIP_US / 2, Happens::Served { client, call });
    }

    fn fill(&mut self, per_minute: PerMinute) {
        let passed = (self.now_us - self.bucket.1) as f64 / 1e6;
        self.bucket = ((self.bucket.0 + passed * per_minute.requests / 60.0).min(per_minute.burst), self.now_us);
    }

    fn said(&mut self) -> Allowed {
        let Some(per_minute) = self.provider.per_minute.filter(|per_minute| per_minute.says) else { return Allowed::default() };
        self.fill(per_minute);
        let missing = per_minute.burst - self.bucket.0;
        let remaining = Remaining {
            remaining: self.bucket.0.max(0.0) as u64,
            limit: Some(per_minute.burst as u64),
            resets_after: Duration::from_secs_f64(missing / (per_minute.requests / 60.0)),
            is_steady: true,
        };
        Allowed { requests: Some(remaining), tokens: None }
    }

    /// The limits in force, as means over the last run.
    fn limits(&self) -> Vec<f64> {
        let us = (self.now_us - self.since_us) as f64;
        self.limit_us.iter().map(|sum| sum / us).collect()
    }

    fn per_second(&self) -> f64 {
        self.served.iter().sum::<u64>() as f64 * 1e6 / (self.now_us - self.since_us) as f64
    }
}

impl Pool {
    fn endpoint_in_flight(&self) -> usize {
        self.endpoints().iter().map(|e| e.in_flight()).sum()
    }
}

/// 1 where all have the same, 1/n where one has all.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

const SEEDS: u64 = 1;
/// Each is quick.
const REFUSALS: u64 = 60;

/// The mean limit of all clients together over the next minutes, in shares of `slots`.
fn settled(simulation: &mut Simulation, slots: usize) -> f64 {
    simulation.run(90).run(300).limits().iter().sum::<f64>() / slots as f64
}

/// From below, from above when half of the capacity goes, and from below again when it comes back: within 15 % each time, and used.
fn settles(seed: u64, slots: usize, beyond: Beyond, scatter: f64) {
    let mut simulation = Simulation::new(seed, 1, 200, Provider { slots, beyond, scatter, ..Provider::default() });
    for now in [slots, slots / 2, slots] {
        simulation.provider.slots = now;
        let limit = settled(&mut simulation, now);
        // Of what is drawn from a distribution with that scatter the mean is longer than the median.
        let used = simulation.per_second() * (scatter * scatter / 2.0).exp() / now as f64;
        let of = format!("seed {seed}, {now} slots, {beyond:?}, scatter {scatter}: limit {limit:.2}, used {used:.2}");
        assert!((limit - 1.0).abs() <= 0.15, "{of}");
        assert!(used >= 0.80, "{of}");
    }
}

#[test]
fn it_settles_where_a_provider_refuses() {
    for seed in 0..SEEDS {
        for wait in [None, Some(Duration::from_secs(1))] {
            for (slots, scatter) in [(40, 0.0), (40, 0.3)] {
                settles(seed, slots, Beyond::Refuse(wait), scatter);
            }
        }
    }
}

#[test]
fn it_settles_where_a_provider_queues() {
    for seed in 0..SEEDS {
        for (slots, scatter) in [(40, 0.3), (60, 0.3)] {
            settles(seed, slots, Beyond::Queue, scatter);
        }
    }
}

/// Whatever is counted, by whoever says so or not: nearly all of it is used, and what goes beyond is refused seldom.
#[test]
fn it_settles_where_a_provider_counts_requests_per_minute() {
    for seed in 0..SEEDS {
        for says in [false, true] {
            for (requests, burst) in [(600.0, 10.0), (600.0, 600.0), (300.0, 20.0)] {
                let per_minute = Some(PerMinute { requests, burst, says });
                let mut simulation = Simulation::new(seed, 1, 100, Provider { per_minute, scatter: 0.3, ..Provider::default() });
                for factor in [1.0, 0.5, 1.0] {
                    simulation.provider.per_minute = Some(PerMinute { requests: requests * factor, burst, says });
                    let used = simulation.run(180).run(300).per_second() * 60.0 / (requests * factor);
                    let refused = simulation.refused as f64 / simulation.served[0] as f64;
                    let of = format!(
                        "seed {seed}, {requests} x {factor} a minute, burst {burst}, says {says}: used {used:.2}, refused {refused:.2}"
                    );
                    assert!((0.85..=1.15).contains(&used), "{of}");
                    assert!(refused < 0.1, "{of}");
                }
            }
        }
    }
}

#[test]
fn replicas_come_to_equal_shares_of_one_capacity() {
    for seed in 0..SEEDS {
        for (slots, scatter) in [(40, 0.3), (100, 0.3), (40, 0.6)] {
            let provider = Provider { slots, beyond: Beyond::Refuse(None), scatter, ..Provider::default() };
            let mut simulation = Simulation::new(seed, 4, 100, provider);
            simulation.run(300).run(600);
            let (shares, together) = (jain(&simulation.limits()), simulation.limits().iter().sum::<f64>() / slots as f64);
            let of = format!("seed {seed}, {slots} slots, scatter {scatter}: {:?}, Jain {shares:.2}", simulation.limits());
            assert!(shares >= 0.9, "{of}");
            assert!((together - 1.0).abs() <= 0.15, "{of}");
        }
        let per_minute = Some(PerMinute { requests: 2_400.0, burst: 40.0, says: false });
        let mut simulation = Simulation::new(seed, 4, 100, Provider { per_minute, scatter: 0.3, ..Provider::default() });
        simulation.run(300).run(600);
        let served: Vec<f64> = simulation.served.iter().map(|n| *n as f64).collect();
        assert!(jain(&served) >= 0.9, "seed {seed}: {served:?}");
        assert!((simulation.per_second() / 40.0 - 1.0).abs() <= 0.15, "seed {seed}: {}", simulation.per_second());
    }
}

#[test]
fn it_doubles_with_every_round_trip_until_the_first_sign() {
    let mut simulation = Simulation::new(1, 1, 64, Provider::default());
    simulation.run(10);
    assert_eq!(simulation.clients[0].endpoints()[0].limit(), 64);
    let mut simulation = Simulation::new(1, 1, 64, Provider { slots: 20, beyond: Beyond::Refuse(None), ..Provider::default() });
    simulation.run(10).run(20);
    assert!(simulation.limits()[0] >= 15.0, "{:?}", simulation.limits());
}

#[test]
fn a_slower_model_is_no_queue() {
    for seed in 0..SEEDS {
        let mut simulation = Simulation::new(seed, 1, 50, Provider { scatter: 0.3, ..Provider::default() });
        simulation.run(120);
        simulation.provider.service = 3.0;
        let limit = simulation.run(120).run(300).limits()[0];
        assert!(limit >= 42.0, "seed {seed}: {limit}");
    }
}

/// A provider that is down is asked by few, and used as before within ten seconds of its return.
#[test]
fn throughput_is_back_within_ten_seconds_of_a_providers_return() {
    for seed in 0..SEEDS {
        for down_seconds in [2, 20, 3_600] {
            let mut simulation = Simulation::new(seed, 1, 50, Provider { scatter: 0.3, ..Provider::default() });
            let before = simulation.run(60).run(60).per_second();
            simulation.provider.down = Some(Down::Says(Trouble::Passing));
            simulation.run(5).run(down_seconds);
            assert_eq!(simulation.clients[0].bound(simulation.now()), 0, "nothing new begins");
            simulation.provider.down = None;
            let after = simulation.run(10).run(10).per_second();
            assert!(after >= 0.9 * before, "seed {seed}, down for {down_seconds} s: {after} after {before}");
        }
    }
}

/// A time in which everything is refused says nothing about how many calls there may be.
#[test]
fn throughput_is_back_within_ten_seconds_after_everything_was_refused() {
    let second = Beyond::Refuse(Some(Duration::from_secs(1)));
    for seed in 0..SEEDS {
        for (lasts_seconds, slots) in [(2, 50), (4, 50), (60, 50), (4, 30), (60, 30)] {
            let provider = Provider { slots, beyond: second, scatter: 0.3, ..Provider::default() };
            let mut simulation = Simulation::new(seed, 1, 50, provider);
            let before = simulation.run(120).run(20).per_second();
            simulation.provider.slots = 0;
            simulation.run(lasts_seconds);
            simulation.provider.slots = slots;
            let after = simulation.run(10).run(10).per_second();
            assert!(after >= 0.9 * before, "seed {seed}, {lasts_seconds} s, {slots} slots: {after} after {before}");
        }
    }
}

/// The same wherever in a round trip it begins and ends: of the calls that find out that it is over, some may still be refused.
#[test]
fn throughput_is_back_whenever_a_time_of_refusals_ends() {
    for seed in 0..REFUSALS {
        for wait in [None, Some(Duration::from_secs(1))] {
            let beyond = Beyond::Refuse(wait);
            let mut simulation =
                Simulation::new(seed, 1, 16, Provider { slots: 16, beyond, service: 0.5, scatter: 0.3, ..Provider::default() });
            let before = simulation.run(30).run(30).per_second();
            for time in 0..4 {
                let lasts_ms = 500 + simulation.chance.next() % 3_500;
                simulation.provider.slots = 0;
                simulation.run_ms(lasts_ms);
                simulation.provider.slots = 16;
                // A trial with half as many may fall into one of them.
                let after = (0..5).map(|_| simulation.run(2).per_second()).fold(0.0, f64::max);
                assert!(after >= 0.8 * before, "seed {seed}, time {time}, {lasts_ms} ms, {wait:?}: {after} after {before}");
            }
        }
    }
}

/// The same after one trouble and another, a few seconds apart: none leaves less behind than it found, nor does a call that is late by chance.
#[test]
fn throughput_is_back_after_one_trouble_and_another() {
    let usual = Provider {
        beyond: Beyond::Refuse(None),
        service: 0.5,
        scatter: 0.3,
        timeout: 1.5,
        hopeless: 0.15,
        ..Provider::default()
    };
    let troubles = [
        Provider { slots: 0, ..usual },
        Provider { down: Some(Down::Hangs), ..usual },
        Provider { down: Some(Down::Says(Trouble::Passing)), ..usual },
        Provider { down: Some(Down::Says(Trouble::Lasting)), ..usual },
    ];
    // 16 at a time, of a service whose mean is longer than its median.
    let whole = 16.0 * (1.0 - usual.hopeless)
        / (usual.service * (usual.scatter * usual.scatter / 2.0).exp() + ROUND_TRIP_US as f64 / 1e6);
    for seed in 0..REFUSALS {
        let mut simulation = Simulation::new(seed, 1, 16, usual);
        simulation.run(30);
        for time in 0..20 {
            let trouble = troubles[(simulation.chance.next() % 4) as usize];
            let lasts_ms = 500 + simulation.chance.next() % 3_500;
            simulation.provider = trouble;
            simulation.run_ms(lasts_ms);
            simulation.provider = usual;
            let mut best: f64 = 0.0;
            for _ in 0..5 {
                best = best.max(simulation.run(2).per_second());
                if best >= 0.9 * whole {
                    break;
                }
            }
            assert!(best >= 0.8 * whole, "seed {seed}, time {time}, {lasts_ms} ms of {trouble:?}: {best} of {whole}");
        }
    }
}

/// Calls that are never answered hold no place for longer than it takes to see that.
#[test]
fn calls_that_hang_are_noticed_before_they_time_out() {
    let mut simulation = Simulation::new(3, 1, 50, Provider { scatter: 0.3, ..Provider::default() });
    simulation.run(60);
    simulation.provider.slots = 0;
    simulation.run(5);
    assert!(simulation.clients[0].endpoints()[0].position() == Position::Closed);
    simulation.run(12);
    let endpoint = simulation.clients[0].endpoint(0);
    assert!(endpoint.stalls_at().is_some_and(|at| at <= simulation.start + Duration::from_micros(simulation.now_us)));
}

/// What an operator allows per minute is never exceeded, whatever the provider would take.
#[test]
fn budgets_are_kept_by_waiting() {
    let start = Instant::now();
    let terms =
        Terms { weight: 1, most: 50, is_adaptive: true, requests_per_minute: Some(300.0), tokens_per_minute: Some(200_000.0) };
    let mut simulation = Simulation::of(1, vec![Pool::new(&[terms], 50, start)], Provider::default(), start);
    simulation.run(60);
    for _ in 0..10 {
        // Each takes 1,000 tokens, so the tokens are the narrower budget.
        let served = simulation.run(60).served[0];
        assert!((170..=200).contains(&served), "{served}");
    }
}

#[test]
fn weights_share_calls_and_an_open_breaker_leaves_them_to_the_others() {
    let now = Instant::now();
    let terms = |weight| Terms { weight, most: 100, is_adaptive: false, requests_per_minute: None, tokens_per_minute: None };
    let mut pool = Pool::new(&[terms(3), terms(1)], 400, now);
    let mut taken = [0, 0];
    let mut calls = Vec::new();
    for _ in 0..80 {
        let (at, call) = pool.begin(now, 100, None).expect("there is room");
        taken[at] += 1;
        calls.push((at, call));
    }
    assert_eq!(taken, [60, 20]);
    let failed = Outcome::Failed { trouble: Trouble::Passing, late: false };
    for (at, call) in calls {
        pool.endpoint(at).end(call, now, if at == 0 { failed } else { Outcome::Refused }, 0.5);
    }
    assert!(!pool.is_shut());
    for _ in 0..20 {
        assert_eq!(pool.begin(now, 100, None).expect("there is room").0, 1);
    }
    assert_eq!(pool.begin(now, 100, Some(1)).map(|_| ()).expect_err("the other is shut").wait, Wait::Breaker);
    assert_eq!(pool.bound(now), 100);
}
