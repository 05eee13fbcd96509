//! A real Kafka and a real Postgres for tests.
//!
//! [`Servers::shared`] are those of the whole test run (`ops/test.sh` starts them and names them in the environment), or, where
//! it did not, a pair that this process starts. [`Servers::start`] is a pair of one test's own, durable as in production, which
//! it may kill. Every pair lives in a temporary folder on free loopback ports; it is ended and its folder removed on drop, and
//! by a watchdog when the test process ends in any other way, `kill -9` included.
//!
//! Tests are kept apart by [`Servers::fresh_prefix`] (topics and groups) and [`Servers::fresh_database`].

use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::{Pid, Signal, kill_process};

/// The environment variable with the address of the run's Kafka.
pub const KAFKA_VARIABLE: &str = "MEMORI_TEST_KAFKA";
/// The environment variable with the URL of the run's Postgres, of a superuser.
pub const POSTGRES_VARIABLE: &str = "MEMORI_TEST_POSTGRES";

const START_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// Whom Postgres runs as where the tests run as root, which it refuses.
const NOBODY: u32 = 65_534;

/// One Kafka broker and one Postgres server.
pub struct Servers {
    kafka: String,
    postgres: String,
    /// A database with the store's tables, to copy.
    template: tokio::sync::OnceCell<String>,
    own: Option<Own>,
}

/// Servers that this process started.
struct Own {
    folder: PathBuf,
    kafka: Mutex<Option<Child>>,
    postgres: Mutex<Option<Child>>,
    watchdog: Child,
    /// Its end tells the watchdog to clean up.
    alive: Option<ChildStdin>,
}

