//! `memori`: everything in one process, and the operator's tools.

mod client;
mod commands;
mod exposition;
mod output;
mod platform;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use memori_service::process::CommonFlags;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Long-term memory for chatbots: conversations in, facts out.
#[derive(Parser)]
#[command(name = "memori", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process, on one folder or on your own Postgres database.
    Up(commands::up::Flags),
    /// Show what it does, on a few bundled conversations in a temporary folder.
    Demo(commands::demo::Flags),
    /// Bring the store's tables to this version (Postgres).
    Migrate,
    /// The log's topics.
    #[command(subcommand)]
    Topics(commands::topics::Topics),
    /// Make all tables that are derived from the log again.
    Rebuild(commands::rebuild::Flags),
    /// The log's records, kept beyond its retention.
    #[command(subcommand)]
    Archive(commands::archive::Commands),
    /// Post conversation events from a file of JSON lines.
    Ingest(commands::ingest::Flags),
    /// Import conversations that were had elsewhere: exports, logs, tables, databases.
    Backfill(commands::backfill::Flags),
    /// Ask what is known about an entity.
    Recall(commands::recall::Flags),
    /// Show what became of an event.
    Event(commands::event::Flags),
    /// What could not be processed: list, show, put back.
    #[command(subcommand)]
    DeadLetters(commands::dead_letters::DeadLetters),
    /// What extractors, models and prompts made: list, take back, have it made again.
    #[command(subcommand)]
    Facts(commands::facts::Facts),
    /// Extract history again into a generation beside: look, switch, switch back.
    #[command(subcommand)]
    Replay(commands::replay::Replay),
    /// Who uses the platform, how much, and who changed what.
    #[command(subcommand)]
    Tenant(commands::tenant::Tenant),
    /// API keys.
    #[command(subcommand)]
    Key(commands::key::Key),
    /// What a tenant may use.
    #[command(subcommand)]
    Quota(commands::quota::Quota),
    /// The built-in embedding model.
    #[command(subcommand)]
    Model(commands::model::Model),
    /// Measure how well recall finds, on a file of conversations and questions.
    Quality(commands::quality::Flags),
    /// Check configuration, log and store, and say what to do.
    Doctor(commands::doctor::Flags),
    /// Whether a process is ready; ends with 0 where it is.
    Health(commands::health::Flags),
    /// Watch lanes, lag, throughput, what is in flight, and the model's health.
    Top(commands::top::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut settings = cli.common.load();
    if let (Ok(settings), Command::Up(flags)) = (&mut settings, &cli.command) {
        flags.apply(settings);
    }
    if !matches!(cli.command, Command::Up(_) | Command::Archive(commands::archive::Commands::Run))
        && std::env::var_os("MEMORI__LOG__LEVEL").is_none()
    {
        // A person reads the output of these: only what went wrong belongs beside it.
        if let Ok(settings) = &mut settings {
            settings.log.level = "warn".to_owned();
        }
    }
    memori_service::run("memori", settings, cli.common.print_config, async |settings| match cli.command {
        Command::Up(_) => commands::up::run(settings).await,
        Command::Demo(flags) => commands::demo::run(settings, flags).await,
        Command::Migrate => commands::migrate::run(settings).await,
        Command::Topics(topics) => commands::topics::run(settings, topics).await,
        Command::Rebuild(flags) => commands::rebuild::run(settings, flags).await,
        Command::Archive(command) => commands::archive::run(settings, command).await,
        Command::Ingest(flags) => commands::ingest::run(flags).await,
        Command::Backfill(flags) => commands::backfill::run(settings, flags).await,
        Command::Recall(flags) => commands::recall::run(flags).await,
        Command::Event(flags) => commands::event::run(flags).await,
        Command::DeadLetters(command) => commands::dead_letters::run(command).await,
        Command::Facts(command) => commands::facts::run(command).await,
        Command::Replay(command) => commands::replay::run(command).await,
        Command::Tenant(command) => commands::tenant::run(command).await,
        Command::Key(key) => commands::key::run(key).await,
        Command::Quota(command) => commands::quota::run(command).await,
        Command::Model(model) => commands::model::run(settings, model).await,
        Command::Quality(flags) => commands::quality::run(settings, flags).await,
        Command::Doctor(flags) => commands::doctor::run(settings, flags).await,
        Command::Health(flags) => commands::health::run(flags).await,
        Command::Top(flags) => commands::top::run(flags).await,
    })
}
