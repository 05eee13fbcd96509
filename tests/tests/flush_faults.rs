//! Faults in the middle of a flush: whatever breaks, and wherever, the tables are exactly those of the records before the offsets
//! that the store holds, at once and in the end.
//!
//! `MEMORI_SOAK=1` runs a hundred seeds, `MEMORI_SEED=n` one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::proxy::{Fault, Proxy};
use memori_tests::replay::{self, Ended, Replay};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_writer::store::Store;
use memori_writer::store::sqlite::SqliteStore;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

const ALL: usize = usize::MAX;
/// Longer than any statement here waits, far below a time-out.
const DEADLOCK_TIMEOUT_MS: u32 = 400;
const SOON: Duration = Duration::from_millis(10);

fn seeds(small: u64, large: u64) -> Vec<u64> {
    match std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None if std::env::var_os("MEMORI_SOAK").is_some() => (0..large).collect(),
        None => (0..small).collect(),
    }
}

/// A writer's process.
struct Writing {
    child: Child,
    told: std::io::Lines<BufReader<ChildStderr>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Writing {
    fn start(store: &str, seed: u64, flushes: usize, failpoint: &str, until: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replay-writer"));
        command.args([store, &seed.to_string(), &flushes.to_string()]).env("MEMORI_FAILPOINT", failpoint);
        if let Some(file) = until {
            command.env("MEMORI_FAILPOINT_UNTIL", file);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let told = BufReader::new(child.stderr.take().context("no error output")?).lines();
        Ok(Self { child, told })
    }

    /// Waits until it is held where it was told to.
    fn held(&mut self) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for line in self.told.by_ref() {
            let line = line?;
            if line.starts_with("failpoint holds ") {
                return Ok(());
            }
            all.push(line);
        }
        bail!("it never came there: {}", all.join("\n"))
    }

    /// `kill -9`.
    fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end; answers what it told.
    fn end(mut self) -> anyhow::Result<Vec<String>> {
        let lines = self.told.by_ref().collect::<Result<Vec<String>, _>>()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the writer ended with {status}: {}", lines.join("\n"));
        Ok(lines)
    }
}

/// Every point that a calm run of the seed passes, each with the batch in which it comes first.
fn points(store: &str, seed: u64) -> anyhow::Result<Vec<(usize, String)>> {
    let lines = Writing::start(store, seed, ALL, "trace", None)?.end()?;
    let (mut batch, mut begun, mut seen, mut out) = (0, false, BTreeSet::new(), Vec::new());
    for line in &lines {
        if let Some(number) = line.strip_prefix("flush ") {
            (batch, begun) = (number.parse()?, false);
        } else if let Some(point) = line.strip_prefix("failpoint ") {
            begun |= point == "before begin";
            if begun && seen.insert(point.to_owned()) {
                out.push((batch, point.to_owned()));
            }
        }
    }
    Ok(out)
}

/// Kills a writer at every point of the seed's flushes, each in the flush that reaches it first. Answers the number of kills.
async fn killed_everywhere(calm: &str, store: &str, seed: u64) -> anyhow::Result<usize> {
    let (replay, points) = (Replay::new(seed), points(calm, seed)?);
    let opened = replay::open(store).await?;
    for batch in 0..replay.batches() {
        for (_, point) in points.iter().filter(|(first, _)| *first == batch) {
            let what = format!("seed {seed}, batch {batch}, killed {point}");
            let held = tokio::task::block_in_place(|| {
                let mut writing = Writing::start(store, seed, 1, &format!("hold {point}"), None)?;
                writing.held()?;
                writing.kill()
            });
            held.with_context(|| what.clone())?;
            let stand = replay.check(&what, &*opened).await?;
            let written = point == "after commit";
            ensure!(stand == replay.after(batch + usize::from(written)), "{what}: the store stands at {stand:?}");
        }
        if replay.stand(&*opened).await? == replay.after(batch) {
            tokio::task::block_in_place(|| Writing::start(store, seed, 1, "", None)?.end())?;
        }
    }
    let stand = replay.check(&format!("seed {seed}, after all kills"), &*opened).await?;
    ensure!(stand == replay.after(replay.batches()), "seed {seed}: the store stands at {stand:?}");
    Ok(points.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_is_killed_at_every_step() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let seeds = seeds(1, 25);
    let mut kills = 0;
    for seed in &seeds {
        kills += killed_everywhere(&servers.fresh_database().await?, &servers.fresh_database().await?, *seed).await?;
    }
    // BEGIN, the offsets, the entities, nine reads, copies, upserts, deletions, COMMIT, each before and after.
    ensure!(kills >= 70 * seeds.len(), "only {kills} kills");
    tell(&format!("flush faults: {kills} kills on Postgres, {} seeds", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_on_sqlite_is_killed_at_every_step() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let seeds = seeds(1, 10);
    let mut kills = 0;
    for seed in &seeds {
        let path = |name: &str| folder.path().join(format!("{seed}-{name}.db")).display().to_string();
        kills += killed_everywhere(&path("calm"), &path("killed"), *seed).await?;
    }
    ensure!(kills >= 50 * seeds.len(), "only {kills} kills");
    tell(&format!("flush faults: {kills} kills on SQLite, {} seeds", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_break_and_answers_are_lost() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let seeds = seeds(3, 25);
    let (mut broken, mut unsure) = (0, 0);
    for seed in &seeds {
        let (replay, mut rng) = (Replay::new(100 + seed), StdRng::seed_from_u64(*seed));
        let url = servers.fresh_database().await?;
        let proxy = Proxy::start(&url).await?;
        let direct = replay::open(&url).await?;
        let mut writer = replay.writer(replay::open(&proxy.url(&url)?).await?).await?;
        for batch in 0..replay.batches() {
            let faults = [
                Fault::LoseCommit,
                Fault::LoseAnswer,
                Fault::AfterSent(rng.random_range(0..20_000)),
                Fault::AfterAnswered(rng.random_range(0..20_000)),
            ];
            // Each flush of the first seed loses a COMMIT or its answer.
            let fault = if *seed == seeds[0] { faults[batch % 2] } else { *faults.choose(&mut rng).context("some")? };
            proxy.arm(fault);
            let ended = writer.flush(&replay, batch).await?;
            ensure!(ended == Ended::Written, "seed {seed}, batch {batch}, {fault:?}: {ended:?}");
            proxy.disarm();
            let stand = replay.check(&format!("seed {seed}, batch {batch}, {fault:?}"), &*direct).await?;
            ensure!(stand == replay.after(batch + 1), "seed {seed}, batch {batch}, {fault:?}: the store stands at {stand:?}");
        }
        broken += proxy.broken();
        unsure += writer.refusals().iter().filter(|reason| reason.contains("did not confirm the commit")).count();
    }
    ensure!(broken > seeds.len() * 3 && unsure > 1, "only {broken} connections broke, {unsure} in COMMIT");
    tell(&format!("flush faults: {broken} connections broken, {unsure} in COMMIT, {} seeds", seeds.len()));
    Ok(())
}

/// Sessions of the database that wait for a lock, at least one.
async fn somebody_waits(observer: &tokio_postgres::Client) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while observer.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
        tokio::time::sleep(SOON).await;
    }
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_one_partition_one_wins() -> anyhow::Result<()> {
    // Held before it has the offsets' lock, the other wins; held with the lock, it wins itself.
    const LATE: [&str; 2] = ["before begin", "before select log_offsets"];
    const EARLY: [&str; 3] = ["after insert entities", "before update log_offsets", "before commit"];
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let seeds = seeds(2, 20);
    let mut rounds = 0;
    for seed in &seeds {
        let (seed, mut rng) = (200 + seed, StdRng::seed_from_u64(*seed));
        let (replay, url, folder) = (Replay::new(seed), servers.fresh_database().await?, tempfile::tempdir()?);
        let (ours, observer) = (replay::open(&url).await?, connect(&url).await?);
        // In turns they find a batch, so that a batch has two writers although each goes on from where the store stands.
        for batch in 0..replay.batches() {
            let early = rng.random_bool(0.5);
            let point = if early { EARLY.choose(&mut rng) } else { LATE.choose(&mut rng) }.context("some")?;
            let what = format!("seed {seed}, batch {batch}, held {point}");
            let go_on = folder.path().join(batch.to_string());
            let theirs = tokio::task::block_in_place(|| {
                let mut writing = Writing::start(&url, seed, 1, &format!("hold {point}"), Some(&go_on))?;
                writing.held().map(|()| writing)
            })?;
            let mut writer = replay.writer(ours.clone()).await?;
            let ended = if early {
                let (ended, ()) = tokio::try_join!(writer.flush(&replay, batch), async {
                    somebody_waits(&observer).await?;
                    Ok(std::fs::write(&go_on, "")?)
                })?;
                ended
            } else {
                let ended = writer.flush(&replay, batch).await?;
                std::fs::write(&go_on, "")?;
                ended
            };
            let told = tokio::task::block_in_place(|| theirs.end())?;
            let (ours_is, theirs_is) = if early { (Ended::Fenced, "ended Written") } else { (Ended::Written, "ended Fenced") };
            ensure!(ended == ours_is && told.iter().any(|line| line == theirs_is), "{what}: {ended:?}, and they {told:?}");
            let stand = replay.check(&what, &*ours).await?;
            ensure!(stand == replay.after(batch + 1), "{what}: the store stands at {stand:?}");
            rounds += 1;
        }
    }
    tell(&format!("flush faults: {rounds} batches with two writers, {} seeds", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let seeds = seeds(1, 10);
    let mut deadlocks = 0;
    for seed in &seeds {
        let (replay, url) = (Replay::new(300 + seed), servers.fresh_database().await?);
        let (_, name) = url.rsplit_once('/').context("no database in the URL")?;
        servers.administer(&format!("ALTER DATABASE {name} SET deadlock_timeout = '{DEADLOCK_TIMEOUT_MS}ms'")).await?;
        let (store, observer, other) = (replay::open(&url).await?, connect(&url).await?, connect(&url).await?);
        // Whose time-out ends first is the victim: the flush.
        other.batch_execute("SET deadlock_timeout = '60s'").await?;
        let mut writer = replay.writer(store.clone()).await?;
        let mut provoked = 0;
        for batch in 0..replay.batches() {
            let stored: BTreeSet<Vec<u8>> =
                other.query("SELECT entity_key FROM memori.entities", &[]).await?.iter().map(|row| row.get(0)).collect();
            let keys: Vec<Vec<u8>> =
                replay.entities(batch).iter().map(|key| key.as_bytes().to_vec()).filter(|key| stored.contains(key)).collect();
            if let ([first, .., last], true) = (keys.as_slice(), provoked < 2) {
                let lock = "SELECT 1 FROM memori.entities WHERE entity_key = $1 FOR UPDATE";
                other.batch_execute("BEGIN").await?;
                other.query(lock, &[last]).await?;
                tokio::try_join!(writer.flush(&replay, batch), async {
                    somebody_waits(&observer).await?;
                    other.query(lock, &[first]).await?;
                    other.batch_execute("ROLLBACK").await?;
                    Ok(())
                })?;
                provoked += 1;
            } else {
                writer.flush(&replay, batch).await?;
            }
        }
        let met = writer.refusals().iter().filter(|reason| reason.contains("40P01")).count();
        ensure!(met == provoked && met > 0, "seed {seed}: {met} of {provoked} deadlocks: {:?}", writer.refusals());
        let stand = replay.check(&format!("seed {seed}, deadlocks"), &*store).await?;
        ensure!(stand == replay.after(replay.batches()), "seed {seed}: the store stands at {stand:?}");
        deadlocks += met;
    }
    tell(&format!("flush faults: {deadlocks} deadlocks, {} seeds", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_restarted_in_the_middle() -> anyhow::Result<()> {
    const POINTS: [&str; 8] = [
        "after begin",
        "after select log_offsets",
        "before insert entities",
        "before select facts",
        "during copy mentions",
        "before insert fact_stats",
        "after update log_offsets",
        "before commit",
    ];
    let servers = tokio::task::block_in_place(Servers::start_postgres)?;
    let seeds = seeds(1, 5);
    let mut restarts = 0;
    for seed in &seeds {
        let (seed, mut rng) = (400 + seed, StdRng::seed_from_u64(*seed));
        let (replay, url, folder) = (Replay::new(seed), servers.fresh_database().await?, tempfile::tempdir()?);
        let mut points = POINTS.to_vec();
        while points.len() > 4 {
            points.remove(rng.random_range(0..points.len()));
        }
        for point in points {
            let url = if restarts == 0 { url.clone() } else { servers.fresh_database().await? };
            let go_on = folder.path().join(point.replace(' ', "-"));
            tokio::task::block_in_place(|| {
                let mut writing = Writing::start(&url, seed, ALL, &format!("hold {point}"), Some(&go_on))?;
                writing.held()?;
                servers.kill_postgres()?;
                servers.restart_postgres()?;
                std::fs::write(&go_on, "")?;
                writing.end()
            })
            .with_context(|| format!("seed {seed}, restarted {point}"))?;
            let stand = replay.check(&format!("seed {seed}, restarted {point}"), &*replay::open(&url).await?).await?;
            ensure!(stand == replay.after(replay.batches()), "seed {seed}, {point}: the store stands at {stand:?}");
            restarts += 1;
        }
    }
    tell(&format!("flush faults: {restarts} restarts of Postgres, {} seeds", seeds.len()));
    Ok(())
}

/// A file system that is full: a small one in memory, and a file that takes all of it.
struct FullDisk {
    folder: PathBuf,
    ballast: PathBuf,
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

impl FullDisk {
    /// `None` where this process may not mount.
    fn mount(folder: &Path) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let owner = std::fs::metadata(folder.parent().context("a parent")?.join("data"))?;
        // Postgres sets the folder's mode itself, so it must own it.
        let options = format!("size=4m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        Ok(mounted.then(|| Self { folder: folder.to_owned(), ballast: folder.join("ballast") }))
    }

    fn fill(&self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::create(&self.ballast)?;
        while file.write_all(&[0; 4_096]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(&self.ballast)?)
    }
}

/// Every flush begins on a full disk, which is emptied after its first try; `refused` tells the refusals that count.
async fn fill_in_turns(
    what: &str,
    replay: &Replay,
    store: &Arc<dyn Store>,
    refused: impl Fn(&str) -> bool,
    fill: impl AsyncFn() -> anyhow::Result<()>,
    free: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut met = 0;
    let mut writer = replay.writer(store.clone()).await?;
    for batch in 0..replay.batches() {
        fill().await?;
        let first = writer.try_once(replay, batch).await?;
        free().await?;
        if first.is_none() {
            writer.flush(replay, batch).await.with_context(|| what.to_owned())?;
            met += 1;
        }
        let refusals = writer.refusals();
        ensure!(refusals.iter().all(|reason| refused(reason)), "{what}, batch {batch}: {refusals:?}");
        let stand = replay.check(&format!("{what}, batch {batch}"), &**store).await?;
        ensure!(stand == replay.after(batch + 1), "{what}, batch {batch}: the store stands at {stand:?}");
    }
    ensure!(met > 0, "{what}: nothing was ever refused");
    Ok(met)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_postgres_is_full() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::start_postgres)?;
    let folder = servers.folder().context("its own servers")?.join("postgres/small");
    let Some(disk) = FullDisk::mount(&folder)? else {
        tell("flush faults: a full disk under Postgres is NOT tested: this process may not mount a tmpfs");
        return Ok(());
    };
    servers.administer(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display())).await?;
    let seeds = seeds(1, 3);
    let mut refused = 0;
    for seed in &seeds {
        let (replay, url) = (Replay::new(500 + seed), servers.fresh_database().await?);
        let client = connect(&url).await?;
        for table in ["mentions", "fact_stats", "messages", "outcomes"] {
            client.batch_execute(&format!("ALTER TABLE memori.{table} SET TABLESPACE small")).await?;
        }
        let store = replay::open(&url).await?;
        let is_full = |reason: &str| reason.contains("53100");
        let (fill, free) = (async || disk.fill(), async || disk.free());
        refused += fill_in_turns(&format!("seed {seed}, disk full"), &replay, &store, is_full, fill, free).await?;
    }
    tell(&format!("flush faults: {refused} flushes met a full disk on Postgres, {} seeds", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_sqlite_is_full() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let seeds = seeds(1, 2);
    let mut refused = 0;
    for seed in &seeds {
        let replay = Replay::sized(600 + seed, 40);
        let database = SqliteDatabase::open(&folder.path().join(format!("{seed}.db"))).await?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::new(database.clone()));
        store.migrate().await?;
        let pages = async |most: &str| {
            // SQLite takes a bound below the present size as the present size.
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {most}"))).fetch_all(database.writes()).await?;
            anyhow::Ok(())
        };
        let is_full = |reason: &str| reason.contains("full");
        let (fill, free) = (async || pages("1").await, async || pages("1000000").await);
        refused += fill_in_turns(&format!("seed {seed}, SQLite full"), &replay, &store, is_full, fill, free).await?;
    }
    tell(&format!("flush faults: {refused} flushes met a full disk on SQLite, {} seeds", seeds.len()));
    Ok(())
}
