//! The distributed shape: one front door, several workers and one writer as processes of their own, on Kafka and Postgres.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

use crate::client::Api;
use crate::keys::Keys;
use crate::process::{self, Process, Program};
use crate::servers::Servers;

/// Partitions of every topic: more than members, fewer than entities.
const PARTITIONS: usize = 6;

/// The processes, on a topic set and a database of their own.
pub struct Distributed<'s> {
    /// The servers below.
    pub servers: &'s Servers,
    /// The front door.
    pub ingest: Process,
    /// The workers.
    pub workers: Vec<Process>,
    /// The writer.
    pub writer: Process,
    /// The URL of its database.
    pub database: String,
    /// The prefix of its topics and groups.
    pub prefix: String,
    common: Vec<(String, String)>,
    keys: Keys,
    dir: tempfile::TempDir,
}

impl<'s> Distributed<'s> {
    /// Makes topics and tables by the operator's own commands, and starts writer, workers and front door. `env` is for all.
    ///
    /// # Errors
    /// As [`Process::start`], or a command fails.
    pub async fn start(servers: &'s Servers, tenants: &[String], workers: usize, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_on(servers, servers.empty_database().await?, tenants, workers, env).await
    }

    /// The same on a database of the caller's.
    ///
    /// # Errors
    /// As [`Distributed::start`].
    pub async fn start_on(
        servers: &'s Servers,
        database: String,
        tenants: &[String],
        workers: usize,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let prefix = servers.fresh_prefix();
        let dir = tempfile::Builder::new().prefix("memori-distributed-").tempdir()?;
        let keys = Keys::write(tenants, dir.path())?;
        let partitions = PARTITIONS.to_string();
        let keys_file = keys.file().display().to_string();
        let spool = dir.path().join("spool").display().to_string();
        let mut common: Vec<(String, String)> = [
            ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
            ("MEMORI__KAFKA__TOPIC_PREFIX", &prefix),
            ("MEMORI__KAFKA__PARTITIONS", &partitions),
            // The broker's shortest: a killed member's partitions pass on soon.
            ("MEMORI__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"),
            ("MEMORI__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "1000"),
            ("MEMORI__POSTGRES__URL", &database),
            ("MEMORI__AUTH__KEYS_FILE", &keys_file),
            ("MEMORI__AUTH__INTERNAL_TOKEN", "between-ingest-and-writer"),
            ("MEMORI__INGEST__SPOOL_DIR", &spool),
            // An audit expects the writer's word on known ids, also of a busy machine; by default the door does not wait so long.
            ("MEMORI__INGEST__LOOKUP_TIMEOUT_MS", "2000"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        for (name, value) in env {
            common.retain(|(present, _)| present != name);
            common.push(((*name).to_owned(), (*value).to_owned()));
        }
        run(&["topics", "create"], &common)?;
        run(&["migrate"], &common)?;
        let program = |binary, listen_key, env| Program { binary, args: Vec::new(), env, listen_key, has_admin: true };
        let start = |name: &str, program| tokio::task::block_in_place(|| Process::start(name, program, dir.path()));
        let writer = start("writer", program("memori-writer", Some("MEMORI__WRITER__LISTEN"), common.clone()))?;
        let mut workers_env = common.clone();
        if !workers_env.iter().any(|(name, _)| name == "MEMORI__INGEST__WRITER_URL") {
            workers_env.push(("MEMORI__INGEST__WRITER_URL".to_owned(), writer.api()));
        }
        let workers = (0..workers)
            .map(|n| start(&format!("worker-{n}"), program("memori-augment-worker", None, workers_env.clone())))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut door = common.clone();
        door.push(("MEMORI__INGEST__WRITER_URL".to_owned(), writer.api()));
        let ingest = start("ingest", program("memori-ingest", Some("MEMORI__INGEST__LISTEN"), door))?;
        Ok(Self { servers, ingest, workers, writer, database, prefix, common, keys, dir })
    }

    /// A tenant's way in.
    #[must_use]
    pub fn api(&self, tenant: &str) -> Api {
        Api::new(&self.ingest.api(), Some(self.keys.of(tenant)))
    }

    /// Where the front door's spool lies.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Starts another writer beside the first; it shares the partitions.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn another_writer(&self, name: &str) -> anyhow::Result<Process> {
        let program = Program {
            binary: "memori-writer",
            args: Vec::new(),
            env: self.common.clone(),
            listen_key: Some("MEMORI__WRITER__LISTEN"),
            has_admin: true,
        };
        tokio::task::block_in_place(|| Process::start(name, program, self.dir.path()))
    }

    /// Starts another front door beside the first, with a spool of its own.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn another_door(&self, name: &str) -> anyhow::Result<Process> {
        let mut env = self.common.clone();
        env.retain(|(key, _)| key != "MEMORI__INGEST__SPOOL_DIR");
        env.push(("MEMORI__INGEST__SPOOL_DIR".to_owned(), self.dir.path().join(name).display().to_string()));
        env.push(("MEMORI__INGEST__WRITER_URL".to_owned(), self.writer.api()));
        let program = Program {
            binary: "memori-ingest",
            args: Vec::new(),
            env,
            listen_key: Some("MEMORI__INGEST__LISTEN"),
            has_admin: true,
        };
        tokio::task::block_in_place(|| Process::start(name, program, self.dir.path()))
    }

    /// Runs `memori ARGS` to its end, on these servers.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn memori(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(process::binary("memori")?);
        command.args(args).env_clear().envs(self.common.iter().cloned());
        Ok(tokio::task::block_in_place(|| command.output())?)
    }

    /// Makes the tables again where they are missing.
    ///
    /// # Errors
    /// The command fails.
    pub fn migrate(&self) -> anyhow::Result<()> {
        run(&["migrate"], &self.common)
    }
}

/// Runs `memori ARGS` to its end.
fn run(args: &[&str], env: &[(String, String)]) -> anyhow::Result<()> {
    let mut command = Command::new(process::binary("memori")?);
    command.args(args).env_clear().envs(env.iter().cloned());
    let output = tokio::task::block_in_place(|| command.output())?;
    ensure!(output.status.success(), "memori {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
