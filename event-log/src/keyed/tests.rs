//! What the machine does, step by step, where a schedule of chance would not show it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::core::Core;
use super::effect::{Counts, Effect, Moment, Reread, TakenUp, Tell, Ticket};
use crate::driver::{KeyedConfig, Reading, RecordHandler, Verdict, Work};
use crate::schedule::{WindowBounds, Windowing};
use crate::seam::{LogError, LogRecord};
use crate::topic::{Topic, TopicPartition};

const AT: TopicPartition = TopicPartition { topic: Topic::ConversationsLive, partition: 0 };

struct Reader;

impl RecordHandler for Reader {
    type Item = ();

    fn read(&self, record: &LogRecord) -> Reading<()> {
        let tenant = self.tenant(&record.key).expect("the key tells");
        Reading { item: (), tenant, cost: 1, bytes: 0, window: Windowing::With { group: 0, messages: 1 } }
    }

    fn tenant(&self, key: &[u8]) -> Option<Arc<str>> {
        Some(Arc::from(std::str::from_utf8(&key[..1]).expect("text")))
    }

    async fn handle(&self, _: Work<()>) -> Verdict {
        unreachable!("the test works")
    }
}

/// One member that holds one partition, whose log is all that it was given.
struct Rig {
    core: Core<()>,
    now: Instant,
    log: Vec<LogRecord>,
    tasks: Vec<(Ticket, Vec<i64>)>,
    rereads: Vec<Reread>,
    is_paused: bool,
    stalled: bool,
    ended: Option<Option<LogError>>,
}

impl Rig {
    fn new(config: impl FnOnce(&mut KeyedConfig)) -> Self {
        let mut of = KeyedConfig { max_concurrency: 2.into(), budget_events: 10, ..KeyedConfig::new("g", vec![AT.topic]) };
        config(&mut of);
        let now = Instant::now();
        let mut rig = Self {
            core: Core::new(of, now),
            now,
            log: Vec::new(),
            tasks: Vec::new(),
            rereads: Vec::new(),
            is_paused: false,
            stalled: false,
            ended: None,
        };
        rig.core.assigned(vec![AT]);
        rig.settle();
        rig
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, unix_ms: 1, chance: 0.5 }
    }

    fn settle(&mut self) {
        self.core.tick(self.moment(), false);
        while let Some(effect) = self.core.next_effect() {
            match effect {
                Effect::Assign(_) => self.core.taken_up(vec![TakenUp { partition: AT, fence: None, committed: None }]),
                Effect::Commit(commits) => self.core.committed(commits, Ok(()), self.moment()),
                Effect::Work(ticket, work) => {
                    self.tasks.push((ticket, work.window.iter().map(|held| held.record.offset).collect()));
                }
                Effect::Reread(reread) => self.rereads.push(reread),
                Effect::Pause(_) => self.is_paused = true,
                Effect::Resume(_) => self.is_paused = false,
                Effect::Tell(Tell::Stalled(..)) => self.stalled = true,
                Effect::End(error) => self.ended = Some(error),
                Effect::Tell(_) | Effect::Unassign(_) => {}
            }
        }
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// So many records of one key come.
    fn comes(&mut self, count: usize, key: &'static str) {
        for _ in 0..count {
            let offset = self.log.len().try_into().expect("few");
            let (key, payload) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"1"));
            let record = LogRecord { source: AT, offset, appended_at_ms: 1, key, payload, headers: Vec::new() };
            self.log.push(record.clone());
            self.core.received(record, &Reader, self.moment());
            self.settle();
        }
    }

    fn reads(&mut self) {
        for reread in std::mem::take(&mut self.rereads) {
            let from = usize::try_from(reread.offset).expect("not negative");
            let records = self.log[from..(from + reread.max_records).min(self.log.len())].to_vec();
            self.core.reread(reread, Ok(records), &Reader, self.moment());
            self.settle();
        }
    }

    /// The oldest work ends.
    fn works(&mut self) -> Vec<i64> {
        let (ticket, offsets) = self.tasks.remove(0);
        self.core.completed(ticket, Verdict::Done, self.moment());
        self.settle();
        self.reads();
        offsets
    }
}

