//! Kills on the way: which process dies when, from a seed, while clients post.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::drive::Pace;

/// A shape whose parts can be killed.
pub trait Victims {
    /// What can be killed, each with how often it has to be.
    fn victims(&self) -> Vec<(String, usize)>;

    /// Kills one without warning, and starts it again; returns once it is ready.
    ///
    /// # Errors
    /// It does not come back.
    fn kill_and_restart(&mut self, victim: &str) -> anyhow::Result<()>;
}

/// Kills every victim as often as it has to be, spread over `requests` in an order from `seed`. Each kill falls at a random
/// place of its stretch, with posts in flight; the clients cannot run ahead of the kills.
///
/// # Errors
/// A victim does not come back.
pub async fn strike<V: Victims>(shape: &mut V, pace: &Arc<Pace>, requests: usize, seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order: Vec<String> =
        shape.victims().into_iter().flat_map(|(victim, times)| std::iter::repeat_n(victim, times)).collect();
    order.shuffle(&mut rng);
    let stretch = requests / (order.len() + 1);
    anyhow::ensure!(stretch > 1, "too few requests for {} kills", order.len());
    for (k, victim) in order.iter().enumerate() {
        let (from, to) = (k * stretch, (k + 1) * stretch);
        pace.allow(to);
        // The whole stretch may be in flight but not answered; so the place lies in its first half.
        let at = from + rng.random_range(0..stretch.div_ceil(2));
        pace.reached(at).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
        tell(&format!("kill {}/{}: {victim} after {at} of {requests} requests", k + 1, order.len()));
        tokio::task::block_in_place(|| shape.kill_and_restart(victim))?;
    }
    pace.allow(usize::MAX);
    Ok(())
}

/// Progress of a long test, on its output.
#[allow(clippy::print_stderr, reason = "progress and seeds of a long test belong to its output")]
pub fn tell(text: &str) {
    eprintln!("{text}");
}