impl Servers {
    /// The servers of the whole run, for tests that do not kill them.
    ///
    /// # Errors
    /// When they do not start; every later call says the same.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Servers, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                match (std::env::var(KAFKA_VARIABLE), std::env::var(POSTGRES_VARIABLE)) {
                    (Ok(kafka), Ok(postgres)) => Ok(Self { kafka, postgres, template: tokio::sync::OnceCell::new(), own: None }),
                    _ => Self::start_with(false, None),
                }
                .map_err(|error| format!("{error:#}"))
            })
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the servers did not start: {error}"))
    }

    /// Servers of the caller's own, with fsync on. Blocks for some seconds.
    ///
    /// # Errors
    /// When they do not start.
    pub fn start() -> Result<Self> {
        Self::start_with(true, None)
    }

    /// As [`Servers::start`], with the broker's properties in `overlay` on top, `@PORT_1@` and `@PORT_2@` standing for free ports.
    ///
    /// # Errors
    /// When they do not start.
    pub fn start_with_kafka(overlay: &Path) -> Result<Self> {
        Self::start_with(false, Some(overlay))
    }

    /// A Postgres of the caller's own alone, with fsync on.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_postgres() -> Result<Self> {
        let own = Own::new()?;
        let command = script(&own.folder, "postgres-command", &["--fsync"])?;
        let postgres = postgres_url(&own.folder)?;
        own.spawn(Server::Postgres, &command)?;
        let servers = Self { kafka: String::new(), postgres, template: tokio::sync::OnceCell::new(), own: Some(own) };
        servers.await_postgres()?;
        Ok(servers)
    }

    fn start_with(fsync: bool, overlay: Option<&Path>) -> Result<Self> {
        let own = Own::new()?;
        let overlay = overlay.map(|overlay| overlay.display().to_string());
        let more: Vec<&str> = overlay.iter().flat_map(|overlay| ["--overlay", overlay]).collect();
        let kafka_command = script(&own.folder, "kafka-command", &more)?;
        let postgres_command = script(&own.folder, "postgres-command", if fsync { &["--fsync"] } else { &[] })?;
        let kafka = kafka_address(&own.folder)?;
        let postgres = postgres_url(&own.folder)?;
        own.spawn(Server::Kafka, &kafka_command)?;
        own.spawn(Server::Postgres, &postgres_command)?;
        let servers = Self { kafka, postgres, template: tokio::sync::OnceCell::new(), own: Some(own) };
        servers.await_postgres()?;
        servers.await_kafka()?;
        Ok(servers)
    }

    /// `host:port` of the broker.
    #[must_use]
    pub fn kafka_brokers(&self) -> &str {
        &self.kafka
    }

    /// `host:port` of the broker's listener of this name.
    ///
    /// # Errors
    /// When it has none.
    pub fn kafka_listener(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(self.own()?.folder.join("kafka/server.properties"))?;
        let advertised = text.lines().rev().find_map(|line| line.strip_prefix("advertised.listeners="));
        let of_name = |listener: &str| Some(listener.strip_prefix(name)?.strip_prefix("://")?.trim().to_owned());
        advertised.and_then(|list| list.split(',').find_map(of_name)).with_context(|| format!("no listener {name}"))
    }

    /// Runs one of Kafka's own tools to its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn kafka_tool(&self, class: &str, arguments: &[&str]) -> Result<()> {
        let mut line = script(&self.own()?.folder, "kafka-command", &[])?;
        line.truncate(line.iter().position(|word| word == "kafka.Kafka").context("no class in the broker's command line")?);
        let (program, before) = line.split_first().context("no command line")?;
        let output = Command::new(program).args(before).arg(class).args(arguments).output()?;
        ensure!(output.status.success(), "{class}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// The URL of the database `postgres`, as a superuser.
    #[must_use]
    pub fn postgres_url(&self) -> &str {
        &self.postgres
    }

    /// A prefix for topics and groups that no other test has.
    #[must_use]
    pub fn fresh_prefix(&self) -> String {
        format!("t{}", uuid::Uuid::now_v7().simple())
    }

    /// The URL of a new, empty database that no other test has.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn empty_database(&self) -> Result<String> {
        self.create_database("template1").await
    }

    /// The URL of a new database with the store's tables, that no other test has.
    ///
    /// # Errors
    /// When Postgres refuses, or a migration fails.
    pub async fn fresh_database(&self) -> Result<String> {
        let template = self
            .template
            .get_or_try_init(|| async {
                let url = self.empty_database().await?;
                let pool = PostgresTarget::parse(&url, "memori-tests")?.pool(1)?;
                let store = PostgresStore::new(pool.clone(), &url);
                store.migrate().await?;
                pool.close();
                let (_, name) = url.rsplit_once('/').context("no database in the URL")?;
                let name = name.split('?').next().unwrap_or(name).to_owned();
                // a database that somebody is connected to cannot be copied
                self.administer(&format!("alter database {name} with allow_connections false")).await?;
                self.administer(&format!(
                    "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}'"
                ))
                .await?;
                anyhow::Ok(name)
            })
            .await?;
        self.create_database(template).await
    }

    async fn create_database(&self, template: &str) -> Result<String> {
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        self.administer(&format!("create database {name} template {template}")).await?;
        self.database_url(&name)
    }

    /// The URL of a database of this server.
    ///
    /// # Errors
    /// When the server's URL names no database to replace.
    pub fn database_url(&self, name: &str) -> Result<String> {
        let (base, query) = self.postgres.split_once('?').map_or((self.postgres.as_str(), None), |(b, q)| (b, Some(q)));
        let (server, _) = base.rsplit_once('/').context("the URL of Postgres names no database")?;
        Ok(query.map_or_else(|| format!("{server}/{name}"), |query| format!("{server}/{name}?{query}")))
    }

    /// Runs one statement as a superuser.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn administer(&self, statement: &str) -> Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.postgres, tokio_postgres::NoTls).await?;
        let driving = tokio::spawn(connection);
        let done = client.batch_execute(statement).await.with_context(|| statement.to_owned());
        drop(client);
        driving.await??;
        done
    }

    /// `kill -9` of the broker.
    ///
    /// # Errors
    /// When it is not running, or not this process's.
    pub fn kill9_kafka(&self) -> Result<()> {
        self.own()?.end(Server::Kafka, Signal::KILL)
    }

    /// Starts the broker again on its data and its port, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_kafka(&self) -> Result<()> {
        let own = self.own()?;
        own.spawn(Server::Kafka, &script(&own.folder, "kafka-command", &[])?)?;
        self.await_kafka()
    }

    /// Stops the broker's process without ending it, as a long pause of its machine would.
    ///
    /// # Errors
    /// When it is not running, or not this process's.
    pub fn suspend_kafka(&self) -> Result<()> {
        self.own()?.signal(Server::Kafka, Signal::STOP)
    }

    /// Undoes [`Servers::suspend_kafka`].
    ///
    /// # Errors
    /// When it is not running, or not this process's.
    pub fn resume_kafka(&self) -> Result<()> {
        self.own()?.signal(Server::Kafka, Signal::CONT)
    }

    /// Ends Postgres at once, connections and open transactions with it, as a crash would: SIGQUIT.
    ///
    /// # Errors
    /// When it is not running, or not this process's.
    pub fn kill_postgres(&self) -> Result<()> {
        self.own()?.end(Server::Postgres, Signal::QUIT)
    }

    /// Starts Postgres again on its data and its port, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_postgres(&self) -> Result<()> {
        let own = self.own()?;
        own.spawn(Server::Postgres, &script(&own.folder, "postgres-command", &["--fsync"])?)?;
        self.await_postgres()
    }

    /// Where the servers log, for a failing test's message.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.folder.as_path())
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("the run's shared servers are not this test's to kill: use Servers::start()")
    }

    fn await_kafka(&self) -> Result<()> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("reconnect.backoff.max.ms", "200")
            .set("log_level", "0")
            .create()?;
        self.await_server(Server::Kafka, || client.fetch_metadata(None, POLL * 10).is_ok_and(|m| !m.brokers().is_empty()))
    }

    fn await_postgres(&self) -> Result<()> {
        let file = self.own()?.folder.join("postgres/data/postmaster.pid");
        self.await_server(Server::Postgres, || {
            fs::read_to_string(&file).is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
        })
    }

    /// Polls, because neither server tells when it is ready.
    fn await_server(&self, server: Server, mut ready: impl FnMut() -> bool) -> Result<()> {
        let own = self.own()?;
        let until = Instant::now() + START_DEADLINE;
        while !ready() {
            if let Some(child) = own.child(server).lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("{server:?} ended with {status}: {}", own.log_tail(server));
            }
            ensure!(Instant::now() < until, "{server:?} is not ready after {START_DEADLINE:?}: {}", own.log_tail(server));
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Kafka,
    Postgres,
}

