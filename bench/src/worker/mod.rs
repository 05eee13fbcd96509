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

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    in_flight::calls(servers, options, report).await?;
    in_flight::workers(servers, options, report).await?;
    peer::run(servers, options, report).await?;
    cost::run(servers, options, report).await?;
    fairness::run(servers, options, report).await
}
