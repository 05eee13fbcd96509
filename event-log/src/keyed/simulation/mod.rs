//! Many members of one group over a model of the log, on schedules that chance draws: deliveries, completions in any order, failures,
//! rebalances, members that freeze and wake too late, crashes and restarts, a bound of 0, a budget that is full.
//!
//! What must hold is checked at every step ([`tenure`], [`member`]); at the end everything goes well, and everything must be finished
//! within bounded time. `MEMORI_SOAK=1` runs a million schedules, `MEMORI_SEED=n` that one alone.

mod member;
mod spec;
mod storm;
mod tenure;
mod world;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use member::{Letter, Member};
use world::{SEEN, Seen, World};

/// In the usual run of the tests.
const SCHEDULES: u64 = 2_000;
const SOAK: u64 = 1_000_000;

struct Run {
    world: World,
    members: Vec<Option<Member>>,
    names: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self { world: World::new(seed), members: Vec::new(), names: 0 };
        run.join();
        run
    }

    fn join(&mut self) {
        let member = Member::new(self.names, &self.world);
        self.names += 1;
        self.members.push(Some(member));
    }

    /// One of those that run, as its place.
    fn any(&mut self) -> Option<usize> {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|place| self.members[*place].as_ref().is_some_and(|member| !member.frozen)).collect();
        (!running.is_empty()).then(|| running[self.world.chance.below(running.len())])
    }

    fn with(&mut self, place: usize, act: impl FnOnce(&mut Member, &mut World)) {
        let Some(member) = self.members[place].as_mut() else { return };
        act(member, &mut self.world);
        member.settle(&mut self.world);
        if member.ended {
            self.crash(place);
        }
    }

    /// A member is gone: the group gives its partitions to others in time.
    fn crash(&mut self, place: usize) {
        if let Some(member) = self.members[place].take() {
            self.world.seen.crashed += usize::from(!member.ended);
            self.release(member.id);
        }
    }

    fn release(&mut self, id: usize) -> Vec<usize> {
        let mut released = Vec::new();
        for (index, partition) in self.world.partitions.iter_mut().enumerate() {
            if partition.owner.is_some_and(|(owner, _)| owner == id) {
                (partition.owner, partition.is_asked_back) = (None, false);
                released.push(index);
            }
        }
        released
    }

    /// The group takes a member for dead, which knows of it only when it wakes.
    fn kick(&mut self, place: usize) {
        let Some(id) = self.members[place].as_ref().map(|member| member.id) else { return };
        let released = self.release(id);
        if let Some(member) = &mut self.members[place]
            && !released.is_empty()
        {
            member.inbox.push_back(Letter::Lost(released));
        }
    }

    /// Each partition gets an owner; some move.
    fn rebalance(&mut self, moves: usize) {
        for index in 0..self.world.partitions.len() {
            let Some(place) = self.any() else { return };
            let target = self.members[place].as_ref().map_or(0, |member| member.id);
            match self.world.partitions[index].owner {
                None => {
                    self.world.grants += 1;
                    let grant = self.world.grants;
                    self.world.partitions[index].owner = Some((target, grant));
                    if let Some(member) = &mut self.members[place] {
                        member.inbox.push_back(Letter::Assigned(index, grant));
                    }
                }
                Some((owner, _))
                    if owner != target && !self.world.partitions[index].is_asked_back && self.world.chance.percent(moves) =>
                {
                    self.world.partitions[index].is_asked_back = true;
                    if let Some(member) = self.members.iter_mut().flatten().find(|member| member.id == owner) {
                        member.inbox.push_back(Letter::Revoked(index));
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn pass_time(&mut self, most_ms: usize) {
        self.world.now += Duration::from_millis(self.world.chance.below(most_ms) as u64);
        for place in 0..self.members.len() {
            if self.members[place].as_ref().is_some_and(|member| !member.frozen && member.wake_at <= self.world.now) {
                self.with(place, |_, _| ());
            }
        }
    }

    fn step(&mut self) {
        if self.world.chance.percent(self.world.spec.trouble) {
            return self.trouble();
        }
        match self.world.chance.below(100) {
            0..15 => self.world.append(),
            15..20 => self.rebalance(20),
            20..30 => self.pass_time(60),
            30..32 if self.members.iter().flatten().count() < 3 => self.join(),
            32..34 => {
                // SIGTERM: it drains, commits and leaves.
                if let Some(place) = self.any() {
                    self.with(place, |member, world| member.core.stop(world.now));
                }
            }
            34..37 => {
                if let Some(place) = self.any() {
                    self.with(place, |member, world| member.bound = [0, 1, 1 + world.chance.below(8)][world.chance.below(3)]);
                }
            }
            draw => {
                let Some(place) = self.any() else { return };
                self.with(place, |member, world| {
                    let _ = match draw % 5 {
                        0 | 1 => member.hear(world),
                        2 => member.read(world),
                        _ => member.work(world),
                    };
                });
            }
        }
    }

    fn trouble(&mut self) {
        let place = self.world.chance.below(self.members.len());
        match self.world.chance.below(6) {
            0 => self.crash(place),
            1 => {
                if let Some(member) = &mut self.members[place] {
                    member.frozen = true;
                }
            }
            2 => self.kick(place),
            3 => {
                let frozen = self.members[place].as_mut().filter(|member| member.frozen);
                if let Some(member) = frozen {
                    member.frozen = false;
                }
            }
            4 => {
                // Long enough for what stands still to be seen, and never at once.
                for _ in 0..5 {
                    self.pass_time(2 * usize::try_from(spec::STALL_AFTER.as_millis()).expect("short") / 5);
                }
            }
            _ => self.rebalance(100),
        }
    }

    /// From here on all goes well: everything gets finished.
    fn finish(&mut self) {
        self.world.is_ending = true;
        for place in 0..self.members.len() {
            let Some(member) = &mut self.members[place] else { continue };
            member.frozen = false;
            member.bound = self.world.spec.bound;
            // What stands still, and what was halted, ends with the process.
            if member.halted || member.tasks.values().any(|task| task.is_stuck) {
                self.crash(place);
            }
        }
        if self.members.iter().flatten().next().is_none() {
            self.join();
        }
        for round in 0.. {
            self.world.is_over = round > 200;
            self.rebalance(0);
            for place in 0..self.members.len() {
                for act in [Member::hear, Member::read, Member::work] {
                    for _ in 0..4 {
                        self.with(place, |member, world| {
                            act(member, world);
                        });
                    }
                }
            }
            self.pass_time(100);
            if self.world.is_done() && self.members.iter().flatten().all(Member::is_idle) {
                break;
            }
            if self.members.iter().flatten().next().is_none() {
                self.join();
            }
            assert!(
                round < 3_000,
                "not everything gets finished: {:?}",
                self.world.partitions.iter().map(|p| (p.at, p.end(), p.stored.clone())).collect::<Vec<_>>()
            );
        }
        if self.world.spec.is_calm() {
            for partition in &self.world.partitions {
                assert!(partition.paid.iter().all(|paid| *paid == 1), "paid for once: {:?}", partition.paid);
            }
        }
    }
}

/// Runs one schedule. Says what it came to.
fn schedule(seed: u64) -> Seen {
    let mut run = Run::new(seed);
    run.rebalance(0);
    for _ in 0..run.world.spec.steps {
        run.step();
    }
    run.finish();
    Seen { steps: run.world.spec.steps, ..run.world.seen }
}

/// Does `one` for each of `from..to` on all processors; the first that fails is named.
fn each<R: Send>(from: u64, to: u64, one: impl Fn(u64) -> R + Sync + std::panic::RefUnwindSafe) -> Vec<R> {
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(u64::MAX));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let some = || {
        let mut done = Vec::new();
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                break;
            }
            match catch_unwind(|| one(seed)) {
                Ok(result) => done.push(result),
                Err(_) => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
        done
    };
    let done = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect::<Vec<_>>()
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "schedule {failed} breaks a promise: replay it with MEMORI_SEED={failed}");
    done
}

/// Runs schedules `from..to`. What they came to, together.
fn explore(from: u64, to: u64) -> [usize; SEEN] {
    let seen = each(from, to, |seed| schedule(seed).all());
    seen.into_iter().fold([0; SEEN], |sum, one| std::array::from_fn(|n| sum[n] + one[n]))
}

#[test]
fn every_schedule_keeps_the_promises() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("MEMORI_SEED") {
        eprintln!("schedule {seed}: {:?}", schedule(seed));
        return;
    }
    let first = number("MEMORI_FIRST_SEED").unwrap_or(0);
    let count = if std::env::var("MEMORI_SOAK").is_ok_and(|soak| soak == "1") { SOAK } else { SCHEDULES };
    let begun = Instant::now();
    let seen = explore(first, first + count);
    eprintln!("schedules {first}..{} in {:.1} s came to {seen:?}", first + count, begun.elapsed().as_secs_f64());
    assert!(seen.iter().all(|times| *times > 0), "something never happened: {seen:?}");
}
