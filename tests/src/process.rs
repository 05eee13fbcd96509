//! The real binaries as child processes: started until ready, killed without warning, started again on the same addresses.
//!
//! Promises: no child outlives its test, not even when the test is killed; what a child wrote is shown when its test fails.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};

/// A start may wait for its dependencies; far above what a busy machine needs.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// The contract's 25 s for draining, and some for a busy machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The addresses of the ready line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Where the API listens.
    pub api: Option<SocketAddr>,
    /// Where health and metrics are.
    pub admin: Option<SocketAddr>,
}

impl Addresses {
    /// Reads `listening api=ADDR admin=ADDR`; `None` for any other line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("listening")?;
        let mut addresses = Self::default();
        for part in rest.split_whitespace() {
            let (name, address) = part.split_once('=')?;
            let address = address.parse().ok()?;
            match name {
                "api" => addresses.api = Some(address),
                "admin" => addresses.admin = Some(address),
                _ => return None,
            }
        }
        (addresses != Self::default()).then_some(addresses)
    }
}

/// How a binary is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the binary.
    pub binary: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its `MEMORI__…` environment; nothing of the caller's own reaches it.
    pub env: Vec<(String, String)>,
    /// The variable that takes the API's address.
    pub listen_key: Option<&'static str>,
    /// Whether it has an admin address of its own.
    pub has_admin: bool,
}

/// A started binary.
pub struct Process {
    name: String,
    program: Program,
    log: PathBuf,
    child: Option<Child>,
    addresses: Addresses,
    starts: usize,
}

impl Process {
    /// Starts `program` and waits for its ready line. Output goes to `NAME.log` in `log_dir`.
    ///
    /// # Errors
    /// It does not start, ends, or is not ready in time; the text holds the end of its log.
    pub fn start(name: &str, program: Program, log_dir: &Path) -> anyhow::Result<Self> {
        let log = log_dir.join(format!("{name}.log"));
        let mut process = Self { name: name.to_owned(), program, log, child: None, addresses: Addresses::default(), starts: 0 };
        process.start_again()?;
        Ok(process)
    }

    /// The API's base address.
    ///
    /// # Panics
    /// Where the program has no API.
    #[must_use]
    pub fn api(&self) -> String {
        format!("http://{}", self.addresses.api.unwrap_or_else(|| panic!("{} has no api", self.name)))
    }

    /// The base address of health and metrics: the API's own where there is no other.
    #[must_use]
    pub fn admin(&self) -> String {
        self.addresses.admin.map_or_else(|| self.api(), |admin| format!("http://{admin}"))
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> usize {
        self.starts
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it has written.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it without warning, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It is not running, or does not end in time.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("not running")?;
        signal(&child, Signal::TERM)?;
        let since = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if since.elapsed() > STOPPED_WITHIN {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{} did not stop within {STOPPED_WITHIN:?}\n{}", self.name, self.log_tail());
            }
            #[allow(clippy::disallowed_methods, reason = "this waits for a child on a thread that may block")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Freezes it, or lets it go on: SIGSTOP and SIGCONT.
    ///
    /// # Errors
    /// It is not running.
    pub fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        signal(self.child.as_ref().context("not running")?, if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// How it ended, where it has.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// Kills and starts it again.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.start_again()
    }

    /// Starts it on its earlier addresses, so that whoever knew it finds it.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(&log, "---- start {} of {}", self.starts + 1, self.name)?;
        let mut command = Command::new(binary(self.program.binary)?);
        command.args(&self.program.args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("RUST_BACKTRACE", "1").envs(self.program.env.iter().cloned());
        if let Some(key) = self.program.listen_key {
            command.env(key, lasting_address(self.addresses.api)?.to_string());
        }
        if self.program.has_admin {
            command.env("MEMORI__ADMIN__LISTEN", lasting_address(self.addresses.admin)?.to_string());
        }
        let mut child = spawn_for_life(command).with_context(|| format!("cannot start {}", self.program.binary))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        self.child = Some(child);
        self.starts += 1;
        self.addresses = self.wait_ready(stdout, log)?;
        Ok(())
    }

    fn wait_ready(&mut self, stdout: impl Read + Send + 'static, mut log: std::fs::File) -> anyhow::Result<Addresses> {
        let (ready, readiness) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                if let Some(addresses) = Addresses::parse(&line) {
                    let _ = ready.try_send(addresses);
                }
            }
        });
        match readiness.recv_timeout(READY_WITHIN) {
            Ok(addresses) => Ok(addresses),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.kill();
                bail!("{} was not ready within {READY_WITHIN:?}\n{}", self.name, self.log_tail())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = self.child.take().context("running")?.wait()?;
                let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
                bail!("{} ended before it was ready ({how})\n{}", self.name, self.log_tail())
            }
        }
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(60);
        format!("---- end of the log of {}\n{}", self.name, lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "the log of a failed test's process belongs to the test's output")]
            {
                eprintln!("{}", self.log_tail());
            }
        }
    }
}

/// The earlier address, else a free one that a restart finds free again: a port that the system hands out (port 0) may be given to
/// any outgoing connection while its owner is dead.
fn lasting_address(earlier: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
    /// Below the ports that Linux hands out by itself.
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    if let Some(address) = earlier {
        return Ok(address);
    }
    for _ in 0..200 {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::rng().random_range(PORTS)));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, signal).context("cannot signal")
}

/// Starts a child that the kernel kills when its starting thread ends. That is a thread of its own which lives as long as the
/// test process: a thread of a runtime's pool may end earlier.
fn spawn_for_life(mut command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::SyncSender<Order>>> = OnceLock::new();
    // SAFETY: between fork and exec only one system call is made, which allocates nothing.
    unsafe {
        command.pre_exec(|| rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from));
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::sync_channel::<Order>(1);
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::sync_channel(1);
    let gone = || std::io::Error::other("the spawning thread is gone");
    spawner.lock().map_err(|_| gone())?.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// Where a binary of the workspace is. Builds all of them, once, unless `MEMORI_TEST_BINARIES=built` says that they are there.
///
/// # Errors
/// The build fails, or the binary is not there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if std::env::var("MEMORI_TEST_BINARIES").is_ok_and(|value| value == "built") {
            return Ok(());
        }
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // As a whole, so that no dependency is built a second time with other features.
        command.args(["build", "--locked", "--workspace", "--bins"]);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    if let Err(error) = built {
        bail!("the binaries do not build:\n{error}");
    }
    // A test lies in target/PROFILE/deps, a program in target/PROFILE.
    let this = std::env::current_exe()?;
    let folder = this.parent().context("a program lies in a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("deps lies in a profile's folder")? } else { folder };
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not there: run `cargo build --workspace`", path.display());
    Ok(path)
}

/// Children that are killed and started from tests' tasks.
pub type SharedProcess = Arc<Mutex<Process>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_read_and_nothing_else() {
        let both = Addresses::parse("listening api=127.0.0.1:7700 admin=127.0.0.1:7710\n").unwrap();
        assert_eq!((both.api.unwrap().port(), both.admin.unwrap().port()), (7700, 7710));
        assert_eq!(Addresses::parse("listening admin=127.0.0.1:1").unwrap().api, None);
        for other in ["", "listening", "listening api=x", "now listening api=127.0.0.1:1"] {
            assert_eq!(Addresses::parse(other), None, "{other}");
        }
    }
}