impl Server {
    fn folder(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
        }
    }
}

impl Own {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("memori-servers-").tempdir()?.keep();
        let (watchdog, alive) = start_watchdog(&folder)?;
        Ok(Self { folder, kafka: Mutex::new(None), postgres: Mutex::new(None), watchdog, alive: Some(alive) })
    }

    fn child(&self, server: Server) -> &Mutex<Option<Child>> {
        match server {
            Server::Kafka => &self.kafka,
            Server::Postgres => &self.postgres,
        }
    }

    fn spawn(&self, server: Server, command_line: &[String]) -> Result<()> {
        let mut child = self.child(server).lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(child.is_none(), "{server:?} is running");
        let folder = self.folder.join(server.folder());
        let (program, arguments) = command_line.split_first().context("no command line")?;
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o644).open(folder.join("log"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
        if server == Server::Postgres {
            // left by a kill
            let _ = fs::remove_file(folder.join("data/postmaster.pid"));
            if rustix::process::geteuid().is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
        }
        let started = command.spawn().with_context(|| format!("start {program}"))?;
        // for the watchdog
        fs::write(folder.join("pid"), format!("{}\n", started.id()))?;
        *child = Some(started);
        Ok(())
    }

    fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        let child = self.child(server).lock().unwrap_or_else(PoisonError::into_inner);
        let child = child.as_ref().with_context(|| format!("{server:?} is not running"))?;
        kill_process(pid_of(child)?, signal)?;
        Ok(())
    }

    fn end(&self, server: Server, signal: Signal) -> Result<()> {
        let mut child = self
            .child(server)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .with_context(|| format!("{server:?} is not running"))?;
        kill_process(pid_of(&child)?, signal)?;
        child.wait()?;
        Ok(())
    }

    fn log_tail(&self, server: Server) -> String {
        let text = fs::read_to_string(self.folder.join(server.folder()).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for server in [Server::Kafka, Server::Postgres] {
            // nothing of theirs is kept, so Kafka need not stop in order; Postgres takes its shared memory along on SIGQUIT
            let signal = if server == Server::Kafka { Signal::KILL } else { Signal::QUIT };
            if self.child(server).lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                let _ = self.end(server, signal);
            }
            let _ = fs::remove_file(self.folder.join(server.folder()).join("pid"));
        }
        // the watchdog removes the folder
        drop(self.alive.take());
        let _ = self.watchdog.wait();
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("no such process")
}

/// A shell that outlives this process by the moment it takes to end the servers and remove their folder. It learns of the end
/// by its standard input's, which no way of dying can withhold.
fn start_watchdog(folder: &Path) -> Result<(Child, ChildStdin)> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    let script = r#"
        read -r _
        for server in kafka postgres; do
            [ -f "$1/$server/pid" ] || continue
            pid=$(cat "$1/$server/pid")
            kill -CONT "$pid" 2>/dev/null
            if [ $server = kafka ]; then kill -KILL "$pid" 2>/dev/null; else kill -QUIT "$pid" 2>/dev/null; fi
            n=0; while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
        done
        rm -rf "$1"
    "#;
    let mut watchdog = Command::new("sh")
        .args(["-c", script, "memori-test-watchdog"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // not in the terminal's group: Ctrl-C is for the tests
        .process_group(0)
        .spawn()?;
    let alive = watchdog.stdin.take().context("no pipe to the watchdog")?;
    Ok((watchdog, alive))
}

/// The words that `ops/servers.sh` answers, one a line.
fn script(folder: &Path, verb: &str, more: &[&str]) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/servers.sh");
    let mut child = Command::new(&path)
        .arg(verb)
        .arg(folder)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", path.display()))?;
    let mut answer = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut answer)?;
    let status = child.wait()?;
    ensure!(status.success(), "ops/servers.sh {verb} ended with {status}; what it said stands above");
    Ok(answer.lines().map(str::to_owned).collect())
}

fn postgres_url(folder: &Path) -> Result<String> {
    let port = fs::read_to_string(folder.join("postgres/port"))?;
    Ok(format!("postgres://postgres@127.0.0.1:{}/postgres", port.trim()))
}

fn kafka_address(folder: &Path) -> Result<String> {
    let text = fs::read_to_string(folder.join("kafka/server.properties"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("advertised.listeners=PLAINTEXT://"))
        .map(|address| address.trim().to_owned())
        .context("no listener in server.properties")
}
