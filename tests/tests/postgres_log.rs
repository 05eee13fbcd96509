//! What the SQL log on Postgres promises beyond the suite of all providers: offsets stay dense under many appenders and over the
//! server's death, an answer that is lost is found again, nobody needs more rights than are named, and processes share a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::{AppendError, Consumer, ConsumerEvent, Log, LogError, NewRecord, Position, Start, Topic, TopicPartition};
use memori_tests::client::Api;
use memori_tests::embedded::Embedded;
use memori_tests::{Servers, audit, process, storm};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const TOPICS: [Topic; 2] = [Topic::ConversationsLive, Topic::FactsLive];
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn record(topic: Topic, key: &str, payload: &str) -> NewRecord {
    NewRecord {
        topic,
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        headers: Vec::new(),
    }
}

async fn open(url: &str) -> anyhow::Result<SqlLog> {
    Ok(SqlLog::open_postgres(url, SqlLogConfig { lease_ttl: Duration::from_secs(2), ..SqlLogConfig::default() }).await?)
}

async fn shared() -> anyhow::Result<String> {
    tokio::task::block_in_place(Servers::shared)?.empty_database().await
}

/// Every partition as a whole: dense, and each payload with its place.
async fn audit_density(log: &SqlLog) -> anyhow::Result<BTreeMap<String, Vec<Position>>> {
    let mut found: BTreeMap<String, Vec<Position>> = BTreeMap::new();
    for source in TOPICS.into_iter().flat_map(|topic| (0..PARTITIONS).map(move |partition| TopicPartition { topic, partition })) {
        let (start, end) = log.watermarks(source).await?;
        let records = log.read(source, start, usize::MAX).await?;
        let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
        ensure!(offsets == (start..end).collect::<Vec<_>>(), "{source} is not dense up to {end}: {offsets:?}");
        for record in records {
            let payload = String::from_utf8(record.payload.to_vec())?;
            found.entry(payload).or_default().push(Position { source, offset: Some(record.offset) });
        }
    }
    Ok(found)
}

/// What a caller was told of what it appended.
struct Told {
    payload: String,
    result: Result<Position, AppendError>,
}

/// Appends batches that reach over topics and partitions, one after the other, until it is told to stop.
async fn append_until(log: Arc<SqlLog>, caller: usize, confirmed: Arc<watch::Sender<usize>>, stop: Arc<AtomicBool>) -> Vec<Told> {
    let mut told = Vec::new();
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let payloads: Vec<String> = (0..6).map(|n| format!("{caller}/{batch}/{n}")).collect();
        let records = payloads.iter().enumerate().map(|(n, p)| record(TOPICS[n % 2], &format!("key {}", (caller + n) % 7), p));
        let results = log.producer().append(&records.collect::<Vec<_>>(), None).await;
        confirmed.send_modify(|n| *n += results.iter().filter(|result| result.is_ok()).count());
        told.extend(payloads.into_iter().zip(results).map(|(payload, result)| Told { payload, result }));
    }
    told
}

