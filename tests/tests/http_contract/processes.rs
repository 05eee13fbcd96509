//! What an operator may rely on: exit codes, the ready line, the printed configuration, one process per folder, an orderly end.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use memori_tests::process::{Addresses, binary};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::system::{System, event, key_entry};

/// Runs a program to its end, with nothing of our environment but what is given.
fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary(program).expect("it is built"));
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    tokio::task::block_in_place(|| command.output()).expect("it runs")
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for word in words {
        assert!(told.contains(word), "it does not tell of {word:?}: {told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_usage_and_configuration_end_with_2_and_say_what_to_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("data").display().to_string();
    let up = |args: &[&str], env: &[(&str, &str)]| run("memori", &[&["up", "--data-dir", &folder], args].concat(), env);
    ends(&up(&["--listen", "0.0.0.0:0"], &[]), 2, &["0.0.0.0:0", "MEMORI__AUTH__KEYS_FILE"]);
    ends(&up(&["--listen", "[::]:0"], &[]), 2, &["MEMORI__AUTH__KEYS_FILE"]);
    ends(&up(&["--listen", "nowhere"], &[]), 2, &["--listen"]);
    ends(&up(&["--no-such-flag"], &[]), 2, &["--no-such-flag"]);
    ends(&up(&["--config", "no-such-file.toml"], &[]), 2, &["no-such-file.toml"]);
    ends(&up(&[], &[("MEMORI__AUTH__KEYS_FILE", "no-such-keys.toml")]), 2, &["no-such-keys.toml"]);
    let keys = dir.path().join("keys.toml");
    let keys_file = keys.display().to_string();
    for (text, word) in [
        ("", "memori key hash"),
        ("[[keys]]\ntenant = \"a\"\nrights = [\"fly\"]\nsha256 = \"00\"\n", "fly"),
        ("[[keys]]\ntenant = \"a\"\nrights = [\"recall\"]\nsha256 = \"00\"\n", "sha256"),
        ("[[keys]]\ntenant = \"a\"\nrights = [\"recall\"]\nsha256 = \"00\"\nkey = \"x\"\n", "key"),
        (key_entry("*", &["recall"], "k").as_str(), "admin"),
    ] {
        std::fs::write(&keys, text).expect("written");
        ends(&up(&["--listen", "127.0.0.1:0"], &[("MEMORI__AUTH__KEYS_FILE", &keys_file)]), 2, &[word]);
    }
    let config = dir.path().join("memori.toml");
    std::fs::write(&config, "[ingest]\nlistne = \"127.0.0.1:0\"\n").expect("written");
    ends(&up(&["--config", &config.display().to_string()], &[]), 2, &["listne"]);

    for program in ["memori-ingest", "memori-augment-worker", "memori-writer"] {
        ends(&run(program, &[], &[("MEMORI__WRITER__BATCH_ROW", "1")]), 2, &["batch_row"]);
        ends(&run(program, &[], &[("MEMORI__LOG__FORMAT", "xml")]), 2, &["log.format"]);
        ends(&run(program, &["--config", "no-such-file.toml"], &[]), 2, &["no-such-file.toml"]);
        ends(&run(program, &["--fly"], &[]), 2, &["--fly"]);
    }
    ends(&run("memori-ingest", &["--listen", "0.0.0.0:0"], &[]), 2, &["MEMORI__AUTH__KEYS_FILE"]);
    let database = ("MEMORI__POSTGRES__URL", "postgres://u:hunter2@127.0.0.1:9/d");
    let open = run("memori-writer", &[], &[database, ("MEMORI__WRITER__LISTEN", "0.0.0.0:0")]);
    ends(&open, 2, &["MEMORI__AUTH__INTERNAL_TOKEN"]);
    ends(&run("memori-writer", &[], &[]), 2, &["MEMORI__POSTGRES__URL"]);
    assert!(!std::path::Path::new(&folder).join("memori.db").exists(), "what is refused leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_is_not_there_is_75() {
    let token = "hunter2-between-ingest-and-writer";
    let env = [
        ("MEMORI__KAFKA__BROKERS", "127.0.0.1:9"),
        ("MEMORI__POSTGRES__URL", "postgres://u:hunter2@127.0.0.1:9/d"),
        ("MEMORI__AUTH__INTERNAL_TOKEN", token),
        ("MEMORI__START__DEADLINE_MS", "1500"),
        ("MEMORI__INGEST__LISTEN", "127.0.0.1:0"),
        ("MEMORI__WRITER__LISTEN", "127.0.0.1:0"),
        ("MEMORI__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    for (program, dependency) in [("memori-ingest", "log"), ("memori-augment-worker", "log"), ("memori-writer", "store")] {
        let output = run(program, &[], &env);
        ends(&output, 75, &[dependency]);
        assert!(output.stdout.is_empty(), "{program} says that it listens: {}", String::from_utf8_lossy(&output.stdout));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"), "{program} tells a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_configuration_is_whole_and_hides_secrets() {
    let secrets = [
        ("MEMORI__AUTH__INTERNAL_TOKEN", "hunter2"),
        ("MEMORI__POSTGRES__URL", "postgres://u:hunter2@db/d"),
        ("MEMORI__POSTGRES__SINK_URL", "postgres://u:hunter2@db/d"),
        ("MEMORI__POSTGRES__RECALL_URL", "postgres://u:hunter2@db/d"),
        ("MEMORI__EMBEDDING__API_KEY", "hunter2"),
        ("MEMORI__EXTRACTOR__API_KEY", "hunter2"),
        ("MEMORI__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
        ("MEMORI__REGISTRY__URL", "http://u:hunter2@registry:8081"),
        ("MEMORI__OTLP__ENDPOINT", "http://u:hunter2@otlp:4318"),
        ("MEMORI__WRITER__BATCH_ROWS", "1234"),
    ];
    let dir = tempfile::tempdir().expect("a folder");
    for (program, args) in [
        ("memori", &["up", "--print-config"][..]),
        ("memori-ingest", &["--print-config"]),
        ("memori-augment-worker", &["--print-config"]),
        ("memori-writer", &["--print-config"]),
    ] {
        let output = run(program, args, &secrets);
        ends(&output, 0, &[]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!printed.contains("hunter2") && printed.matches("***").count() >= 8, "{program}: {printed}");
        assert!(printed.contains("batch_rows = 1234") && printed.contains("registry:8081"), "{program}: {printed}");
        // What is printed without secrets is a configuration.
        let plain = run(program, args, &[]);
        let file = dir.path().join("printed.toml");
        std::fs::write(&file, &plain.stdout).expect("written");
        let again = run(program, &[args, &["--config", &file.display().to_string()]].concat(), &[]);
        ends(&again, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&plain.stdout), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_holds_a_folder_and_ends_in_order() {
    let mut system = System::open().await;
    let http = system.http.clone();
    http.learn(event("kept", "a", "I like tea.")).await;
    let folder = system.dir.path().join("data").display().to_string();
    ends(
        &run("memori", &["up", "--listen", "127.0.0.1:0", "--data-dir", &folder], &[]),
        2,
        &[&system.process.api(), "--data-dir"],
    );
    http.learn(event("still here", "a", "I like jam.")).await;
    let taken = system.process.api();
    let taken = taken.trim_start_matches("http://");
    let other = system.dir.path().join("other").display().to_string();
    ends(&run("memori", &["up", "--listen", taken, "--data-dir", &other], &[]), 2, &[taken, "listen"]);
    // The ready line is the only one on stdout, and as the contract words it.
    let log = system.process.log_text();
    let ready: Vec<&str> = log.lines().filter(|line| Addresses::parse(line).is_some()).collect();
    assert_eq!(ready, [format!("listening api={taken}")]);

    // Nothing that hangs on a connection holds up the end: not an idle one, half a head, half a body, nor a wait.
    let mut hanging = Vec::new();
    let wait = json!({"event_ids": ["nobody's"], "timeout_ms": 600_000}).to_string();
    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    };
    for bytes in
        [String::new(), "GET /v1/ent".to_owned(), post("/v1/events", 100) + "{", post("/v1/events/wait", wait.len()) + &wait]
    {
        let mut stream = http.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        hanging.push(stream);
    }
    http.post("/v1/events", &event("last", "a", "I play chess.")).await.ok(202);
    let status = tokio::task::block_in_place(|| system.process.stop()).expect("an end");
    assert_eq!(status.code(), Some(0), "{}", system.process.log_text());
    drop(hanging);
    // And nothing is lost: what was accepted last is applied after the next start.
    tokio::task::block_in_place(|| system.process.start_again()).expect("a start");
    http.applied(&["kept", "still here", "last"]).await;
    assert_eq!(http.all_facts("a", 10).await.len(), 3);
    let status = tokio::task::block_in_place(|| system.process.stop()).expect("an end");
    assert_eq!(status.code(), Some(0));
    // Stopped, its folder is free, and a copy of it is a backup.
    let copy = system.dir.path().join("copy");
    copy_folder(Path::new(&folder), &copy).expect("a copy");
    let restored = System::start(None, &[("MEMORI__EMBEDDED__DATA_DIR", &copy.display().to_string())]).await;
    assert_eq!(restored.http.all_facts("a", 10).await.len(), 3);
    tokio::time::timeout(Duration::from_secs(60), restored.http.applied(&["last"])).await.expect("at once");
}

/// With all that lies below it.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy_folder(&entry.path(), &to)? } else { std::fs::copy(entry.path(), to).map(drop)? }
    }
    Ok(())
}
