//! `memori-ingest`: the front door.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use memori_service::process::{self, CommonFlags};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Takes conversation events, makes them durable, and passes reads on to the writer.
#[derive(Debug, Parser)]
#[command(name = memori_ingest::process::NAME, version)]
struct Flags {
    /// Address of the API; overrides ingest.listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    common: CommonFlags,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let settings = flags.common.load().map(|mut settings| {
        settings.ingest.listen = flags.listen.unwrap_or(settings.ingest.listen);
        settings
    });
    process::run(memori_ingest::process::NAME, settings, flags.common.print_config, memori_ingest::process::run)
}
