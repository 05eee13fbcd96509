//! The embedded shape: one `memori up` on a folder of its own, with a key per tenant.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::client::Api;
use crate::keys::Keys;
use crate::process::{Process, Program};

/// A running `memori up`.
pub struct Embedded {
    /// Its process.
    pub process: Process,
    env: Vec<(String, String)>,
    keys: Keys,
    dir: tempfile::TempDir,
}

impl Embedded {
    /// Starts one in a temporary folder.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start(tenants: &[String], env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("memori-embedded-").tempdir()?;
        let keys = Keys::write(tenants, dir.path())?;
        let mut environment = vec![
            ("MEMORI__AUTH__KEYS_FILE".to_owned(), keys.file().display().to_string()),
            ("MEMORI__EMBEDDED__DATA_DIR".to_owned(), data_dir(dir.path()).display().to_string()),
        ];
        environment.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let program = Program {
            binary: "memori",
            args: vec!["up".to_owned()],
            env: environment.clone(),
            listen_key: Some("MEMORI__INGEST__LISTEN"),
            has_admin: false,
        };
        let process = Process::start("memori", program, dir.path())?;
        Ok(Self { process, env: environment, keys, dir })
    }

    /// Starts one whose log and store are in this database.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn on_postgres(tenants: &[String], url: &str, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start(tenants, &[&[("MEMORI__EMBEDDED__DATABASE_URL", url)], env].concat())
    }

    /// A tenant's way in.
    #[must_use]
    pub fn api(&self, tenant: &str) -> Api {
        Api::new(&self.process.api(), Some(self.keys.of(tenant)))
    }

    /// A tenant's key.
    #[must_use]
    pub fn key(&self, tenant: &str) -> &str {
        self.keys.of(tenant)
    }

    /// Runs `memori ARGS` to its end, on this folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn memori(&self, args: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = std::process::Command::new(crate::process::binary("memori")?);
        command.args(args).env_clear().envs(self.env.iter().cloned());
        Ok(tokio::task::block_in_place(|| command.output())?)
    }

    /// Its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// The one database file.
    ///
    /// # Errors
    /// There is not exactly one.
    pub fn database(&self) -> anyhow::Result<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.data_dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "db") {
                found.push(path);
            }
        }
        anyhow::ensure!(found.len() == 1, "databases in the data folder: {found:?}");
        found.pop().context("no database")
    }
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}
