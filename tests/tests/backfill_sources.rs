//! What `memori backfill` reads from elsewhere: buckets of each provider, servers that are none, signed URLs, and a Postgres database of
//! the library Memori. What is refused, fails and breaks off on the way is taken up where it was, and no secret of a URL is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use memori_tests::client::Api;
use memori_tests::embedded::Embedded;
use memori_tests::objects::ObjectStore;
use memori_tests::process::binary;
use memori_tests::servers::Servers;
use serde_json::Value;

const TENANT: &str = "tenant-a";
const WITHIN: Duration = Duration::from_secs(120);
/// What a reader asks for at a time.
const PIECE: usize = 4 << 20;

struct Place<'a> {
    system: &'a Embedded,
    store: &'a ObjectStore,
    folder: &'a Path,
}

impl Place<'_> {
    fn backfill(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("memori")?);
        command.arg("backfill").args(args).arg("--json").current_dir(self.folder).env_clear().envs(self.store.env());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("MEMORI__LOG__LEVEL", "debug");
        command.env("MEMORI_API_URL", self.system.process.api()).env("MEMORI_API_KEY", self.system.key(TENANT));
        Ok(tokio::task::block_in_place(|| command.stdin(Stdio::null()).output())?)
    }

    fn done(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.backfill(args)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {}: {said}", output.status);
        let out = String::from_utf8_lossy(&output.stdout);
        let result: Value = serde_json::from_str(out.lines().last().context("no result")?)?;
        ensure!(result["done"] == true, "{args:?}: {result}");
        Ok(result)
    }

    fn fails(&self, args: &[&str], words: &str) -> anyhow::Result<Output> {
        let output = self.backfill(args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(words), "{args:?}: {}: {said}", output.status);
        Ok(output)
    }
}

fn line(id: &str, entity: &str, content: &str) -> String {
    format!(
        "{{\"event_id\":\"{id}\",\"entity_id\":\"{entity}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}]}}\n"
    )
}

/// Three objects below a prefix, one more beside it, and a long one, in a bucket.
fn bucket(objects: &mut BTreeMap<String, Bytes>, name: &str, entity: &str) {
    for (key, count) in [("a.jsonl", 2), ("b c.jsonl", 3), ("deep/d.jsonl", 1)] {
        let lines: String =
            (0..count).map(|n| line(&format!("{entity}-{key}-{n}"), entity, &format!("I own {key} {n}."))).collect();
        objects.insert(format!("{name}/2024/{key}"), lines.into());
    }
    objects.insert(format!("{name}/2024-not/e.jsonl"), line("not", entity, "I am not asked for.").into());
    let long: String = (0..LONG_EVENTS).map(|n| line(&format!("long-{n}"), entity, &"I walk far. ".repeat(350))).collect();
    objects.insert(format!("{name}/long.jsonl"), long.into());
}

const LONG_EVENTS: u64 = 2_500;

