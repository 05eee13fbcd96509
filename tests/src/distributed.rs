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

/// Topics and a database of a test's own, and what every process there is started with.
pub struct Ground<'s> {
    /// The servers below.
    pub servers: &'s Servers,
    /// The URL of its database.
    pub database: String,
    /// The prefix of its topics and groups.
    pub prefix: String,
    common: Vec<(String, String)>,
    keys: Keys,
    dir: tempfile::TempDir,
}

impl<'s> Ground<'s> {
    /// Makes topics and tables by the operator's own commands. `env` is for all.
    ///
    /// # Errors
    /// A command fails.
    pub fn prepare(servers: &'s Servers, database: String, tenants: &[String], env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let prefix = servers.fresh_prefix();
        let dir = tempfile::Builder::new().prefix("memori-distributed-").tempdir()?;
        let keys = Keys::write(tenants, dir.path())?;
        let partitions = PARTITIONS.to_string();
        let keys_file = keys.file().display().to_string();
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
        Ok(Self { servers, database, prefix, common, keys, dir })
    }

    fn start(
        &self,
        name: &str,
        binary: &'static str,
        listen_key: Option<&'static str>,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Process> {
        let mut env = self.common.clone();
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let program = Program { binary, args: Vec::new(), env, listen_key, has_admin: true };
        tokio::task::block_in_place(|| Process::start(name, program, self.dir.path()))
    }

    /// Starts a writer.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn writer(&self, name: &str) -> anyhow::Result<Process> {
        self.start(name, "memori-writer", Some("MEMORI__WRITER__LISTEN"), &[])
    }

    /// Starts a worker that asks the writer there, where the ground's own environment names none.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn worker(&self, name: &str, writer: &str) -> anyhow::Result<Process> {
        let own = self.common.iter().any(|(name, _)| name == "MEMORI__INGEST__WRITER_URL");
        let more = [("MEMORI__INGEST__WRITER_URL", writer)];
        self.start(name, "memori-augment-worker", None, if own { &[] } else { &more })
    }

    /// Starts a front door before the writer there, with a spool of its own.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn door(&self, name: &str, writer: &str) -> anyhow::Result<Process> {
        let spool = self.spool_of(name).display().to_string();
        let more = [("MEMORI__INGEST__WRITER_URL", writer), ("MEMORI__INGEST__SPOOL_DIR", &spool)];
        self.start(name, "memori-ingest", Some("MEMORI__INGEST__LISTEN"), &more)
    }

    fn spool_of(&self, door: &str) -> PathBuf {
        self.dir.path().join(format!("spool-of-{door}"))
    }

    /// A tenant's way in by the front door there.
    #[must_use]
    pub fn api_at(&self, door: &str, tenant: &str) -> Api {
        Api::new(door, Some(self.keys.of(tenant)))
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

/// The processes, on a ground of their own.
pub struct Distributed<'s> {
    ground: Ground<'s>,
    /// The front door.
    pub ingest: Process,
    /// The workers.
    pub workers: Vec<Process>,
    /// The writer.
    pub writer: Process,
}

impl<'s> std::ops::Deref for Distributed<'s> {
    type Target = Ground<'s>;

    fn deref(&self) -> &Self::Target {
        &self.ground
    }
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
    #[allow(clippy::unused_async, reason = "beside the one that makes the database")]
    pub async fn start_on(
        servers: &'s Servers,
        database: String,
        tenants: &[String],
        workers: usize,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let ground = Ground::prepare(servers, database, tenants, env)?;
        let writer = ground.writer("writer")?;
        let workers =
            (0..workers).map(|n| ground.worker(&format!("worker-{n}"), &writer.api())).collect::<anyhow::Result<Vec<_>>>()?;
        let ingest = ground.door("ingest", &writer.api())?;
        Ok(Self { ground, ingest, workers, writer })
    }

    /// A tenant's way in.
    #[must_use]
    pub fn api(&self, tenant: &str) -> Api {
        self.api_at(&self.ingest.api(), tenant)
    }

    /// Where the front door's spool lies.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.spool_of("ingest")
    }

    /// Starts another writer beside the first; it shares the partitions.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn another_writer(&self, name: &str) -> anyhow::Result<Process> {
        self.ground.writer(name)
    }

    /// Starts another front door beside the first, with a spool of its own.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn another_door(&self, name: &str) -> anyhow::Result<Process> {
        self.door(name, &self.writer.api())
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
