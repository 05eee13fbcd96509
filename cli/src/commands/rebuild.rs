//! `memori rebuild`: makes all derived tables again from the log.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memori_embedded::Rebuild;
use memori_event_log::Log;
use memori_event_log::registry::behind;
use memori_service::{ProcessError, Settings, Shutdown};
use memori_writer::rebuild::{Extent, Progress, RebuildError, extent, rebuild};
use memori_writer::run::SinkConfig;
use serde_json::json;

use crate::output::{aside, say};
use crate::platform;

/// How often progress is told where nobody watches.
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// The platform's tables (Kafka and Postgres), instead of those of an embedded data folder.
    #[arg(long)]
    platform: bool,
    /// The embedded system's folder; it must not be in use.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Do it. Without this it is only said what would be read.
    #[arg(long)]
    yes: bool,
    /// Progress and result as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(mut settings: Settings, flags: Flags) -> Result<(), ProcessError> {
    if let Some(folder) = &flags.data_dir {
        settings.embedded.data_dir = Some(folder.clone());
    }
    let mut teller = Teller { json: flags.json, told: None, live: std::io::stderr().is_terminal() };
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| failed(&e))?;
    let done = if flags.platform {
        let patience = Duration::from_millis(settings.start.deadline_ms);
        let log: Arc<dyn Log> = Arc::new(platform::kafka(&settings, patience).await?);
        let log = behind(log, settings.registry.url.as_deref(), patience).await.map_err(|e| failed(&e))?;
        let log = memori_archive::behind(log, settings.archive.url.as_deref()).map_err(|e| usage(&e))?;
        let store = Arc::new(platform::postgres(&settings)?);
        if !flags.yes {
            let identity = log.identity().await.map_err(|e| failed(&e))?;
            return teller.would(&extent(&*log, &identity).await.map_err(|e| usage(&e))?);
        }
        let config = SinkConfig::from_settings(&settings.writer, &settings.shutdown);
        rebuild(log, store, config, |progress| teller.tell(progress), shutdown.token()).await.map_err(|e| match e {
            RebuildError::Gone { .. } => usage(&e),
            e => failed(&e),
        })?
    } else {
        let held = Rebuild::open(settings).await?;
        if !flags.yes {
            let extent = held.extent().await;
            held.close().await;
            return teller.would(&extent?);
        }
        held.run(|progress| teller.tell(progress), shutdown.token()).await?
    };
    teller.done(done);
    Ok(())
}

fn failed(error: &dyn std::fmt::Display) -> ProcessError {
    ProcessError::Failed(error.to_string())
}

fn usage(error: &dyn std::fmt::Display) -> ProcessError {
    ProcessError::Usage(error.to_string())
}

struct Teller {
    json: bool,
    /// When it last said something.
    told: Option<Instant>,
    /// Somebody watches.
    live: bool,
}

impl Teller {
    fn would(&self, extent: &Extent) -> Result<(), ProcessError> {
        if self.json {
            say(json!({"would_read": extent.records()}).to_string());
        }
        Err(ProcessError::Usage(format!(
            "a rebuild empties every table that is made from the log and reads {} records anew; until it is through, recall knows only \
             what has been read. Tenants, keys, quotas and generations stay. Say --yes to do it",
            extent.records()
        )))
    }

    fn tell(&mut self, progress: Progress) {
        let every = if self.live && !self.json { Duration::from_secs(1) } else { TOLD_EVERY };
        if self.told.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.told = Some(Instant::now());
        if self.json {
            say(json!({"state": "running", "progress": progress}).to_string());
            return;
        }
        let percent = if progress.of > 0 { progress.records * 100 / progress.of } else { 100 };
        let eta = progress.eta_seconds.map_or_else(String::new, |eta| format!(", {} left", duration(eta)));
        aside(format!("   {percent:3} %  {} of {} records, {:.0}/s{eta}", progress.records, progress.of, progress.per_second));
    }

    fn done(&self, progress: Progress) {
        if self.json {
            say(json!({"state": "done", "progress": progress}).to_string());
        } else {
            say(format!(
                "the tables are made again from {} records, in {} ({:.0}/s)",
                progress.of,
                duration(progress.seconds),
                progress.per_second
            ));
        }
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
