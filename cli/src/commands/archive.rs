//! `memori archive run|status|verify|drop-tenant`: the log's records beyond its retention.

use memori_archive::process;
use memori_archive::verify::{Findings, clean, verify};
use memori_archive::{Archive, ArchiveError};
use memori_service::{ProcessError, Settings};
use serde_json::json;

use crate::output::{say, table};

#[derive(clap::Subcommand)]
pub(crate) enum Commands {
    /// Archive everything on the log, until it is stopped. Several share the partitions.
    Run,
    /// How far each partition is archived.
    Status {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look every file through: no holes, no record twice, every checksum.
    Verify {
        /// Remove the files that no manifest names. No archiver may be running.
        #[arg(long)]
        clean: bool,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove all that is archived of a tenant so far.
    DropTenant {
        /// Whom.
        tenant: String,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

fn failed(error: ArchiveError) -> ProcessError {
    match error {
        ArchiveError::Away(_) => ProcessError::Unreachable(error.to_string()),
        ArchiveError::Missing(_) | ArchiveError::Broken(_) => ProcessError::Failed(error.to_string()),
    }
}

pub(crate) async fn run(settings: Settings, command: Commands) -> Result<(), ProcessError> {
    if matches!(command, Commands::Run) {
        return process::run(settings).await;
    }
    let archive: Archive = process::open(&settings)?;
    match command {
        Commands::Run => Ok(()),
        Commands::Status { json } => {
            let findings = verify(&archive, false).await.map_err(failed)?;
            show(&findings, json);
            Ok(())
        }
        Commands::Verify { clean: cleans, json } => {
            let findings = verify(&archive, true).await.map_err(failed)?;
            show(&findings, json);
            if cleans {
                let removed = clean(&archive, &findings).await.map_err(failed)?;
                say(format!("\n   {removed} files that no manifest names are removed"));
            }
            if findings.wrong.is_empty() {
                return Ok(());
            }
            Err(ProcessError::Failed(format!("{} things are wrong with the archive", findings.wrong.len())))
        }
        Commands::DropTenant { tenant, yes } => {
            if !yes {
                return Err(ProcessError::Usage(format!(
                    "this removes for good all that is archived of {tenant}; a rebuild will not have it. Say --yes to do it"
                )));
            }
            let files = archive.drop_tenant(&tenant).await.map_err(failed)?;
            say(format!("{files} files of {tenant} are removed"));
            Ok(())
        }
    }
}

fn show(findings: &Findings, as_json: bool) {
    if as_json {
        say(json!(findings).to_string());
        return;
    }
    let rows: Vec<Vec<String>> = findings
        .partitions
        .iter()
        .map(|s| {
            vec![
                s.place.topic.clone(),
                s.place.partition.to_string(),
                s.from.to_string(),
                s.to.to_string(),
                s.manifests.to_string(),
                s.records.to_string(),
                s.bytes.to_string(),
            ]
        })
        .collect();
    say(table(&["topic", "partition", "from", "to", "ranges", "records", "bytes"], &rows));
    for wrong in &findings.wrong {
        say(format!("   WRONG  {wrong}"));
    }
    if !findings.unnamed.is_empty() {
        say(format!(
            "   {} files are named by no manifest: an archiver is at work, or one ended half way",
            findings.unnamed.len()
        ));
    }
}
