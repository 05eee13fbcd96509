//! What one schedule is drawn from: its chance, its sizes, its troubles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::conformance::storm::Storm;
use crate::driver::{KeyedConfig, Reading, RecordHandler, Verdict, Work};
use crate::schedule::{Fairness, LaneFloors, Share, WindowBounds, Windowing};
use crate::seam::LogRecord;
use crate::topic::{Topic, TopicPartition};

/// `SplitMix64`: small, and the same everywhere.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0..`n`; 0 where there is none.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 32).expect("32 bits") % n.max(1)
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }
}

/// What a schedule is like.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) windows: BTreeMap<Topic, WindowBounds>,
    pub(super) fairness: Fairness,
    pub(super) budget_events: usize,
    pub(super) budget_bytes: usize,
    pub(super) read_ahead_records: usize,
    pub(super) bound: usize,
    /// Records that one delivery brings at most.
    pub(super) batch: usize,
    pub(super) tenants: usize,
    pub(super) keys: usize,
    pub(super) steps: usize,
    /// In percent of steps: members that crash, freeze, are fenced or stall, and a log that fails.
    pub(super) trouble: usize,
    /// Whether a handler halts partitions.
    pub(super) halts: bool,
    pub(super) handler: Arc<Reader>,
}

impl Spec {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let mut partitions = Vec::new();
        for topic in [Topic::ConversationsLive, Topic::ConversationsBackfill] {
            let count = 1 + chance.below(2);
            partitions.extend((0..).map(|partition| TopicPartition { topic, partition }).take(count));
        }
        let bounds = WindowBounds {
            events: 1 + chance.below(4),
            messages: 2 + chance.below(6),
            cost: 5 + chance.below(30) as u64,
            idle: Duration::from_millis(chance.below(80) as u64),
            age: Duration::from_millis(chance.below(300) as u64),
        };
        let windows = if chance.percent(70) { BTreeMap::from([(Topic::ConversationsLive, bounds)]) } else { BTreeMap::new() };
        let capped =
            Share { weight: 1 + u32::from(chance.percent(30)), max_in_flight: chance.percent(30).then_some(1 + chance.below(3)) };
        let fairness = Fairness {
            quantum: 1 + chance.below(20) as u64,
            tenants: BTreeMap::from([("t0".to_owned(), capped)]),
            ..Fairness::default()
        };
        Self {
            partitions,
            windows,
            fairness,
            budget_events: 2 + chance.below(30),
            budget_bytes: 100 + chance.below(2_000),
            read_ahead_records: [0, 5, 40, 1_000][chance.below(4)],
            bound: 1 + chance.below(8),
            batch: 1 + chance.below(6),
            tenants: 1 + chance.below(3),
            keys: 1 + chance.below(3),
            steps: 30 + chance.below(170),
            trouble: if chance.percent(30) { 0 } else { 1 + chance.below(12) },
            halts: chance.percent(10),
            handler: Arc::new(Reader { key_tells: chance.percent(50) }),
        }
    }

    /// As the workers of a storm are set: what goes wrong is what strikes them, and what chance adds of a log that fails.
    pub(super) fn of_storm(storm: &Storm) -> Self {
        let topic = Topic::ConversationsLive;
        Self {
            partitions: (0..storm.partitions).map(|partition| TopicPartition { topic, partition }).collect(),
            windows: BTreeMap::new(),
            fairness: Fairness::default(),
            budget_events: 1_000,
            budget_bytes: 1 << 20,
            read_ahead_records: 1_000_000,
            bound: 50,
            batch: 40,
            tenants: 1,
            keys: storm.entities,
            steps: 0,
            trouble: 1,
            halts: false,
            handler: Arc::new(Reader { key_tells: true }),
        }
    }

    /// Nothing goes wrong: what is paid for is paid for once.
    pub(super) fn is_calm(&self) -> bool {
        self.trouble == 0 && !self.halts
    }

    pub(super) fn config(&self) -> KeyedConfig {
        KeyedConfig {
            windows: self.windows.clone(),
            fairness: self.fairness.clone(),
            lanes: LaneFloors::default(),
            max_concurrency: self.bound.into(),
            budget_events: self.budget_events,
            budget_bytes: self.budget_bytes,
            read_ahead_records: self.read_ahead_records,
            commit_interval: Duration::from_millis(100),
            drain_deadline: if self.is_calm() { Duration::from_secs(1_000_000) } else { Duration::from_millis(500) },
            stall_after: STALL_AFTER,
            ..KeyedConfig::new("g", vec![Topic::ConversationsLive, Topic::ConversationsBackfill])
        }
    }

    pub(super) fn bounds(&self, topic: Topic) -> WindowBounds {
        self.windows.get(&topic).copied().unwrap_or_default()
    }
}

pub(super) const STALL_AFTER: Duration = Duration::from_secs(60);

/// Reads what [`payload`] wrote.
#[derive(Debug)]
pub(super) struct Reader {
    key_tells: bool,
}

pub(super) fn payload(chance: &mut Chance) -> Bytes {
    let kind = [1, 1, 1, 1, 1, 1, 0, 2][chance.below(8)];
    let small = |chance: &mut Chance, n| u8::try_from(chance.below(n)).expect("small");
    let group = u8::from(chance.percent(20));
    Bytes::from(vec![kind, group, small(chance, 4), small(chance, 12), small(chance, 60)])
}

/// Of a record that is a window of its own.
pub(super) fn alone(chance: &mut Chance) -> Bytes {
    Bytes::from(vec![0, 0, 1, u8::try_from(chance.below(12)).expect("small"), u8::try_from(chance.below(60)).expect("small")])
}

pub(super) fn window_of(payload: &[u8]) -> Windowing {
    match payload[0] {
        0 => Windowing::Alone,
        1 => Windowing::With { group: u64::from(payload[1]), messages: u32::from(payload[2]) },
        _ => Windowing::Closes,
    }
}

pub(super) fn cost_of(payload: &[u8]) -> u64 {
    u64::from(payload[3]) + 1
}

pub(super) fn tenant_of(key: &[u8]) -> &str {
    std::str::from_utf8(key).expect("text").split('/').next().expect("a tenant")
}

impl RecordHandler for Reader {
    type Item = ();

    fn read(&self, record: &LogRecord) -> Reading<()> {
        Reading {
            item: (),
            tenant: Arc::from(tenant_of(&record.key)),
            cost: cost_of(&record.payload),
            bytes: usize::from(record.payload[4]),
            window: window_of(&record.payload),
        }
    }

    fn tenant(&self, key: &[u8]) -> Option<Arc<str>> {
        self.key_tells.then(|| Arc::from(tenant_of(key)))
    }

    async fn handle(&self, _: Work<()>) -> Verdict {
        unreachable!("the world works")
    }
}
