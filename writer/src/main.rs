//! `memori-writer`: sink and recall.

use std::process::ExitCode;

use clap::Parser;
use memori_service::process::{self, CommonFlags};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Moves what the log says into the store, exactly once, and answers recall.
#[derive(Debug, Parser)]
#[command(name = memori_writer::process::NAME, version)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    process::run(memori_writer::process::NAME, flags.common.load(), flags.common.print_config, memori_writer::process::run)
}