/// Appenders side by side, of several processes' connections.
struct Crowd {
    callers: JoinSet<Vec<Told>>,
    confirmed: Arc<watch::Sender<usize>>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    async fn start(url: &str, processes: usize, callers_each: usize) -> anyhow::Result<Self> {
        let (confirmed, stop) = (Arc::new(watch::Sender::new(0)), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for process in 0..processes {
            let log = Arc::new(open(url).await?);
            for caller in 0..callers_each {
                let caller = process * callers_each + caller;
                callers.spawn(append_until(Arc::clone(&log), caller, Arc::clone(&confirmed), Arc::clone(&stop)));
            }
        }
        Ok(Self { callers, confirmed, stop })
    }

    fn confirmed(&self) -> usize {
        *self.confirmed.borrow()
    }

    /// Until that many more records are confirmed.
    async fn go_on_for(&self, more: usize) -> anyhow::Result<()> {
        let wanted = self.confirmed() + more;
        let mut confirmed = self.confirmed.subscribe();
        tokio::time::timeout(PATIENCE, confirmed.wait_for(|n| *n >= wanted)).await.context("appends stand still")??;
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<Vec<Vec<Told>>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        while let Some(joined) = self.callers.join_next().await {
            told.push(joined?);
        }
        Ok(told)
    }
}

/// Whatever was confirmed stands where it was said to, once; whatever was not stands once or not at all.
fn check_told(told: &[Told], found: &BTreeMap<String, Vec<Position>>) -> anyhow::Result<(usize, usize)> {
    let (mut confirmed, mut open) = (0, 0);
    for Told { payload, result } in told {
        let places = found.get(payload).map_or(&[][..], Vec::as_slice);
        match result {
            Ok(position) => {
                ensure!(places == [*position], "{payload} was said to be at {position:?}, and is at {places:?}");
                confirmed += 1;
            }
            Err(AppendError::Unconfirmed(_)) => {
                ensure!(places.len() <= 1, "{payload} was not confirmed, and is there {} times", places.len());
                open += 1;
            }
            Err(error) => anyhow::bail!("{payload}: {error}"),
        }
    }
    Ok((confirmed, open))
}

fn check_order(told: &[Told]) -> anyhow::Result<()> {
    let mut last: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for position in told.iter().filter_map(|told| told.result.as_ref().ok()) {
        let offset = position.offset.context("an offset")?;
        ensure!(last.insert(position.source, offset).is_none_or(|before| before < offset), "a caller's order is not kept");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_appenders_leave_no_hole_and_keep_their_order() -> anyhow::Result<()> {
    let url = shared().await?;
    open(&url).await?.create_topics(PARTITIONS).await?;
    let crowd = Crowd::start(&url, 4, 4).await?;
    crowd.go_on_for(3_000).await?;
    let told = crowd.end().await?;
    let found = audit_density(&open(&url).await?).await?;
    for own in &told {
        let (_, open) = check_told(own, &found)?;
        ensure!(open == 0, "nothing failed, but {open} records are not confirmed");
        check_order(own)?;
    }
    ensure!(found.len() == told.iter().map(Vec::len).sum::<usize>(), "the log holds what nobody appended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_death_costs_nothing_that_was_confirmed() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::start)?;
    let url = servers.empty_database().await?;
    let log = open(&url).await?;
    log.create_topics(PARTITIONS).await?;
    let mut consumer = log.subscribe("readers", &TOPICS).await?;
    let crowd = Crowd::start(&url, 2, 4).await?;
    for _ in 0..2 {
        crowd.go_on_for(300).await?;
        tokio::task::block_in_place(|| servers.kill_postgres())?;
        tokio::task::block_in_place(|| servers.restart_postgres())?;
        crowd.go_on_for(300).await?;
    }
    let told = crowd.end().await?;
    let found = audit_density(&log).await?;
    let mut unconfirmed = 0;
    for own in &told {
        unconfirmed += check_told(own, &found)?.1;
        check_order(own)?;
    }
    storm::tell(&format!("postgres log: {} records over two deaths of the server, {unconfirmed} not confirmed", found.len()));
    // A member that was there before goes on, and misses nothing.
    let read =
        tokio::time::timeout(PATIENCE, read_all(&mut *consumer, found.len())).await.context("the consumer stands still")??;
    ensure!(read == found.keys().cloned().collect::<BTreeSet<_>>(), "the consumer read something else");
    Ok(())
}

async fn read_all(consumer: &mut dyn Consumer, wanted: usize) -> anyhow::Result<BTreeSet<String>> {
    let mut read = BTreeSet::new();
    while read.len() < wanted {
        match consumer.next().await {
            Ok(ConsumerEvent::Assigned(partitions)) => {
                let starts: Vec<_> = partitions.into_iter().map(|partition| (partition, Start::Committed)).collect();
                consumer.assign(&starts).await?;
            }
            // Its lease may have run out while the server was away.
            Ok(ConsumerEvent::Revoked(partitions) | ConsumerEvent::Lost(partitions)) => consumer.unassign(&partitions).await?,
            Ok(ConsumerEvent::Records(records)) => {
                for record in records {
                    read.insert(String::from_utf8(record.payload.to_vec())?);
                }
            }
            Err(LogError::Transient(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(read)
}

/// Stands before the server and cuts a connection at its COMMIT, once each time it is armed.
struct Cutter {
    url: String,
    armed: Arc<Mutex<Option<Cut>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never hears of it.
    Before,
    /// The server has done it; its answer is lost.
    After,
}

impl Cutter {
    async fn before(url: &str) -> anyhow::Result<Self> {
        let (credentials, rest) = url.rsplit_once('@').context("a user")?;
        let (server, database) = rest.split_once('/').context("a database")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("{credentials}@{}/{database}?sslmode=disable", listener.local_addr()?);
        let armed = Arc::new(Mutex::new(None));
        let (server, at) = (server.to_owned(), Arc::clone(&armed));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, armed) = (server.clone(), Arc::clone(&at));
                tokio::spawn(async move { pass(client, &server, &armed).await });
            }
        });
        Ok(Self { url, armed })
    }

    fn arm(&self, cut: Cut) {
        *self.armed.lock().expect("no panic") = Some(cut);
    }

    fn is_armed(&self) -> bool {
        self.armed.lock().expect("no panic").is_some()
    }
}

async fn pass(mut client: TcpStream, server: &str, armed: &Mutex<Option<Cut>>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let bytes = &asked[..read?];
                let commits = bytes.windows(6).any(|window| window == b"COMMIT");
                let cut = if commits { armed.lock().expect("no panic").take() } else { None };
                match cut {
                    _ if bytes.is_empty() => return Ok(()),
                    Some(Cut::Before) => return Ok(()),
                    Some(Cut::After) => {
                        server.write_all(bytes).await?;
                        // Until it is done; what it says is lost.
                        return server.read(&mut answered).await.map(drop);
                    }
                    None => server.write_all(bytes).await?,
                }
            }
            read = server.read(&mut answered) => match read? {
                0 => return Ok(()),
                read => client.write_all(&answered[..read]).await?,
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_found_again() -> anyhow::Result<()> {
    let url = shared().await?;
    let direct = open(&url).await?;
    direct.create_topics(PARTITIONS).await?;
    let cutter = Cutter::before(&url).await?;
    let log = open(&cutter.url).await?;
    let mut told = Vec::new();
    for n in 0..20 {
        // Somebody else appends in between, so that places move on.
        let between = direct.producer().append(&[record(TOPICS[0], "key 1", &format!("between {n}"))], None).await;
        told.push(Told { payload: format!("between {n}"), result: between.into_iter().next().context("one")? });
        cutter.arm(if n % 2 == 0 { Cut::After } else { Cut::Before });
        let payloads = [format!("a {n}"), format!("b {n}")];
        let records: Vec<_> = payloads.iter().enumerate().map(|(i, payload)| record(TOPICS[i], "key 1", payload)).collect();
        let results = log.producer().append(&records, None).await;
        ensure!(!cutter.is_armed(), "nothing was cut");
        told.extend(payloads.into_iter().zip(results).map(|(payload, result)| Told { payload, result }));
    }
    let found = audit_density(&direct).await?;
    let (confirmed, open) = check_told(&told, &found)?;
    ensure!((confirmed, open) == (60, 0), "{confirmed} confirmed, {open} not");
    ensure!(found.len() == 60, "{} records are there", found.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_begin_at_once_make_one_log() -> anyhow::Result<()> {
    let url = shared().await?;
    let mut starts = JoinSet::new();
    for _ in 0..8 {
        let url = url.clone();
        starts.spawn(async move {
            let log = open(&url).await?;
            log.create_topics(PARTITIONS).await?;
            anyhow::Ok(log.identity().await?)
        });
    }
    let mut named = BTreeSet::new();
    while let Some(started) = starts.join_next().await {
        named.insert(format!("{:?}", started??));
    }
    ensure!(named.len() == 1, "{named:?}");
    Ok(())
}

/// The URL of a database as another role.
fn as_role(url: &str, role: &str) -> String {
    url.replacen("postgres@", &format!("{role}@"), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_right_is_asked_for_that_is_not_named() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let role = format!("r{}", servers.fresh_prefix());
    servers.administer(&format!("create role {role} login")).await?;
    let name = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    // Nothing: the refusal says what to run.
    let none = servers.empty_database().await?;
    let refusal = open(&as_role(&none, &role)).await.err().context("it may not")?.to_string();
    let grant = format!("GRANT CREATE ON DATABASE {} TO {role}", name(&none));
    ensure!(refusal.contains(&grant), "{refusal}");
    // What it says is enough, and so is a schema of one's own.
    servers.administer(&grant).await?;
    let own = servers.empty_database().await?;
    run_in(&own, &format!("create schema memori authorization {role}")).await?;
    // So is a schema of somebody else's with the rights to use it; without them the refusal says which.
    let lent = servers.empty_database().await?;
    run_in(&lent, "create schema memori").await?;
    let refusal = open(&as_role(&lent, &role)).await.err().context("it may not")?.to_string();
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA memori TO {role}");
    ensure!(refusal.contains(&grant), "{refusal}");
    run_in(&lent, &grant).await?;
    for url in [none, own, lent] {
        let log = open(&as_role(&url, &role)).await?;
        log.create_topics(PARTITIONS).await?;
        let result = log.producer().append(&[record(TOPICS[0], "k", "p")], None).await;
        ensure!(matches!(result[..], [Ok(_)]), "{result:?}");
    }
    Ok(())
}

async fn run_in(url: &str, sql: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    client.batch_execute(sql).await?;
    drop(client);
    driving.await?.context("the connection")
}

/// How `memori ARGS` ends: its status and what it says.
fn memori(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<(Option<i32>, String)> {
    let folder = tempfile::tempdir()?;
    let mut command = std::process::Command::new(process::binary("memori")?);
    command.args(args).env_clear().env("HOME", folder.path()).envs(env.iter().copied());
    command.env("MEMORI__INGEST__LISTEN", "127.0.0.1:0");
    let output = tokio::task::block_in_place(|| command.output())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), text))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_says_why() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let (status, text) =
        memori(&["up", "--database", "postgres://nobody:hunter2@127.0.0.1:1/none"], &[("MEMORI__START__DEADLINE_MS", "500")])?;
    ensure!(status == Some(75) && text.contains("refused") && !text.contains("hunter2"), "{status:?}: {text}");
    let missing = servers.database_url("is_not_there")?;
    let (status, text) = memori(&["up"], &[("MEMORI__EMBEDDED__DATABASE_URL", &missing)])?;
    ensure!(status == Some(2) && text.contains("does not exist"), "{status:?}: {text}");
    let (status, text) = memori(&["up", "--database", "postgres://u:hunter2@h:port/d"], &[])?;
    ensure!(status == Some(2) && !text.contains("hunter2"), "{status:?}: {text}");
    Ok(())
}

const TENANT: &str = "tenant-a";

async fn post(api: &Api, ids: std::ops::Range<usize>) -> anyhow::Result<Vec<String>> {
    let mut posted = Vec::new();
    for n in ids {
        let event_id = format!("event-{n}");
        let text = format!("I live in house {n}.");
        let body = json!({"event_id": event_id, "entity_id": format!("entity-{}", n % 12), "messages": [{"role": "user", "content": text}]});
        let answer = api.post("/v1/events", &body).await?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
        posted.push(event_id);
    }
    Ok(posted)
}

/// Processes that hold leases.
async fn holders(url: &str) -> anyhow::Result<i64> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let sql = "SELECT count(DISTINCT split_part(owner, '/', 1)) FROM memori.log_leases WHERE owner IS NOT NULL";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_database() -> anyhow::Result<()> {
    let url = shared().await?;
    let tenants = [TENANT.to_owned()];
    let one = Embedded::on_postgres(&tenants, &url, &[])?;
    let mut other = Embedded::on_postgres(&tenants, &url, &[])?;
    let apis = [one.api(TENANT), other.api(TENANT)];
    let since = std::time::Instant::now();
    while holders(&url).await? != 2 {
        ensure!(since.elapsed() < PATIENCE, "the second process gets no partition");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut ids = post(&apis[0], 0..40).await?;
    ids.extend(post(&apis[1], 40..80).await?);
    // Each waits for what the other has written, too.
    let seen = [audit::observe(&apis[0], &ids, PATIENCE).await?, audit::observe(&apis[1], &ids, PATIENCE).await?];
    audit::none(&audit::unlike(&seen[0], &seen[1])).context("two processes show two memories")?;
    ensure!(seen[0].entities.len() == 12, "{} entities", seen[0].entities.len());
    let (status, text) = memori(&["doctor"], &[("MEMORI__EMBEDDED__DATABASE_URL", &url)])?;
    ensure!(status == Some(0) && text.contains("shared by 2 running processes"), "{status:?}: {text}");

    other.process.kill();
    ids.extend(post(&apis[0], 80..120).await?);
    let alone = audit::observe(&apis[0], &ids, PATIENCE).await.context("what the dead one held is not taken over")?;
    other.process.start_again()?;
    let again = audit::observe(&other.api(TENANT), &ids, PATIENCE).await?;
    audit::none(&audit::unlike(&alone, &again))
}
