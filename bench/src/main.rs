//! Ratios to this machine's floors, in the same run, as medians of several runs. Writes `target/bench/results.json`.
//!
//! A ratio says how near we are to what the machine gives at all: 1 is the floor itself. Only ratios travel between machines.

mod allocations;
mod backfill;
mod embedding;
mod end_to_end;
mod extraction;
mod input;
mod log_postgres;
mod pipeline;
mod producer;
mod recall;
mod recall_peer;
mod replay;
mod report;
mod sdk;
mod under_sink;
mod worker;
mod writer;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use memori_tests::servers::Servers;

use crate::report::Report;

#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Our producer over a raw one.
    Producer,
    /// The importer over a raw producer.
    Backfill,
    /// Appends to the SQL log on Postgres over one INSERT and a commit.
    LogPostgres,
    /// The worker: events per second over its bound, its own cost, tenants and lanes beside each other.
    Worker,
    /// The sink's flush over raw COPY into the same tables.
    Writer,
    /// Recall, hot and cold, over a read of the entity's version row, and over pgvector in SQL.
    Recall,
    /// Recall while the sink writes at full speed, over recall while nobody writes.
    UnderSink,
    /// The built-in model: a sentence alone and in a batch, and products of vectors.
    Embedding,
    /// From a durable answer to the fact in a recall.
    Recallable,
    /// The same of live events while history is replayed, over without.
    Replay,
    /// Events from Kafka to Postgres by a worker and a writer, over the rows alone, and over the model alone.
    Pipeline,
    /// The builtin extractor over one that makes no mistake.
    Extraction,
    /// Calls to a model from a Python program with memory, over the same without.
    Sdk,
}

#[derive(Parser)]
struct Flags {
    /// Which; none: all.
    benches: Vec<Bench>,
    /// Runs of each case.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Small sizes, to see that it works.
    #[arg(long)]
    quick: bool,
    /// The most facts of one entity that recall is measured with.
    #[arg(long, default_value_t = 100_000)]
    most_facts: usize,
    /// The parts of `worker`; none: all.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<worker::Part>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench/results.json")]
    out: PathBuf,
}

/// What every bench is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    runs: usize,
    quick: bool,
    most_facts: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let options = Options { runs: flags.runs.max(1), quick: flags.quick, most_facts: flags.most_facts };
    let wanted = |bench: Bench| flags.benches.is_empty() || flags.benches.contains(&bench);
    let mut report = Report::default();
    if wanted(Bench::Embedding) {
        embedding::run(options, &mut report)?;
    }
    if wanted(Bench::Extraction) {
        extraction::run(&mut report)?;
    }
    if wanted(Bench::Sdk) {
        tokio::task::block_in_place(|| sdk::run(options, &mut report))?;
    }
    // Durable, as in production.
    let servers = tokio::task::block_in_place(Servers::start)?;
    if wanted(Bench::Producer) {
        producer::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Backfill) {
        backfill::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::LogPostgres) {
        log_postgres::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Worker) {
        worker::run(&servers, &flags.parts, options, &mut report).await?;
    }
    if wanted(Bench::Writer) {
        writer::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Recall) {
        recall::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::UnderSink) {
        under_sink::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Recallable) {
        end_to_end::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Replay) {
        replay::run(&servers, options, &mut report).await?;
    }
    if wanted(Bench::Pipeline) {
        pipeline::run(&servers, options, &mut report).await?;
    }
    report.write(&flags.out)?;
    report::say(&format!("written to {}", flags.out.display()));
    Ok(())
}
