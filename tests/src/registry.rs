//! A real schema registry: the run's, where there is one, else one of the test's own, which ends with it however it ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};

/// Where the run's registry is told.
const VARIABLE: &str = "MEMORI_TEST_REGISTRY";

/// A running registry.
pub struct Registry {
    url: String,
    /// Stops it when its standard input ends, which no way of dying can withhold.
    watchdog: Option<Child>,
}

impl Registry {
    /// The run's, or one that is started now.
    ///
    /// # Errors
    /// It does not start.
    pub fn start() -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var(VARIABLE) {
            return Ok(Self { url, watchdog: None });
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/servers.sh");
        let folder = tempfile::Builder::new().prefix("memori-registry-").tempdir()?.keep();
        let watchdog = Command::new("sh")
            .args(["-c", r#"read -r _; "$1" stop "$2"; rm -rf "$2""#, "memori-registry-watchdog"])
            .args([&script, &folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let output = Command::new(&script).arg("start-registry").arg(&folder).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "start-registry: {}", String::from_utf8_lossy(&output.stderr));
        let url = said.lines().find_map(|line| line.strip_prefix("registry=")).context("no address")?.to_owned();
        Ok(Self { url, watchdog: Some(watchdog) })
    }

    /// Its Confluent API.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}
