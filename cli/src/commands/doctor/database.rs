//! The user's own Postgres under the embedded mode: does it answer, is it new enough, may we do there what we must, does it keep
//! what it confirms?

use memori_event_log::LogError;
use memori_event_log::sql::postgres::schema;
use memori_service::Secret;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::SCHEMAS;

use super::{Finding, PATIENCE};

const LATER: &str = "start it, or correct MEMORI__EMBEDDED__DATABASE_URL";

pub(crate) async fn check(url: &Secret) -> Vec<Finding> {
    let version = match tokio::time::timeout(PATIENCE, schema::probe(url.expose(), &SCHEMAS)).await {
        Ok(Ok(version)) => version,
        Ok(Err(error @ LogError::Transient(_))) => return vec![Finding::failed("database", error.to_string(), LATER)],
        Ok(Err(error)) => return vec![Finding::failed("database", "cannot be used", error.to_string())],
        Err(_) => return vec![Finding::failed("database", "does not answer", LATER)],
    };
    let mut findings = vec![Finding::ok("database", format!("Postgres {version} answers, and the role may do what is needed"))];
    match tokio::time::timeout(PATIENCE, inside(url)).await {
        Ok(Ok(inside)) => findings.extend(inside),
        Ok(Err(error)) => findings.push(Finding::failed("tables", error, "look at the server's log")),
        Err(_) => findings.push(Finding::failed("tables", "the database does not answer", LATER)),
    }
    findings
}

async fn inside(url: &Secret) -> Result<Vec<Finding>, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let pool = PostgresTarget::parse(url.expose(), "memori-doctor").and_then(|target| target.pool(1)).map_err(|e| told(&e))?;
    let client = pool.get().await.map_err(|e| told(&e))?;
    let sql = "SELECT to_regclass('memori.log_records') IS NOT NULL AND to_regclass('memori.events') IS NOT NULL, \
        current_setting('fsync') = 'on'";
    let row = client.query_one(sql, &[]).await.map_err(|e| told(&e))?;
    let mut findings = Vec::new();
    if row.get(0) {
        let sql = "SELECT (SELECT min(partitions) FROM memori.log_topics), \
            (SELECT count(DISTINCT split_part(member, '/', 1)) FROM memori.log_members \
              WHERE expires_at_ms > extract(epoch FROM clock_timestamp()) * 1000)";
        let row = client.query_one(sql, &[]).await.map_err(|e| told(&e))?;
        let (partitions, processes): (Option<i32>, i64) = (row.get(0), row.get(1));
        let partitions = partitions.unwrap_or(0);
        findings.push(Finding::ok(
            "tables",
            format!("there: a log of {partitions} partitions, shared by {processes} running processes"),
        ));
    } else {
        findings.push(Finding::ok("tables", "none yet: `memori up` makes them"));
    }
    if !row.get::<_, bool>(1) {
        findings.push(Finding::note(
            "durability",
            "the server runs with fsync = off",
            "set fsync = on: without it a crash of its machine loses events that were acknowledged",
        ));
    }
    Ok(findings)
}
