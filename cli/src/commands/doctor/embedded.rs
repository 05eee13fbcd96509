//! The embedded data folder: is it there, free, whole, and as new as this program?

use std::path::Path;

use memori_event_log::sqlite::SqliteDatabase;
use memori_service::ProcessError;

use super::{Finding, writable};
use memori_embedded::folder::{self, DataFolder};

pub(crate) async fn check(path: &Path, database_elsewhere: bool) -> Vec<Finding> {
    let shown = path.display();
    if !path.exists() {
        return vec![Finding::note("data folder", format!("{shown} is not there yet"), "nothing to do: `memori up` makes it")];
    }
    if let Err(error) = writable(path) {
        return vec![Finding::failed(
            "data folder",
            format!("{shown}: {error}"),
            "make it writable, or choose another with --data-dir",
        )];
    }
    let held = match DataFolder::hold(path) {
        Ok(held) => held,
        Err(_) => return vec![in_use(path).await],
    };
    let mut findings = vec![Finding::ok("data folder", format!("{shown} is writable and free"))];
    if database_elsewhere {
        return findings;
    }
    if held.database().exists() {
        findings.push(database(&held).await);
    } else {
        findings.push(Finding::ok("database", "none yet: `memori up` makes it"));
    }
    findings
}

/// Somebody holds the folder: then it should answer.
async fn in_use(path: &Path) -> Finding {
    if folder::held_by_libraries(path) {
        return Finding::ok("data folder", "in use by programs that have opened it as a library");
    }
    let Some(address) = folder::address_of(path) else {
        return Finding::note("data folder", "in use by a process that is starting or stopping", "ask again in a moment");
    };
    let answer = reqwest::Client::new().get(format!("{address}/readyz")).timeout(super::PATIENCE).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => {
            Finding::ok("data folder", format!("in use by a server that is ready at {address}"))
        }
        Ok(answer) => Finding::failed(
            "data folder",
            format!(
                "the server at {address} is not ready: {}",
                answer.text().await.unwrap_or_default().trim().replace('\n', "; ")
            ),
            "look at its log",
        ),
        Err(error) => {
            Finding::failed("data folder", format!("the server at {address} does not answer: {error}"), "look at its log")
        }
    }
}

async fn database(folder: &DataFolder) -> Finding {
    let whole = async {
        let database = SqliteDatabase::open(&folder.database()).await.map_err(|e| ProcessError::Failed(e.to_string()))?;
        let answer: Result<(String,), sqlx::Error> = sqlx::query_as("PRAGMA quick_check(1)").fetch_one(database.reads()).await;
        database.close().await;
        answer.map_err(|e| ProcessError::Failed(e.to_string()))
    };
    match whole.await {
        Ok((answer,)) if answer == "ok" => Finding::ok("database", "SQLite finds it whole"),
        Ok((answer,)) => Finding::failed(
            "database",
            format!("SQLite finds it damaged: {answer}"),
            "stop here, copy the folder away, and restore a backup of it",
        ),
        Err(error) => Finding::failed("database", error.to_string(), "is the disk full, or is the file from a newer version?"),
    }
}
