//! Counting what tenants use, beside everything else.
//!
//! The store's rows are counted anew, from the start of yesterday on, and a day's figures are kept where they are larger than before:
//! so counting twice changes nothing, two writers may count at once, and what is erased later was used all the same. It takes a
//! twentieth of a connection's time at most.

use std::sync::Arc;
use std::time::Duration;

use memori_schemas::Micros;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ControlStore, DAY_US};
use crate::notify::Commits;

/// Between two counts, at least.
pub const ROLL_UP_PAUSE: Duration = Duration::from_secs(5);
/// How far back the first count after a start goes: what was written while nobody counted.
const FIRST_DAYS: i64 = 35;

/// Counts after commits until `stop`.
pub async fn roll_up_until(control: Arc<dyn ControlStore>, commits: Commits, pause: Duration, stop: CancellationToken) {
    let counting = async {
        let mut seen = commits.subscribe();
        let mut days = FIRST_DAYS;
        loop {
            let begun = Instant::now();
            let today = Micros::now().0 / DAY_US;
            let counted = control.roll_up(today - days, today).await;
            tokio::time::sleep(pause.max(begun.elapsed() * 20)).await;
            match counted {
                Ok(()) => {
                    days = 1;
                    // Where nothing was committed, nothing was used.
                    if seen.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, days, "usage could not be counted");
                    // It may be more than the server's bound of time lets.
                    days = (days / 2).max(1);
                }
            }
        }
    };
    stop.run_until_cancelled(counting).await;
}
