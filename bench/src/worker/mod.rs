//! The worker on a real Kafka: how near it comes to what its number of calls in flight allows, what it costs itself, what tenants and
//! lanes cost each other.

mod bed;
mod cost;
mod fairness;
mod in_flight;
mod peer;

use memori_service::Settings;
use memori_tests::servers::Servers;

use crate::Options;
use crate::report::Report;

/// As an operator would set it for so many calls in flight, each event a call of its own.
fn settings(max_concurrency: usize) -> Settings {
    let mut settings = Settings::default();
    settings.extractor.max_concurrency = max_concurrency;
    settings
}

/// What is measured of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Events per second over the bound, by calls in flight.
    InFlight,
    /// Eight workers over eight times one.
    Workers,
    /// A published benchmark's scenario.
    Peer,
    /// Its own processor time and allocations.
    Cost,
    /// Tenants and lanes beside each other.
    Fairness,
}

/// Runs `parts`, or all where none is named.
pub(crate) async fn run(servers: &Servers, parts: &[Part], options: Options, report: &mut Report) -> anyhow::Result<()> {
    let wanted = |part: Part| parts.is_empty() || parts.contains(&part);
    if wanted(Part::InFlight) {
        in_flight::calls(servers, options, report).await?;
    }
    if wanted(Part::Workers) {
        in_flight::workers(servers, options, report).await?;
    }
    if wanted(Part::Peer) {
        peer::run(servers, options, report).await?;
    }
    if wanted(Part::Cost) {
        cost::run(servers, options, report).await?;
    }
    if wanted(Part::Fairness) {
        fairness::run(servers, options, report).await?;
    }
    Ok(())
}
