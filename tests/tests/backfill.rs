//! `memori backfill`: a file of each format as its programs write it, imported into a running system. Who is in it, in which sessions,
//! what was said, in which order and when; what is set aside, with its line; and that importing again adds nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::audit;
use memori_tests::client::Api;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::embedded::Embedded;
use memori_tests::process::binary;
use memori_tests::workload::{self, WorkloadConfig};
use serde_json::Value;

const TENANT: &str = "tenant-a";
const APPLIED_WITHIN: Duration = Duration::from_secs(120);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("backfill").join(name)
}

/// Runs `memori backfill ARGS` with `folder` as its working directory.
fn backfill(system: &Embedded, folder: &Path, args: &[&str], input: Option<&[u8]>) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("memori")?);
    command.arg("backfill").args(args).current_dir(folder).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("MEMORI_API_URL", system.process.api()).env("MEMORI_API_KEY", system.key(TENANT));
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input)?;
    }
    Ok(child.wait_with_output()?)
}

/// The last line of `--json`.
fn result(output: &Output) -> anyhow::Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().with_context(|| format!("no result: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(serde_json::from_str(last)?)
}

/// Copies a file into `folder`, imports it there, and gives the result and the lines of what was set aside.
fn import(system: &Embedded, folder: &Path, name: &str, args: &[&str]) -> anyhow::Result<(Value, Vec<Value>)> {
    let path = folder.join(name);
    if !path.exists() {
        std::fs::copy(fixture(name), &path)?;
    }
    let output = backfill(system, folder, &[&[name, "--json"], args].concat(), None)?;
    let rejected = std::fs::read_to_string(folder.join(format!("{name}.rejected.jsonl"))).unwrap_or_default();
    let rejected = rejected.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    Ok((result(&output)?, rejected))
}

/// Waits until so many messages of an entity are there and every event of theirs is final; gives the messages in order.
async fn messages(api: &Api, entity: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let since = Instant::now();
    loop {
        let lines = api.export(entity).await?;
        let found: Vec<Value> = lines.into_iter().filter(|line| line["type"] == "message").collect();
        if found.len() >= count {
            let mut events: Vec<String> = found.iter().filter_map(|line| line["event_id"].as_str().map(str::to_owned)).collect();
            events.dedup();
            api.wait_final(&events, APPLIED_WITHIN).await?;
            ensure!(found.len() == count, "{entity}: {} messages, expected {count}: {found:#?}", found.len());
            return Ok(found);
        }
        ensure!(since.elapsed() < APPLIED_WITHIN, "{entity}: {} of {count} messages are there: {found:#?}", found.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A message as the tests name it: session, role, text, time.
fn told(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned);
    format!("{} | {} | {} | {}", text("session_id"), text("role"), text("content"), text("occurred_at"))
}

struct Case {
    file: &'static str,
    args: &'static [&'static str],
    entity: &'static str,
    events: u64,
    rejected: &'static [(u64, &'static str)],
    said: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        file: "events.jsonl",
        args: &[],
        entity: "ada",
        events: 3,
        rejected: &[(3, "not JSON"), (5, "messages[0].role")],
        said: &[
            "s-1 | user | I live in Lisbon. | 2023-02-01T10:00:00Z",
            "s-1 | assistant | Lisbon, noted. | 2023-02-01T10:00:00Z",
            "s-1 | user | [{\"text\":\"I like jasmine tea.\",\"type\":\"text\"}] | 2023-02-01T10:01:00Z",
        ],
    },
    Case {
        file: "chatgpt-conversations.json",
        args: &["--entity", "carol", "--process", "chatgpt"],
        entity: "carol",
        events: 2,
        rejected: &[(2, "lead back to themselves")],
        said: &[
            "c-tea | user | I drink green tea every morning. | 2023-05-24T10:40:01.5Z",
            "c-tea | assistant | Green tea is a fine start. | 2023-05-24T10:40:01.5Z",
            "c-tea | user | My cup is blue. | 2023-05-24T10:43:20Z",
            "c-tea | assistant | A blue cup it is. | 2023-05-24T10:43:20Z",
        ],
    },
    Case {
        file: "claude-conversations.json",
        args: &["--entity", "dave"],
        entity: "dave",
        events: 2,
        rejected: &[],
        said: &[
            "c-1 | user | I run every morning. | 2024-06-01T08:00:01.123456Z",
            "c-1 | assistant | Good for you. | 2024-06-01T08:00:01.123456Z",
            "c-1 | user | My shoes are red.\n\n[plan.txt]\nMonday: 5 km | 2024-06-01T08:09:00Z",
        ],
    },
    Case {
        file: "sharegpt.json",
        args: &["--map", "entity=id", "--occurred-at", "2021-01-01T00:00:00Z"],
        entity: "sg_0",
        events: 3,
        rejected: &[],
        said: &[
            "sg_0 | user | I play chess on Sundays. | 2021-01-01T00:00:00Z",
            "sg_0 | assistant | A quiet day for it. | 2021-01-01T00:00:00Z",
            "sg_0 | user | I own two boards. | 2021-01-01T00:00:01Z",
            "sg_0 | assistant | One to travel with? | 2021-01-01T00:00:01Z",
        ],
    },
    Case {
        file: "langchain.json",
        args: &["--entity", "lena", "--occurred-at", "2021-01-01T00:00:00Z", "--format", "langchain"],
        entity: "lena",
        events: 2,
        rejected: &[],
        said: &["user | I study botany.", "assistant | Which plants?", "user | I grow ferns."],
    },
    Case {
        file: "langgraph.jsonl",
        args: &["--entity", "gus"],
        entity: "gus",
        // The second checkpoint tells the first one's turn again.
        events: 3,
        rejected: &[],
        said: &[
            "t-9 | user | I have a boat. | 2024-08-01T10:00:00Z",
            "t-9 | assistant | What kind? | 2024-08-01T10:00:00Z",
            "t-9 | user | My boat is a sloop. | 2024-08-01T10:05:00Z",
        ],
    },
    Case {
        file: "mem0.json",
        args: &[],
        entity: "alex",
        events: 2,
        rejected: &[],
        said: &[
            "mem0 | user | Is allergic to nuts | 2024-07-20T08:30:36.275141Z",
            "r-1 | user | Likes to hike on weekends | 2024-07-26T17:29:36.630547Z",
        ],
    },
    Case {
        file: "chats.csv",
        args: &["--map", "entity=user_id,session=chat,role=who,content=text,time=sent_at,metadata.channel=channel"],
        entity: "eve",
        events: 3,
        rejected: &[(5, "5 columns"), (9, "role"), (10, "time")],
        said: &[
            "c1 | user | I moved to Oslo, finally. | 2022-05-01T10:00:00Z",
            "c1 | assistant | Welcome \"home\"! | 2022-05-01T10:00:00Z",
            "c1 | user | I work as a nurse. | 2022-05-01T10:02:00Z",
        ],
    },
    Case {
        file: "qa.jsonl",
        args: &["--map", "entity=customer.id,user=q,assistant=a,time=ts,message_id=row"],
        entity: "gina",
        events: 2,
        rejected: &[],
        said: &[
            "user | I speak Italian. | 2023-11-14T22:13:20Z",
            "assistant | Bello! | 2023-11-14T22:13:20Z",
            "user | I sing in a choir. | 2023-11-14T22:15:00Z",
            "assistant | Which voice? | 2023-11-14T22:15:00Z",
        ],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_format_comes_as_it_was_said_and_once() -> anyhow::Result<()> {
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = system.api(TENANT);
    let folder = tempfile::tempdir()?;
    for case in CASES {
        let place = format!("{} {:?}", case.file, case.args);
        let (first, rejected) = import(&system, folder.path(), case.file, case.args)?;
        ensure!(first["done"] == true && first["events"] == case.events, "{place}: {first}");
        // A row of the group is named by the last of it.
        ensure!(rejected.len() == case.rejected.len(), "{place}: {rejected:#?}");
        for ((record, reason), line) in case.rejected.iter().zip(&rejected) {
            ensure!(
                line["reason"].as_str().is_some_and(|said| said.contains(reason)),
                "{place}: {line}, expected {record} {reason}"
            );
            ensure!(line["input"] == case.file && line["text"].as_str().is_some_and(|text| !text.is_empty()), "{place}: {line}");
            if !case.file.ends_with(".csv") {
                ensure!(line["record"] == *record, "{place}: {line}, expected {record}");
            }
        }
        let said = messages(&api, case.entity, case.said.len()).await?;
        for (line, expected) in said.iter().zip(case.said) {
            ensure!(told(line).contains(expected), "{place}: {} is not {expected}", told(line));
        }
        let before = api.export(case.entity).await?;
        ensure!(before.iter().any(|line| line["type"] == "fact"), "{place}: nothing was learned");

        let (again, _) = import(&system, folder.path(), case.file, case.args)?;
        ensure!(again["was_done"] == true && again["events_now"] == 0, "{place}, with its checkpoint: {again}");
        let (anew, _) = import(&system, folder.path(), case.file, &[case.args, &["--restart"]].concat())?;
        ensure!(anew["events"] == case.events && anew["rejected"] == first["rejected"], "{place}, from the start: {anew}");
        messages(&api, case.entity, case.said.len()).await?;
        ensure!(api.export(case.entity).await? == before, "{place}: importing again changed what is known");
    }
    // Of one file two people are known.
    ensure!(messages(&api, "frank", 1).await?[0]["content"] == "I paint\non canvas.");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_piped_compressed_packed_and_in_folders() -> anyhow::Result<()> {
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = system.api(TENANT);
    let folder = tempfile::tempdir()?;
    let text = std::fs::read(fixture("openai.jsonl"))?;

    let piped = backfill(&system, folder.path(), &["-", "--entity", "piped", "--json"], Some(&text))?;
    ensure!(result(&piped)?["events"] == 3 && result(&piped)?["rejected"] == 1, "{piped:?}");
    messages(&api, "piped", 7).await?;
    ensure!(std::fs::read_dir(folder.path())?.next().is_none(), "what is piped in leaves nothing beside it");

    std::fs::create_dir(folder.path().join("all"))?;
    let packed = |name: &str| folder.path().join("all").join(name);
    for (program, name) in [("gzip", "a.jsonl.gz"), ("zstd", "b.jsonl.zst")] {
        let source = packed(name.trim_end_matches(".gz").trim_end_matches(".zst"));
        std::fs::write(&source, &text)?;
        match Command::new(program).args(["-q", "-f"]).arg(&source).status() {
            Ok(status) if status.success() => {}
            // Not every machine has both.
            _ => continue,
        }
        let _ = std::fs::remove_file(&source);
    }
    std::fs::write(packed("notes.bin"), [0_u8, 159, 146, 150, 0])?;
    let (folded, rejected) =
        import(&system, folder.path(), "all", &["--entity", "folded", "--occurred-at", "2020-05-05T00:00:00Z"])?;
    ensure!(folded["done"] == true && folded["events"].as_u64() >= Some(3), "{folded}");
    ensure!(
        rejected
            .iter()
            .any(|line| line["input"] == "all/notes.bin" && line["reason"].as_str().is_some_and(|why| why.contains("binary")))
    );
    messages(&api, "folded", 7).await?;

    // A zip as ChatGPT sends it, with files about the account beside the conversations.
    let mut zip = zip::ZipWriter::new(std::fs::File::create(folder.path().join("export.zip"))?);
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("user.json", options)?;
    zip.write_all(b"{\"id\": \"user-1\", \"email\": \"x@example.com\"}")?;
    zip.start_file("conversations.json", options)?;
    zip.write_all(&std::fs::read(fixture("chatgpt-conversations.json"))?)?;
    zip.finish()?;
    let (zipped, _) = import(&system, folder.path(), "export.zip", &["--entity", "zipped"])?;
    ensure!(zipped["events"] == 2, "{zipped}");
    messages(&api, "zipped", 4).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_what_to_do() -> anyhow::Result<()> {
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let folder = tempfile::tempdir()?;
    std::fs::copy(fixture("openai.jsonl"), folder.path().join("o.jsonl"))?;
    std::fs::write(folder.path().join("x.txt"), "just words")?;
    let fails = |args: &[&str], code: i32, part: &str| -> anyhow::Result<()> {
        let output = backfill(&system, folder.path(), args, None)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code) && said.contains(part), "{args:?}: {:?}: {said}", output.status);
        Ok(())
    };
    fails(&["nowhere.jsonl"], 2, "no such file")?;
    fails(&["x.txt"], 2, "--map")?;
    fails(&["o.jsonl"], 1, "all 3 records were rejected")?;
    let again = backfill(&system, folder.path(), &["o.jsonl", "--entity", "ada"], None)?;
    ensure!(again.status.success(), "nothing was imported, so that other options are no other import: {again:?}");
    fails(&["o.jsonl", "--entity", "bob"], 2, "--restart")?;
    fails(&["o.jsonl", "--occurred-at", "yesterday"], 2, "RFC 3339")?;
    fails(&["o.jsonl", "--map", "person=x"], 2, "must be one of")?;
    fails(&["o.jsonl", "--format", "word"], 2, "there are events")?;
    fails(&["o.jsonl", "--tenant", "t"], 2, "--to kafka")?;
    fails(&["o.jsonl", "--restart", "--url", "http://127.0.0.1:1"], 75, "memori up")?;
    let counted = backfill(
        &system,
        folder.path(),
        &["o.jsonl", "--dry-run", "--entity", "nobody", "--json", "--price-per-million-tokens", "1000"],
        None,
    )?;
    let counted = result(&counted)?;
    ensure!(counted["events"] == 3 && counted["survey"]["entities"] == 1 && counted["survey"]["windows"] == 1, "{counted}");
    ensure!(counted["survey"]["cost"].as_f64() > Some(1.0), "{counted}");
    ensure!(!system.api(TENANT).entities().await?.contains(&"nobody".to_owned()), "a dry run sends nothing");
    Ok(())
}

/// A line without a message's place in its event: messages that an earlier event had said are not in an export twice, and those behind
/// them move up.
fn lasting(mut line: Value) -> Value {
    if let Some(members) = line.as_object_mut() {
        members.remove("message_index");
    }
    line
}

/// The memory that an export makes elsewhere is the memory that it was taken from: every line of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_makes_the_same_memory() -> anyhow::Result<()> {
    let config = WorkloadConfig { seed: 11, events: 80, tenants: 1, entities: 6, clients_per_tenant: 2 };
    let workload = workload::generate(config);
    let (before, after) = (Embedded::start(&workload.tenants, &[])?, Embedded::start(&workload.tenants, &[])?);
    drive::drive(&workload, |tenant| before.api(tenant), &Pace::free(), Weather::Calm).await?;
    let api = before.api(TENANT);
    api.wait_final(&drive::event_ids(&workload, TENANT), APPLIED_WITHIN).await?;
    let folder = tempfile::tempdir()?;
    let mut file = std::fs::File::create(folder.path().join("export.jsonl"))?;
    let mut exports = std::collections::BTreeMap::new();
    for entity in api.entities().await? {
        let lines = api.export(&entity).await?;
        for line in &lines {
            writeln!(file, "{line}")?;
        }
        exports.insert(entity, lines.into_iter().map(lasting).collect::<Vec<_>>());
    }
    // What is compared is worth it: people, facts of several kinds with what they rest on, sessions that were named and ones that were not,
    // agents, times of events and of messages.
    let all: Vec<&Value> = exports.values().flatten().collect();
    let distinct = |kind: &str, name: &str| {
        let found =
            all.iter().filter(|line| line["type"] == kind && !line[name].is_null() && line[name] != serde_json::json!([]));
        found.map(|line| line[name].to_string()).collect::<std::collections::BTreeSet<_>>().len()
    };
    let several = [
        ("message", "entity_id", 6),
        ("message", "occurred_at", 40),
        ("message", "created_at", 10),
        ("message", "session_id", 12),
        ("message", "session_named", 2),
        ("message", "process_id", 2),
        ("message", "role", 2),
        ("fact", "fact_id", 20),
        ("fact", "kind", 2),
        ("fact", "occurred_at", 10),
        ("fact", "first_mentioned_at", 10),
        ("fact", "mentions", 2),
        ("fact", "validity", 2),
        ("fact", "sources", 20),
    ];
    for (kind, name, least) in several {
        ensure!(distinct(kind, name) >= least, "{kind}.{name}: {} are there, {least} are wanted", distinct(kind, name));
    }
    let (imported, rejected) = import(&after, folder.path(), "export.jsonl", &[])?;
    ensure!(imported["done"] == true && rejected.is_empty() && imported["passed"].as_u64() > Some(0), "{imported} {rejected:#?}");
    let api = after.api(TENANT);
    let mut found = Vec::new();
    for (entity, lines) in &exports {
        let count = lines.iter().filter(|line| line["type"] == "message").count();
        messages(&api, entity, count).await?;
        let shown: Vec<Value> = api.export(entity).await?.into_iter().map(lasting).collect();
        for (a, b) in lines.iter().zip(&shown).filter(|(a, b)| a != b) {
            found.push(format!("{entity}:\n    was {a}\n    is  {b}"));
        }
        if lines.len() != shown.len() {
            found.push(format!("{entity}: {} lines became {}", lines.len(), shown.len()));
        }
    }
    audit::none(&found)
}
