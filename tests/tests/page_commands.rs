//! What the pages for a laptop and for processes on Kafka tell people to type, typed: addresses and folders are this run's, all else stands
//! as it is. (Compose, Kubernetes: ops/platform.sh; tenants and replays: tests of their own.)

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use memori_tests::distributed::Distributed;
use memori_tests::keys::Keys;
use memori_tests::process::{Addresses, binary};
use memori_tests::servers::Servers;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(60);
const TENANT: &str = "acme";

/// A page's blocks of shell, in their order.
fn blocks(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim() {
            "```sh" => {
                inside = true;
                found.push(String::new());
            }
            "```" => inside = false,
            _ if inside => found.last_mut().into_iter().for_each(|block| *block += &format!("{line}\n")),
            _ => {}
        }
    }
    found
}

/// The block that says this.
fn block(page: &str, says: &str) -> anyhow::Result<String> {
    blocks(page).into_iter().find(|block| block.contains(says)).with_context(|| format!("no block says {says:?}"))
}

/// Where commands are typed.
struct Shell {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Shell {
    fn new(env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("memori-page-").tempdir()?;
        let programs = binary("memori")?;
        let path = format!("{}:{}", programs.parent().context("a folder")?.display(), std::env::var("PATH").unwrap_or_default());
        let mut own = vec![("PATH".to_owned(), path), ("HOME".to_owned(), folder.path().display().to_string())];
        // Where the weights of the built-in model are: nothing is fetched twice.
        own.extend(std::env::var("XDG_CACHE_HOME").ok().map(|cache| ("XDG_CACHE_HOME".to_owned(), cache)));
        own.push(("MEMORI__EMBEDDING__KIND".to_owned(), "none".to_owned()));
        own.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Ok(Self { folder, env: own })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", line]).current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command.envs(self.env.iter().cloned());
        command
    }

    /// Types a line, or a block.
    fn types(&self, line: &str) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = self.command(line).output()?;
        let (out, told) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
        ensure!(status.success(), "{line}: {status}: {out}{told}");
        Ok(out)
    }

    /// Types what goes on until it is told to stop, and waits until it serves.
    fn serves(&self, line: &str) -> anyhow::Result<Serving> {
        let log = self.folder.path().join("serving.log");
        let mut command = self.command(line);
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?).process_group(0);
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("piped")?;
        let (sender, lines) = mpsc::sync_channel(100);
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut serving = Serving { child, line: line.to_owned(), log, api: String::new() };
        loop {
            let Ok(said) = lines.recv_timeout(WITHIN) else {
                bail!("{line} does not serve: {}", std::fs::read_to_string(&serving.log)?)
            };
            if let Some(api) = Addresses::parse(&said).and_then(|addresses| addresses.api) {
                serving.api = format!("http://{api}");
                return Ok(serving);
            }
        }
    }
}

/// What was typed and goes on.
struct Serving {
    child: Child,
    line: String,
    log: PathBuf,
    api: String,
}

