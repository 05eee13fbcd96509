//! What a main does: read configuration, start telemetry, run, and turn the end into an exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::settings::{Settings, SettingsError};
use crate::{server, telemetry};

/// The most that sending the last spans may take.
const TELEMETRY_SHARE: Duration = Duration::from_secs(2);

/// How a process ends when it does not end well.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Exit 2: bad usage or configuration; the text says what to change.
    #[error("{0}")]
    Usage(String),
    /// Exit 75: a dependency was not reachable within the start deadline.
    #[error("{0}")]
    Unreachable(String),
    /// Exit 1.
    #[error("{0}")]
    Failed(String),
}

impl From<SettingsError> for ProcessError {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl ProcessError {
    /// As the contract numbers them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 75,
        }
    }
}

/// The flags that every service has.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonFlags {
    /// TOML or YAML file with settings.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print the effective configuration, secrets as ***, and exit.
    #[arg(long, global = true)]
    pub print_config: bool,
}

impl CommonFlags {
    /// Reads the layers below the flags.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load(&self) -> Result<Settings, SettingsError> {
        Settings::load(self.config.as_deref())
    }
}

/// Runs a whole process: `body` gets the settings inside a runtime with telemetry. Errors are told on stderr.
pub fn run<B, F>(process: &'static str, settings: Result<Settings, SettingsError>, print_config: bool, body: B) -> ExitCode
where
    B: FnOnce(Settings) -> F,
    F: Future<Output = Result<(), ProcessError>>,
{
    let ended = settings.map_err(ProcessError::from).and_then(|settings| {
        if print_config {
            print(&settings.to_toml());
            return Ok(());
        }
        let mut settings = settings;
        // Of the shutdown's deadline, some is for the spans that are left.
        let telemetry_share = Duration::from_millis(settings.shutdown.deadline_ms / 10).min(TELEMETRY_SHARE);
        if settings.otlp.endpoint.is_some() {
            settings.shutdown.deadline_ms -= u64::try_from(telemetry_share.as_millis()).unwrap_or(0);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| ProcessError::Failed(format!("no runtime: {e}")))?;
        let ended = runtime.block_on(async {
            let telemetry = telemetry::init(process, &settings)?;
            server::raise_descriptors();
            tracing::info!(process, version = env!("CARGO_PKG_VERSION"), config = %one_line(&settings), "starting");
            let ended = body(settings).await;
            // The exporter's thread may wait for this runtime, so it is not awaited on one of its own threads.
            let _ = tokio::task::spawn_blocking(move || telemetry.shutdown(telemetry_share)).await;
            ended
        });
        // Tasks that outlived their deadline do not hold the exit up.
        runtime.shutdown_timeout(Duration::from_millis(200));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(process, &error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn one_line(settings: &Settings) -> String {
    serde_json::to_string(&settings.shown()).unwrap_or_default()
}

/// The one line on stdout that says a service is ready, and where.
pub fn ready_line(api: Option<std::net::SocketAddr>, admin: Option<std::net::SocketAddr>) {
    let mut line = "listening".to_owned();
    for (name, address) in [("api", api), ("admin", admin)] {
        if let Some(address) = address {
            line.push_str(&format!(" {name}={address}"));
        }
    }
    print(&format!("{line}\n"));
}

/// Writes to stdout at once; a closed stdout is no reason to stop.
fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn complain(process: &str, text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{process}: {text}");
}

/// Ends the process without unwinding: for a second signal, when somebody is in a hurry.
pub(crate) fn exit_now(code: i32) -> ! {
    #[allow(clippy::disallowed_methods, reason = "the one place where a process may end without draining")]
    std::process::exit(code)
}

/// Tries `attempt` until it succeeds or `deadline` has passed, pausing a little longer each time.
///
/// # Errors
/// [`ProcessError::Unreachable`] with the last error, naming `what`.
pub async fn reach<T, E, A, F>(what: &str, deadline: Duration, mut attempt: A) -> Result<T, ProcessError>
where
    E: std::fmt::Display,
    A: FnMut() -> F,
    F: Future<Output = Result<T, E>>,
{
    let end = tokio::time::Instant::now() + deadline;
    let mut pause = Duration::from_millis(50);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() + pause >= end => {
                return Err(ProcessError::Unreachable(format!(
                    "{what} was not reachable within {} ms: {error}",
                    deadline.as_millis()
                )));
            }
            Err(error) => {
                tracing::debug!(what, %error, "not reachable yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}
