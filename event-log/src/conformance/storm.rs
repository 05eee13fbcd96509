//! A storm of rebalances, drawn from a seed: what happens to which worker, and how far the work is by then. The same storm strikes real
//! workers on a real log, and the members of the model that the driver's core is explored in.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Unless another is asked for.
pub const USUAL_SEED: u64 = 20_260_717;

/// What happens to one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGTERM, and another start.
    Stop,
    /// SIGKILL, and another start.
    Kill,
    /// SIGSTOP until the group has gone on without it, then SIGCONT.
    Freeze,
    /// Another worker joins, or the one that did leaves.
    Join,
}

/// A blow at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// So many of each entity's events have been published before it.
    pub published_each: usize,
    /// It strikes once so many events have an outcome.
    pub at_outcomes: usize,
    /// Which worker.
    pub victim: usize,
    /// What happens to it.
    pub blow: Blow,
}

/// A storm.
#[derive(Clone, Debug)]
pub struct Storm {
    /// What it is drawn from.
    pub seed: u64,
    /// Workers that there always are, but while they start again.
    pub workers: usize,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Whose events there are.
    pub entities: usize,
    /// Events of each.
    pub each: usize,
    /// In order. The last one comes once all events are published.
    pub strikes: Vec<Strike>,
}

impl Storm {
    /// A storm of 3,000 events and 6 blows, or of 100,000 and 40.
    #[must_use]
    pub fn draw(seed: u64, is_large: bool) -> Self {
        let (workers, entities, each, blows) = if is_large { (8, 2_000, 50, 40) } else { (8, 200, 15, 6) };
        let mut rng = StdRng::seed_from_u64(seed);
        let strike = |n: usize| {
            let (before, published_each) = (each * n / blows, each * (n + 1) / blows);
            let published = entities * (published_each - before);
            let blow = [Blow::Stop, Blow::Kill, Blow::Freeze, Blow::Join][if n < 4 { n } else { rng.random_range(0..4) }];
            let at_outcomes = entities * before + rng.random_range(0..=published / 2);
            Strike { published_each, at_outcomes, victim: rng.random_range(0..workers), blow }
        };
        let strikes = (0..blows).map(strike).collect();
        Self { seed, workers, partitions: 32, entities, each, strikes }
    }

    /// As the environment asks: `MEMORI_SOAK=1` the large one, `MEMORI_SEED=n` another seed.
    #[must_use]
    pub fn asked_for() -> Self {
        let seed = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(USUAL_SEED);
        Self::draw(seed, std::env::var_os("MEMORI_SOAK").is_some())
    }

    /// All events together.
    #[must_use]
    pub fn events(&self) -> usize {
        self.entities * self.each
    }
}
