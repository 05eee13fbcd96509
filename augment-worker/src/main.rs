//! `memori-augment-worker`: extraction.

use std::process::ExitCode;

use clap::Parser;
use memori_augment_worker::process::NAME;
use memori_service::process::{self, CommonFlags};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Reads conversation events from the log and writes what they state back to it.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    process::run(NAME, flags.common.load(), flags.common.print_config, memori_augment_worker::process::run)
}
