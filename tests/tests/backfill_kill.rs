//! An import that is killed again and again, onto real Kafka: what it comes to in the end is what its file says, once. And its memory: as
//! much at the end of a long file as at its beginning.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::audit;
use memori_tests::distributed::Distributed;
use memori_tests::model::Model;
use memori_tests::process::binary;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_tests::workload::{self, WorkloadConfig};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

const TENANT: &str = "tenant-a";
const KILLS: usize = 20;

fn soak() -> bool {
    std::env::var("MEMORI_SOAK").is_ok()
}

fn command(env: &[(&str, &str)], folder: &Path, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("memori")?);
    command.arg("backfill").args(args).args(["--to", "kafka", "--tenant", TENANT, "--json"]).current_dir(folder);
    command.env_clear().envs(env.iter().copied()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Kills a child where the test ends first.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ended(mut command: Command) -> anyhow::Result<Value> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {text}", output.status);
    Ok(serde_json::from_str(text.lines().last().context("no result")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_is_whole_in_the_end() -> anyhow::Result<()> {
    let seed = std::env::var("MEMORI_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random_range(0..10_000));
    let events = if soak() { 20_000 } else { 600 };
    tell(&format!("seed {seed}: {events} events, {KILLS} kills"));
    let config = WorkloadConfig { seed, events, tenants: 1, entities: 40, clients_per_tenant: 1 };
    let workload = workload::generate(config);
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let system = Distributed::start(servers, &workload.tenants, 2, &[]).await?;
    let folder = tempfile::tempdir()?;
    let mut model = Model::default();
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.path().join("history.jsonl"))?);
    let (mut ids, mut bad) = (Vec::new(), Vec::new());
    for (n, ((tenant, event_id), body)) in workload.accepted().into_iter().enumerate() {
        if n % 17 == 3 {
            bad.push(n + bad.len() + 1);
            writeln!(file, "{{\"entity_id\": \"a\", \"messages\": 7}}")?;
        }
        writeln!(file, "{body}")?;
        model.accept(&tenant, &body);
        ids.push(event_id);
    }
    file.into_inner()?.sync_all()?;
    let rate = (events / 10).to_string();
    let env = [("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()), ("MEMORI__KAFKA__TOPIC_PREFIX", &*system.prefix)];
    let args = ["history.jsonl", "--rate", &rate];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut finished = 0;
    for _ in 0..KILLS {
        let mut running = Running(command(&env, folder.path(), &args)?.stdout(Stdio::null()).spawn()?);
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..1_800))).await;
        finished += usize::from(running.0.try_wait()?.is_some());
        running.0.kill()?;
    }
    let done = tokio::task::block_in_place(|| ended(command(&env, folder.path(), &["history.jsonl", "--rate", &rate])?))?;
    tell(&format!("{finished} of {KILLS} runs were over before their kill; the last one: {done}"));
    ensure!(done["done"] == true && done["events"] == ids.len() && done["rejected"] == bad.len(), "{done}");
    let rejected = std::fs::read_to_string(folder.path().join("history.jsonl.rejected.jsonl"))?;
    let lines: Vec<usize> = rejected
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["record"].as_u64().context("a line")? as usize))
        .collect::<anyhow::Result<_>>()?;
    ensure!(lines == bad, "set aside {lines:?}, expected {bad:?}");
    // Everything once more, as somebody would who has lost the checkpoint.
    let again = tokio::task::block_in_place(|| ended(command(&env, folder.path(), &["history.jsonl", "--restart"])?))?;
    ensure!(again["events_now"] == ids.len(), "{again}");
    let observed = audit::observe(&system.api(TENANT), &ids, Duration::from_secs(600)).await?;
    audit::none(&audit::differences(&model, TENANT, &observed))
}

/// Resident bytes of a process.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_file() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let prefix = servers.fresh_prefix();
    let env = [("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()), ("MEMORI__KAFKA__TOPIC_PREFIX", &*prefix)];
    let mut topics = Command::new(binary("memori")?);
    topics.args(["topics", "create"]).env_clear().envs(env.iter().copied());
    ensure!(tokio::task::block_in_place(|| topics.output())?.status.success(), "no topics");
    let events: u64 = if soak() { 1_000_000 } else { 60_000 };
    let folder = tempfile::tempdir()?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.path().join("long.jsonl"))?);
    for n in 0..events {
        let text = format!("I was in place number {n} and ").repeat(12);
        writeln!(
            file,
            r#"{{"event_id":"e{n}","entity_id":"user-{}","session_id":"s{}","messages":[{{"role":"user","content":"{text}"}},{{"role":"assistant","content":"Noted."}}]}}"#,
            n % 997,
            n / 10
        )?;
    }
    file.into_inner()?.sync_all()?;
    let began = Instant::now();
    let rate = (events / 8).to_string();
    let args: &[&str] = if soak() { &["long.jsonl"] } else { &["long.jsonl", "--rate", &rate] };
    let mut running = Running(command(&env, folder.path(), args)?.spawn()?);
    let pid = running.0.id();
    let stdout = running.0.stdout.take().context("stdout")?;
    let watched = tokio::task::spawn_blocking(move || -> anyhow::Result<(Vec<(u64, u64)>, Value)> {
        let mut sizes = Vec::new();
        let mut last = Value::Null;
        for line in BufReader::new(stdout).lines() {
            last = serde_json::from_str(&line?)?;
            if let (Some(done), Some(bytes)) = (last["events"].as_u64(), resident(pid)) {
                sizes.push((done, bytes));
            }
        }
        Ok((sizes, last))
    });
    let (sizes, last) = watched.await??;
    ensure!(running.0.wait()?.success() && last["events"] == events, "{last}");
    let early = sizes.iter().filter(|(done, _)| *done >= events / 10).map(|(_, bytes)| *bytes).next().context("no early size")?;
    let most = sizes.iter().map(|(_, bytes)| *bytes).max().context("no size")?;
    let mib = |bytes: u64| bytes >> 20;
    tell(&format!(
        "{events} events in {:?}: {} MiB at a tenth, {} MiB at most; {sizes:?}",
        began.elapsed(),
        mib(early),
        mib(most)
    ));
    // What is in flight and what the allocator keeps may differ by some; the file is of many times that in the soak.
    ensure!(most <= early + (96 << 20), "memory grew from {} to {} MiB", mib(early), mib(most));
    Ok(())
}