async fn messages(api: &Api, entity: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    let since = Instant::now();
    loop {
        let found: Vec<Value> = api.export(entity).await?.into_iter().filter(|line| line["type"] == "message").collect();
        if found.len() >= count {
            ensure!(found.len() == count, "{entity}: {} messages, expected {count}: {found:#?}", found.len());
            return Ok(found);
        }
        ensure!(since.elapsed() < WITHIN, "{entity}: {} of {count} messages are there", found.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_provider_is_listed_streamed_and_taken_up_again() -> anyhow::Result<()> {
    let mut objects = BTreeMap::new();
    for (name, entity) in [("history", "of-s3"), ("google", "of-gs"), ("azure-history", "of-az"), ("web/dav", "of-web")] {
        bucket(&mut objects, name, entity);
    }
    let store = ObjectStore::start(objects).await?;
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let web = store.url("web/dav");
    for (base, name, entity) in [
        ("s3://history", "history", "of-s3"),
        ("gs://google", "google", "of-gs"),
        ("az://azure-history", "azure-history", "of-az"),
        (&*web, "web/dav", "of-web"),
    ] {
        let folder = tempfile::tempdir()?;
        let place = Place { system: &system, store: &store, folder: folder.path() };
        let prefix = format!("{base}/2024/");
        // What the second object holds may not be read: the first is there, and the checkpoint behind it.
        store.refuse(&format!("{name}/2024/b c.jsonl"), true);
        let refused = place.fails(&[&prefix], "403")?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(said.contains("b c.jsonl") || said.contains("b%20c.jsonl"), "{said}");
        ensure!(!said.contains("AccessDenied"), "{said}");
        messages(&system.api(TENANT), entity, 2).await?;
        store.refuse(&format!("{name}/2024/b c.jsonl"), false);
        let rest = place.done(&[&prefix])?;
        ensure!(rest["events"] == 6 && rest["events_now"] == 4, "{base}: {rest}");
        messages(&system.api(TENANT), entity, 6).await?;

        // A store that is busy at first, and connections that break within pieces of a long object.
        store.fail(2);
        store.cut(3);
        let before = store.got().len();
        let long = place.done(&[&format!("{base}/long.jsonl"), "--dry-run"])?;
        ensure!(long["events"] == LONG_EVENTS && long["rejected"] == 0, "{base}: {long}");
        ensure!(store.cuts_left() == 0, "{base}: nothing broke");
        let got: Vec<(usize, usize)> = store.got()[before..].iter().map(|(_, range)| (range.start, range.len())).collect();
        let from_the_start = got.iter().filter(|(start, length)| *start == 0 && *length > 1).count();
        ensure!(from_the_start <= 2, "{base}: it began anew: {got:?}");
        ensure!(got.iter().all(|(_, length)| *length <= PIECE), "{base}: {got:?}");
        ensure!(got.iter().any(|(start, _)| start % PIECE != 0), "{base}: no piece was gone on with: {got:?}");
    }
    let folder = tempfile::tempdir()?;
    let place = Place { system: &system, store: &store, folder: folder.path() };
    for base in ["s3://history", "gs://google", "az://azure-history", &*web] {
        place.fails(&[&format!("{base}/none/")], "no such object")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_read_in_one_go() -> anyhow::Result<()> {
    let mut objects = BTreeMap::new();
    bucket(&mut objects, "rangeless", "of-plain");
    let store = ObjectStore::start(objects).await?;
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let folder = tempfile::tempdir()?;
    let place = Place { system: &system, store: &store, folder: folder.path() };
    let url = store.url("rangeless/long.jsonl");
    let long = place.done(&[&url, "--dry-run"])?;
    ensure!(long["events"] == LONG_EVENTS, "{long}");
    // Where that breaks, the same command goes on behind what is there.
    store.cut(2);
    place.fails(&[&url, "--rate", "500"], "cannot be read on")?;
    ensure!(store.cuts_left() == 0, "it was cut");
    let rest = place.done(&[&url, "--rate", "1000000"])?;
    ensure!(rest["events"] == LONG_EVENTS && rest["events_now"].as_u64() < Some(LONG_EVENTS), "{rest}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_lets_in_and_is_told_nowhere() -> anyhow::Result<()> {
    const SIGNATURE: &str = "4f6e2c0ffee";
    let mut objects = BTreeMap::new();
    bucket(&mut objects, "signed", "of-signed");
    let own = (0..40).map(|n| line(&format!("s{n}"), "signed-for", "I sign it.")).collect::<String>() + "not an event\n";
    objects.insert("signed/a+b/c.jsonl".to_owned(), own.into());
    let store = ObjectStore::start(objects).await?;
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let folder = tempfile::tempdir()?;
    let place = Place { system: &system, store: &store, folder: folder.path() };
    let told_nowhere = |output: &Output| -> anyhow::Result<()> {
        let mut told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        for entry in std::fs::read_dir(folder.path())? {
            let entry = entry?;
            told = told + &entry.file_name().to_string_lossy() + &std::fs::read_to_string(entry.path())?;
        }
        ensure!(!told.contains(SIGNATURE), "{told}");
        Ok(())
    };
    // A path's own spelling stays, and so do slashes in the query.
    let query = |day: u32| format!("X-Amz-Credential=reader/2024050{day}/s3&X-Amz-Signature={SIGNATURE}{day}");
    let url = |day: u32| store.url(&format!("signed/a%2Bb/c.jsonl?{}", query(day)));
    told_nowhere(&place.fails(&[&url(1)], "403")?)?;
    store.sign(&query(1));
    let stopped = place.backfill(&[&url(1), "--rejected", "r.jsonl"])?;
    told_nowhere(&stopped)?;
    ensure!(stopped.status.success(), "{stopped:?}");
    ensure!(folder.path().join("c.jsonl.memori-backfill.json").exists(), "the checkpoint is named after the object");
    messages(&system.api(TENANT), "signed-for", 40).await?;
    let rejected = std::fs::read_to_string(folder.path().join("r.jsonl"))?;
    ensure!(rejected.contains("/signed/a%2Bb/c.jsonl\"") && rejected.lines().count() == 1, "{rejected}");
    // Signed anew it is the same object.
    store.sign(&query(2));
    let again = place.backfill(&[&url(2), "--rejected", "r.jsonl"])?;
    told_nowhere(&again)?;
    ensure!(String::from_utf8_lossy(&again.stdout).contains("\"was_done\":true"), "{again:?}");
    // Long, busy and broken, as any other.
    store.fail(1);
    store.cut(2);
    let long = place.backfill(&[&store.url(&format!("signed/long.jsonl?{}", query(1))), "--dry-run"])?;
    told_nowhere(&long)?;
    let text = String::from_utf8_lossy(&long.stdout);
    ensure!(long.status.success() && text.contains(&format!("\"events\":{LONG_EVENTS}")) && store.cuts_left() == 0, "{long:?}");
    // A signature that ends on the way: what is there stays, another takes it up.
    let url = store.url(&format!("signed/long.jsonl?{}", query(2)));
    store.refuse("signed/long.jsonl", true);
    told_nowhere(&place.fails(&[&url], "403")?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_memoris_own_postgres() -> anyhow::Result<()> {
    let store = ObjectStore::start(BTreeMap::new()).await?;
    let system = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = system.api(TENANT);
    let folder = tempfile::tempdir()?;
    let place = Place { system: &system, store: &store, folder: folder.path() };
    let database = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let missing = place.fails(&[&database], "cannot be read on")?;
    ensure!(String::from_utf8_lossy(&missing.stderr).contains("memori_conversation"), "{missing:?}");
    let (client, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("backfill/memori-postgres.sql");
    client.batch_execute(&std::fs::read_to_string(tables)?).await?;

    let imported = place.done(&[&database])?;
    ensure!(imported["events"] == 4 && imported["messages"] == 6 && imported["rejected"] == 0, "{imported}");
    let told = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        [text("session_id"), text("process_id"), text("role"), text("content"), text("occurred_at")].join(" | ")
    };
    let seventh: Vec<String> = messages(&api, "customer-7", 3).await?.iter().map(told).collect();
    ensure!(
        seventh
            == [
                "5e55-1 | beekeeper | user | I keep bees. | 2025-03-01T09:00:00.25Z",
                "5e55-1 | beekeeper | assistant | How many hives? | 2025-03-01T09:00:00.25Z",
                "5e55-1 | beekeeper | user | I own three hives. | 2025-03-01T09:01:00Z",
            ],
        "{seventh:#?}"
    );
    let eighth: Vec<String> = messages(&api, "customer-8", 3).await?.iter().map(told).collect();
    ensure!(
        eighth
            == [
                "5e55-2 | beekeeper | user | I grow pears. | 2025-03-01T09:00:01Z",
                "5e55-2 | beekeeper | assistant | Which kind? | 2025-03-01T09:00:01Z",
                "5e55-3 | - | user | I live in Ghent. | 2025-03-02T10:00:00Z",
            ],
        "{eighth:#?}"
    );
    // What was said since comes with the next import, and nothing comes twice.
    client
        .batch_execute(
            "INSERT INTO memori_conversation_message(uuid, conversation_id, role, content, date_created) \
             VALUES ('m-7', 3, 'user', 'I moved to Bruges.', '2025-03-03 08:00:00')",
        )
        .await?;
    let again = place.done(&[&database, "--restart", "--facts"])?;
    ensure!(again["events"] == 5 && again["messages"] == 8, "{again}");
    messages(&api, "customer-8", 4).await?;
    messages(&api, "customer-7", 4).await?;
    // The password is in no file of the import.
    let url = database.replacen("://", "://nobody:s3cret@", 1);
    let url = url.rsplit_once('@').map_or(url.clone(), |(_, host)| format!("postgres://nobody:s3cret@{host}"));
    place.fails(&[&url, "--checkpoint", "other.json"], "cannot be read on")?;
    for entry in std::fs::read_dir(folder.path())? {
        ensure!(!std::fs::read_to_string(entry?.path())?.contains("s3cret"), "a password is written down");
    }
    drop(client);
    connection.abort();
    Ok(())
}
