//! What others cost: from the door to the extraction, the 99th percentile beside that of running alone.
//!
//! Alone means the same events at the same pace, with nobody else there.

use std::sync::Arc;
use std::time::Duration;

use memori_augment_worker::Extractor;
use memori_schemas::Lane;
use memori_tests::servers::Servers;

use super::bed::{Bed, Taking, Watched};
use super::settings;
use crate::Options;
use crate::report::{Better, Report, quantile};

const IN_FLIGHT: usize = 50;
const CALL: Duration = Duration::from_millis(100);
/// How often the one that is looked at says something.
const PACE: Duration = Duration::from_millis(50);

/// Who else is there.
#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    /// Another tenant, in the same lane.
    Tenant,
    /// The same tenant's history.
    Backfill,
}

/// Seconds of the 99th percentile of `events` paced events, beside 100 times as many that are there at once.
async fn p99(servers: &Servers, events: usize, beside: Beside) -> anyhow::Result<f64> {
    let bed = Bed::new(servers, 4).await?;
    let others = 100 * events;
    let backlog: Vec<(&str, String)> = (0..others).map(|n| ("large", format!("user-{}", n % 5_000))).collect();
    match beside {
        Beside::Nobody => {}
        Beside::Tenant => bed.publish(Lane::Live, &backlog, 0).await?,
        Beside::Backfill => bed.publish(Lane::Backfill, &backlog, 0).await?,
    }
    let watched = Watched::new(Taking(|_: &_| CALL));
    let extractor: Arc<dyn Extractor> = Arc::clone(&watched) as _;
    let workers = bed.work(1, &settings(IN_FLIGHT), &extractor);
    // Until the group has settled and the backlog is being worked on.
    let warm = 20;
    for n in 0..warm {
        bed.publish(Lane::Live, &[("small", format!("warm-{n}"))], n).await?;
    }
    watched.take(Some("small"), warm).await?;
    let mut pace = tokio::time::interval(PACE);
    for n in 0..events {
        pace.tick().await;
        bed.publish(Lane::Live, &[("small", format!("user-{}", n % 50))], n).await?;
    }
    let calls = watched.take(Some("small"), events).await?;
    workers.end().await?;
    let took: Vec<f64> = calls.iter().filter(|call| &*call.tenant == "small").map(|call| call.since_accepted).collect();
    Ok(quantile(&took, 0.99))
}

pub(super) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let events = if options.quick { 20 } else { 300 };
    for (beside, case) in [
        (Beside::Tenant, "p99 beside a tenant with 100 times as much"),
        (Beside::Backfill, "p99 of the live lane beside backfill"),
    ] {
        let (mut ours, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            ours.push(p99(servers, events, beside).await? * 1e3);
            alone.push(p99(servers, events, Beside::Nobody).await? * 1e3);
        }
        report.add("worker", case, "ms", Better::Lower, &ours, &alone);
    }
    Ok(())
}