#[test]
fn a_tenants_flood_does_not_delay_another_behind_it() {
    let mut rig = Rig::new(|_| ());
    rig.comes(1_000, "a");
    rig.comes(10, "b");
    assert!(!rig.is_paused && rig.core.held().0 <= 20, "it reads on, and holds no more than its budget");
    assert!(rig.core.deferred() > 900);
    let mut done = Vec::new();
    while done.iter().filter(|offset| **offset >= 1_000).count() < 10 {
        done.extend(rig.works());
    }
    assert!(done.len() <= 40, "the ten were done after {} of the flood", done.len() - 10);
    while !rig.tasks.is_empty() {
        done.extend(rig.works());
    }
    let of_a: Vec<i64> = done.iter().copied().filter(|offset| *offset < 1_000).collect();
    assert_eq!(of_a, (0..1_000).collect::<Vec<_>>(), "all of the flood, once, in order");
    assert_eq!((rig.core.held(), rig.core.deferred()), ((0, 0), 0));
    let Counts { put_off, reread, .. } = rig.core.take_counts();
    assert_eq!(put_off, reread);
}

#[test]
fn however_many_tenants_there_are_all_together_hold_twice_the_budget() {
    let mut rig = Rig::new(|_| ());
    let names: Vec<&'static str> = ('!'..='~').map(|name| &*name.to_string().leak()).collect();
    for name in names.iter().chain(&names) {
        rig.comes(1, name);
    }
    assert!(rig.core.held().0 <= 20 && !rig.is_paused, "{:?}", rig.core.held());
    let mut done = Vec::new();
    while !rig.tasks.is_empty() {
        done.extend(rig.works());
    }
    done.sort_unstable();
    assert_eq!(done, (0..188).collect::<Vec<_>>(), "everybody's turn comes");
}

#[test]
fn a_tenant_that_is_alone_rests_its_partition_instead() {
    let mut rig = Rig::new(|config| config.read_ahead_records = 20);
    rig.comes(200, "a");
    assert!(rig.is_paused);
    while !rig.tasks.is_empty() {
        rig.works();
    }
    assert!(!rig.is_paused);
    let _ = rig.core.take_counts();
    // From here on it is known to be alone.
    rig.comes(10, "a");
    assert!(rig.is_paused, "at its budget");
    while !rig.tasks.is_empty() {
        rig.works();
    }
    assert_eq!((rig.core.take_counts(), rig.core.held()), (Counts::default(), (0, 0)), "nothing was put off");
    // Until somebody else is seen.
    rig.comes(1, "b");
    rig.comes(15, "a");
    assert!(rig.core.deferred() > 0 && !rig.is_paused);
}

#[test]
fn at_a_bound_of_0_nothing_begins_and_nothing_is_lost_or_thought_to_stand_still() {
    let mut rig = Rig::new(|config| config.stall_after = Duration::from_secs(8));
    rig.core.limit(0);
    rig.comes(3, "a");
    assert!(rig.tasks.is_empty());
    rig.core.limit(1);
    rig.settle();
    assert_eq!(rig.tasks.len(), 1);
    rig.core.limit(0);
    (0..20).for_each(|_| rig.passes(Duration::from_secs(1)));
    assert!(!rig.stalled);
    rig.works();
    assert!(rig.tasks.is_empty());
    rig.core.limit(1);
    rig.settle();
    for _ in 0..2 {
        rig.works();
    }
    assert_eq!(rig.core.held(), (0, 0));
}

#[test]
fn work_that_stands_still_ends_the_driver() {
    let mut rig =
        Rig::new(|config| (config.stall_after, config.drain_deadline) = (Duration::from_secs(8), Duration::from_secs(3)));
    rig.comes(1, "a");
    (0..7).for_each(|_| rig.passes(Duration::from_secs(1)));
    assert!(!rig.stalled);
    rig.passes(Duration::from_secs(1));
    assert!(rig.stalled && rig.ended.is_none(), "others may end");
    (0..3).for_each(|_| rig.passes(Duration::from_secs(1)));
    let ended = rig.ended.expect("it ends").expect("with an error");
    assert!(matches!(&ended, LogError::Fatal(why) if why.contains("stood still for 8 s")), "{ended}");
}

#[test]
fn a_full_budget_waits_for_no_window() {
    let bounds =
        WindowBounds { events: 100, messages: 100, cost: 100, idle: Duration::from_secs(3_600), age: Duration::from_secs(3_600) };
    let mut rig = Rig::new(|config| config.windows.insert(AT.topic, bounds).map_or((), drop));
    rig.comes(9, "a");
    assert!(rig.tasks.is_empty(), "the window is open");
    rig.comes(1, "b");
    assert_eq!(rig.tasks.len(), 2);
    assert_eq!(rig.works(), (0..9).collect::<Vec<_>>());
}