impl Serving {
    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Control-C: it drains, and ends well.
    fn stops(mut self) -> anyhow::Result<()> {
        self.signal(Signal::INT);
        let status = self.child.wait()?;
        ensure!(status.success(), "{}: {status}: {}", self.line, std::fs::read_to_string(&self.log)?);
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// `memori up` on a free port.
fn on_a_free_port(line: &str) -> String {
    let line = line.split("  #").next().unwrap_or(line).trim();
    let Some((before, after)) = line.split_once("--listen ") else { return format!("{line} --listen 127.0.0.1:0") };
    let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
    format!("{before}--listen 127.0.0.1:0 {rest}")
}

fn conversations(folder: &Path) -> anyhow::Result<()> {
    let event =
        json!({"event_id": "alice-1", "entity_id": "alice", "messages": [{"role": "user", "content": "I live in Lisbon."}]});
    Ok(std::fs::write(folder.join("conversations.jsonl"), format!("{event}\n"))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_embedded_system() -> anyhow::Result<()> {
    const PAGE: &str = include_str!("../../docs/running-embedded.md");
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let mut databases = Vec::new();
    for _ in 0..3 {
        databases.push(servers.empty_database().await?);
    }
    tokio::task::spawn_blocking(move || {
        let shell = Shell::new(&[])?;
        let mut typed = 0;
        // By its folder, and on Postgres; `make run` builds, and is `memori up`.
        for line in block(PAGE, "--data-dir ./memory")?.lines().filter(|line| line.starts_with("memori ")) {
            shell.serves(&on_a_free_port(line))?.stops()?;
            typed += 1;
        }
        ensure!(shell.folder.path().join("memory").is_dir(), "the folder is elsewhere");
        for (line, database) in block(PAGE, "--database postgres://")?.lines().zip(&databases) {
            let of_the_page = ["postgres://app:secret@db/app?sslmode=verify-full", "postgres://app@localhost/app"];
            let line = of_the_page.iter().fold(line.to_owned(), |line, url| line.replace(url, database));
            ensure!(line.contains(database.as_str()), "another database: {line}");
            if line.contains("memori demo") {
                shell.types(&line)?;
            } else {
                shell.serves(&on_a_free_port(&line))?.stops()?;
            }
            typed += 1;
        }
        // Keys, and who has none is refused.
        let keys = block(PAGE, "memori key hash")?;
        let (hash, up) = keys.trim().split_once('\n').context("two lines")?;
        shell.types(hash)?;
        let serving = shell.serves(&on_a_free_port(up))?;
        let refused = shell.types(&format!("curl -s -o /dev/null -w '%{{http_code}}' {}/v1/entities", serving.api))?;
        ensure!(refused == "401", "without a key: {refused}");
        serving.stops()?;
        // Beside one that serves.
        let everyday = block(PAGE, "memori ingest conversations.jsonl")?;
        let serving = shell.serves("memori up --listen 127.0.0.1:0")?;
        conversations(shell.folder.path())?;
        let shell = Shell {
            env: shell.env.iter().cloned().chain([("MEMORI_API_URL".to_owned(), serving.api.clone())]).collect(),
            ..shell
        };
        for line in everyday.lines() {
            let out = shell.types(line)?;
            ensure!(!line.contains("recall") || out.contains("Lisbon"), "{line}: {out}");
            typed += 1;
        }
        // The README's conversation, and metrics.md's view of it.
        let said = block(include_str!("../../README.md"), "\"event_id\": \"hello-1\"")?;
        let out = shell.types(&said.replace("curl -s localhost:7700", &format!("curl -fsS {}", serving.api)))?;
        ensure!(out.contains("Paris"), "{out}");
        let top = block(include_str!("../../docs/metrics.md"), "memori top")?;
        for line in top.lines().filter(|line| !line.contains("--from")) {
            // Where the output is no terminal it is shown once.
            let once = line.replace("memori top", &format!("memori top --from {}", serving.api));
            let out = shell.types(&once)?;
            ensure!(out.contains("live"), "{once}: {out}");
            typed += 1;
        }
        ensure!(typed >= 10, "{typed} lines");
        serving.stops()
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_processes_on_kafka() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    // Topics, tables and processes are made by the page's commands in `Distributed`; the pages beside it are typed here.
    let archive = tempfile::Builder::new().prefix("memori-archive-").tempdir()?;
    let url = archive.path().display().to_string();
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[("MEMORI__ARCHIVE__URL", &url)]).await?;
    let api = shape.api(TENANT);
    let event = json!({"event_id": "a", "entity_id": "ann", "messages": [{"role": "user", "content": "I like jasmine tea."}]});
    ensure!(api.post("/v1/events", &event).await?.status == 202);
    api.wait_final(&["a".to_owned()], WITHIN).await?;
    let of_processes = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &shape.prefix),
        ("MEMORI__KAFKA__PARTITIONS", "6"),
        ("MEMORI__POSTGRES__URL", &shape.database),
        ("MEMORI__ARCHIVE__ROLL_AGE_S", "1"),
        ("MEMORI__ADMIN__LISTEN", "127.0.0.1:0"),
        ("MEMORI_API_URL", &shape.ingest.api()),
        ("MEMORI_API_KEY", Keys::OPERATOR),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    tokio::task::spawn_blocking(move || {
        let of_processes: Vec<(&str, &str)> = of_processes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let shell = Shell::new(&of_processes)?;
        let again = block(include_str!("../../docs/running-on-kafka-and-postgres.md"), "memori topics create")?;
        for line in again.lines().filter(|line| line.starts_with("memori topics create") || line.starts_with("memori migrate")) {
            shell.types(line)?;
        }
        shell.types(block(include_str!("../../docs/retention.md"), "memori topics check")?.trim())?;

        let page = include_str!("../../docs/archive.md");
        let own = block(page, "memori archive run")?.replace("s3://bucket/memori", &url);
        let export = own.lines().next().context("a line")?;
        let archiver = {
            let line = format!("{export}\nexec memori archive run");
            let mut command = shell.command(&line);
            Serving {
                child: command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?,
                line,
                log: shell.folder.path().join("serving.log"),
                api: String::new(),
            }
        };
        let since = std::time::Instant::now();
        while !shell.types(&format!("{export}\nmemori archive status"))?.contains("conversations.live") {
            ensure!(since.elapsed() < WITHIN, "nothing is archived");
            #[allow(clippy::disallowed_methods, reason = "this is a thread that may block")]
            std::thread::sleep(Duration::from_millis(200));
        }
        shell.types(&format!("{export}\nmemori archive verify"))?;
        archiver.stops()?;
        let rebuild = block(page, "memori rebuild")?;
        let platform = rebuild.lines().find(|line| line.contains("--platform")).context("the line for the platform")?;
        shell.types(platform)?;
        anyhow::Ok(())
    })
    .await?
}
