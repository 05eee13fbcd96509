//! Several programs that have opened Memori as a library on one database, as the workers of a web server do.

use std::path::Path;

use crate::client::Api;
use crate::process::{Process, Program};
use crate::storm::Victims;

/// The tenant of a library.
pub const TENANT: &str = "default";

/// Running libraries.
pub struct Libraries {
    /// Their processes.
    pub processes: Vec<Process>,
    /// How often each is to be killed.
    pub kills: usize,
    dir: tempfile::TempDir,
}

impl Libraries {
    /// Starts `count` on one SQLite file in a folder of their own, or on one Postgres database.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start(count: usize, postgres: Option<&str>, kills: usize) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("memori-libraries-").tempdir()?;
        let database = postgres.map_or_else(|| database(dir.path()), str::to_owned);
        let mut libraries = Self { processes: Vec::new(), kills, dir };
        for number in 0..count {
            libraries.processes.push(libraries.another(&format!("library-{number}"), &database)?);
        }
        Ok(libraries)
    }

    fn another(&self, name: &str, database: &str) -> anyhow::Result<Process> {
        let env = [
            ("MEMORI_LIBRARY_DATABASE", database.to_owned()),
            ("MEMORI_LIBRARY_DATA_DIR", self.dir.path().join("data").display().to_string()),
            ("MEMORI__EMBEDDING__KIND", "none".to_owned()),
        ];
        let program = Program {
            binary: "memori-library",
            args: Vec::new(),
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            listen_key: Some("MEMORI__INGEST__LISTEN"),
            has_admin: false,
        };
        Process::start(name, program, self.dir.path())
    }

    /// The way in of one of them.
    #[must_use]
    pub fn api(&self, number: usize) -> Api {
        Api::new(&self.processes[number % self.processes.len()].api(), None)
    }

    /// The folder that they share, and the database's file where it is SQLite.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The SQLite file.
    #[must_use]
    pub fn database(&self) -> String {
        database(self.dir.path())
    }

    /// How often they were started, all together.
    #[must_use]
    pub fn starts(&self) -> usize {
        self.processes.iter().map(Process::starts).sum()
    }
}

fn database(dir: &Path) -> String {
    dir.join("app.memori.db").display().to_string()
}

impl Victims for Libraries {
    fn victims(&self) -> Vec<(String, usize)> {
        (0..self.processes.len()).map(|number| (number.to_string(), self.kills)).collect()
    }

    fn kill_and_restart(&mut self, victim: &str) -> anyhow::Result<()> {
        self.processes[victim.parse::<usize>()?].kill_and_restart()
    }
}
