//! The storm that real workers stand on a real Kafka (`tests/rebalance_storm.rs`), in the model: the same events on the same
//! partitions, the same blows to the same workers at the same progress, and everything in between in orders that chance draws.

use memori_schemas::ids;

use super::Run;
use super::member::Member;
use super::spec::Spec;
use super::world::World;
use crate::conformance::storm::{Blow, Storm, Strike};

const TENANT: &str = "tenant-a";
/// Ways through the storm that are tried.
const WAYS: u64 = 20;
const SOAK_WAYS: u64 = 4;

struct Standing {
    run: Run,
    /// The guest's place is behind the workers'.
    workers: usize,
    published_each: usize,
}

impl Standing {
    fn new(storm: &Storm, way: u64) -> Self {
        let spec = Spec::of_storm(storm);
        let mut run = Run { world: World::of(way, spec), members: Vec::new(), names: 0 };
        for _ in 0..storm.workers {
            run.join();
        }
        Self { run, workers: storm.workers, published_each: 0 }
    }

    fn publish(&mut self, storm: &Storm, to_each: usize) {
        for _ in self.published_each..to_each {
            for entity in 0..storm.entities {
                let entity = format!("user-{entity}");
                let partition = ids::partition_of(&ids::log_key(TENANT, &entity), storm.partitions);
                let index = usize::try_from(partition).expect("a partition");
                self.run.world.append_alone(index, format!("{TENANT}/{entity}"));
            }
        }
        self.published_each = to_each;
    }

    /// A little of everything, by everybody who runs.
    fn stir(&mut self) {
        // What stood still for too long ended, and is started again.
        for place in 0..self.run.members.len() {
            if self.run.members[place].is_none() {
                self.start_again(place);
            }
        }
        let run = &mut self.run;
        run.rebalance(2);
        run.pass_time(20);
        for _ in 0..4 * run.members.len() {
            let Some(place) = run.any() else { return };
            let draw = run.world.chance.below(10);
            run.with(place, |member, world| {
                let _ = match draw {
                    0..2 => member.hear(world),
                    2 => member.read(world),
                    _ => member.work(world),
                };
            });
        }
    }

    /// Goes on until `is_there`.
    fn until(&mut self, what: &str, is_there: impl Fn(&Run) -> bool) {
        for turn in 0.. {
            if is_there(&self.run) {
                return;
            }
            assert!(turn < 1_000_000, "it does not come to {what}: {} outcomes", self.run.world.seen.outcomes);
            self.stir();
        }
    }

    fn reach(&mut self, outcomes: usize) {
        self.until("enough outcomes", |run| run.world.seen.outcomes >= outcomes);
    }

    fn start_again(&mut self, place: usize) {
        let name = self.run.names;
        self.run.names += 1;
        self.run.members[place] = Some(Member::new(name, &self.run.world));
    }

    fn stop(&mut self, place: usize) {
        self.run.with(place, |member, world| member.core.stop(world.now));
        self.until("the end of one that was stopped", |run| run.members[place].is_none());
    }

    fn strike(&mut self, strike: Strike, storm: &Storm) {
        self.publish(storm, strike.published_each);
        self.reach(strike.at_outcomes);
        match strike.blow {
            Blow::Stop => {
                self.stop(strike.victim);
                self.start_again(strike.victim);
            }
            Blow::Kill => {
                self.run.crash(strike.victim);
                self.start_again(strike.victim);
            }
            Blow::Freeze => {
                self.freeze(strike.victim, true);
                self.run.kick(strike.victim);
                // Only those that took its partitions over can finish what was published.
                self.reach(storm.entities * self.published_each);
                self.freeze(strike.victim, false);
            }
            Blow::Join if self.run.members.len() > self.workers => {
                self.stop(self.workers);
                self.run.members.truncate(self.workers);
            }
            Blow::Join => self.run.join(),
        }
    }

    fn freeze(&mut self, place: usize, frozen: bool) {
        if let Some(member) = &mut self.run.members[place] {
            member.frozen = frozen;
        }
    }
}

/// One way through a storm. What was worked on more than once, of how many.
fn stand(storm: &Storm, way: u64) -> (usize, usize) {
    let mut standing = Standing::new(storm, way);
    for strike in &storm.strikes {
        standing.strike(*strike, storm);
    }
    standing.reach(storm.events());
    let mut run = standing.run;
    run.finish();
    let (seen, world) = (run.world.seen, run.world);
    assert_eq!(seen.outcomes, storm.events(), "every event has its outcome");
    assert!(world.partitions.iter().all(|partition| partition.paid.iter().all(|paid| *paid > 0)));
    (seen.paid_twice, seen.outcomes)
}

#[test]
fn the_storm_that_real_workers_stand() {
    let storm = Storm::asked_for();
    let ways = if std::env::var_os("MEMORI_SOAK").is_some() { SOAK_WAYS } else { WAYS };
    let stood = super::each(0, ways, |way| stand(&storm, way));
    let again: usize = stood.iter().map(|(again, _)| again).sum();
    let of: usize = stood.iter().map(|(_, of)| of).sum();
    eprintln!("storm {} over {} events, {ways} ways: {again} of {of} were worked on again", storm.seed, storm.events());
    assert!(again > 0, "no blow ever cost anything");
}
