//! What an operator may rely on of every program: exit codes, configuration, the ready line, one owner per data folder.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::process::{Addresses, Process, Program, binary};

const SERVICES: [&str; 3] = ["memori-ingest", "memori-augment-worker", "memori-writer"];

/// Runs a program to its end.
fn run(name: &str, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary(name)?);
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    Ok(command.output()?)
}

fn exits(name: &str, args: &[&str], env: &[(&str, &str)], code: i32, told: &str) -> anyhow::Result<()> {
    let output = run(name, args, env)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{name} {args:?} {env:?}: {} instead of {code}\n{stderr}", output.status);
    ensure!(stderr.contains(told), "{name} does not say {told:?}:\n{stderr}");
    Ok(())
}

#[test]
fn bad_configuration_is_exit_2_and_says_what_to_change() -> anyhow::Result<()> {
    for name in SERVICES {
        exits(name, &[], &[("MEMORI__KAFKA__BROKER", "x:1")], 2, "broker")?;
        exits(name, &["--no-such-flag"], &[], 2, "--no-such-flag")?;
        exits(name, &["--config", "/no/such/file.toml"], &[], 2, "/no/such/file.toml")?;
    }
    exits("memori", &["up"], &[("MEMORI__INGEST__LISTENING", "x")], 2, "listening")?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().display().to_string();
    // Off loopback nothing is served without keys.
    exits("memori", &["up", "--listen", "0.0.0.0:0", "--data-dir", &data], &[], 2, "key")?;
    exits("memori-ingest", &[], &[("MEMORI__INGEST__LISTEN", "0.0.0.0:0")], 2, "key")?;
    exits(
        "memori-writer",
        &[],
        &[("MEMORI__WRITER__LISTEN", "0.0.0.0:0"), ("MEMORI__POSTGRES__URL", "postgres://a@127.0.0.1:1/a")],
        2,
        "token",
    )
}

#[test]
fn a_dependency_that_does_not_answer_is_exit_75_within_the_start_deadline() -> anyhow::Result<()> {
    for name in SERVICES {
        let since = Instant::now();
        let env = [
            ("MEMORI__KAFKA__BROKERS", "127.0.0.1:1"),
            ("MEMORI__POSTGRES__URL", "postgres://nobody@127.0.0.1:1/nothing"),
            ("MEMORI__START__DEADLINE_MS", "1500"),
            ("MEMORI__INGEST__LISTEN", "127.0.0.1:0"),
            ("MEMORI__WRITER__LISTEN", "127.0.0.1:0"),
            ("MEMORI__ADMIN__LISTEN", "127.0.0.1:0"),
        ];
        exits(name, &[], &env, 75, "not reach")?;
        ensure!(since.elapsed() < Duration::from_secs(30), "{name} took {:?}", since.elapsed());
    }
    Ok(())
}

#[test]
fn the_effective_configuration_is_printed_without_secrets() -> anyhow::Result<()> {
    for name in SERVICES.into_iter().chain(["memori"]) {
        let args: &[&str] = if name == "memori" { &["up", "--print-config"] } else { &["--print-config"] };
        let env = [
            ("MEMORI__POSTGRES__URL", "postgres://u:hunter2@h/d"),
            ("MEMORI__AUTH__INTERNAL_TOKEN", "hunter2"),
            ("MEMORI__WRITER__BATCH_ROWS", "17"),
        ];
        let output = run(name, args, &env)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{name}: {}", output.status);
        ensure!(text.contains("batch_rows = 17") && text.contains("***") && !text.contains("hunter2"), "{name}: {text}");
    }
    Ok(())
}

#[test]
fn a_folder_has_one_owner_and_port_0_takes_a_free_port() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    let program = Program {
        binary: "memori",
        args: ["up", "--listen", "127.0.0.1:0", "--data-dir", &data].map(str::to_owned).to_vec(),
        env: Vec::new(),
        listen_key: None,
        has_admin: false,
    };
    let mut first = Process::start("first", program, folder.path())?;
    let line = first.log_text().lines().find_map(Addresses::parse).context("a ready line")?;
    ensure!(line.api.is_some_and(|address| address.port() != 0), "no port was taken: {line:?}");
    exits("memori", &["up", "--listen", "127.0.0.1:0", "--data-dir", &data], &[], 2, &first.api())?;
    // The refusal left the first alone, and SIGTERM ends it well.
    ensure!(first.ended()?.is_none(), "the first one ended");
    ensure!(first.stop()?.success(), "SIGTERM is not exit 0");
    Ok(())
}
