//! What a flush asks of Postgres, by the server's own account: a fixed number of statements, for any number of records, and none
//! that does not pass the points at which the tests of faults hold a flush.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, Evidence, ExtractorInfo, Fact, FactKind, FactsExtracted, Lane, Message,
    MessageVector, Micros, Role, Supplied, Vector, ids,
};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_writer::plan::intake::{self, Place};
use memori_writer::plan::{EntityBatch, EntityRef};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::{self, FlushInput, OffsetKey, OffsetMove};

const TENANT: &str = "tenant";
/// BEGIN, offsets, entities, eight reads, ten tables, offsets, COMMIT; and a few that only some flushes need.
const MOST: usize = 32;

/// A Postgres that writes down every statement of one database.
struct Written {
    servers: Servers,
    log: PathBuf,
    database: String,
    url: String,
}

impl Written {
    async fn start() -> anyhow::Result<Self> {
        let servers = tokio::task::block_in_place(Servers::start_postgres)?;
        let log = servers.folder().context("its own servers")?.join("postgres/log");
        let url = servers.fresh_database().await?;
        let (_, database) = url.rsplit_once('/').context("no database in the URL")?;
        let database = database.to_owned();
        servers.administer(&format!("ALTER DATABASE {database} SET log_statement = 'all'")).await?;
        Ok(Self { servers, log, database, url })
    }

    /// The statements so far: the server writes one down before it does it.
    fn statements(&self) -> anyhow::Result<Vec<String>> {
        let of_database = format!("] {} LOG:  ", self.database);
        let text = std::fs::read_to_string(&self.log)?;
        let told = text.lines().filter_map(|line| line.split_once(&of_database).map(|(_, told)| told.to_owned()));
        Ok(told.filter(|told| told.starts_with("statement: ") || told.starts_with("execute ")).collect())
    }
}

fn number(n: usize) -> i64 {
    i64::try_from(n).expect("few")
}

/// An event of one message, and two facts from it.
fn records(n: usize, entities: usize) -> (ConversationEvent, FactsExtracted) {
    let (entity_id, at) = (format!("user-{}", n % entities), Micros(1_770_000_000_000_000 + number(n)));
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: format!("I went to town {n}"),
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    let event = ConversationEvent {
        tenant: TENANT.to_owned(),
        content_hash: ids::content_hash(&entity_id, None, &messages, &[]),
        entity_id: entity_id.clone(),
        process_id: None,
        session_id: None,
        event_id: format!("event-{n}"),
        occurred_at: at,
        accepted_at: at,
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    };
    let vector = || Vector { model: "test@1".to_owned(), scale: 0.01, values: vec![7; 512] };
    let fact = |k: usize| Fact {
        kind: FactKind::Fact,
        text: format!("The user went to town {n} by way {k}"),
        subject: None,
        predicate: None,
        object: None,
        slot: None,
        valid_from: None,
        valid_to: None,
        confidence: 0.9,
        evidence: vec![Evidence {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(0),
            message_index: 0,
            message_id: event.shown_message_id(0),
            occurred_at: at,
        }],
        vector: Some(vector()),
    };
    let extracted = FactsExtracted {
        tenant: TENANT.to_owned(),
        entity_id,
        process_id: None,
        session_id: None,
        generation: 1,
        covers: vec![Cover {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            lane: Lane::Live,
            offset: number(n),
            origin: None,
            spooled: false,
            accepted_at: at,
            occurred_at: at,
            attempt: 0,
        }],
        facts: vec![fact(0), fact(1)],
        message_vectors: vec![MessageVector {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(0),
            message_index: 0,
            vector: vector(),
        }],
        extractor: ExtractorInfo {
            name: "builtin".to_owned(),
            version: "1".to_owned(),
            model: None,
            prompt_hash: None,
            tokens_in: 0,
            tokens_out: 0,
            cost_micros: 0,
        },
        extracted_at: at,
        key_id: None,
    };
    (event, extracted)
}

/// One flush of the events of these numbers, whose records stand from offset `from` on.
fn flush(entities: usize, numbers: Range<usize>, from: usize) -> FlushInput {
    let (next, mut batches) = (from + numbers.len(), BTreeMap::<EntityRef, EntityBatch>::new());
    for (position, n) in numbers.enumerate() {
        let (event, extracted) = records(n, entities);
        let place =
            |topic: &str| Place { lane: Lane::Live, topic_id: Arc::from(topic), partition: 0, offset: number(from + position) };
        let owner = EntityRef { tenant: TENANT.to_owned(), key: event.entity_key() };
        let batch = batches.entry(owner.clone()).or_default();
        batch.entity_id.clone_from(&event.entity_id);
        batch.copies.push(intake::event_copy(&event, &place("conversations")).expect("a storable event"));
        batch.extractions.push(intake::extraction(&owner, &extracted, &place("facts")).expect("a storable extraction"));
    }
    let moves = ["conversations", "facts"].map(|topic| OffsetMove {
        key: OffsetKey { cluster_id: Arc::from("cluster"), topic_id: Arc::from(topic), partition: 0 },
        from: number(from),
        next: number(next),
    });
    FlushInput { moves: moves.to_vec(), entities: batches.into(), unowned: Vec::new(), unsure: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_a_fixed_number_of_statements() -> anyhow::Result<()> {
    let mut counts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let written = Written::start().await?;
    for (records, entities) in [(10, 2), (1_000, 100), (5_000, 1_000)] {
        let events = records / 2;
        // The same server, another database for each size.
        let url = written.servers.fresh_database().await?;
        let (_, database) = url.rsplit_once('/').context("no database in the URL")?;
        written.servers.administer(&format!("ALTER DATABASE {database} SET log_statement = 'all'")).await?;
        let of_database = format!("] {database} LOG:  ");
        let store = PostgresStore::new(PostgresTarget::parse(&url, "statements")?.pool(1)?, &url);
        let mut seen = 0;
        let mut from = 0;
        for (kind, numbers) in
            [("first", 0..1), ("new", 1..events + 1), ("half repeated", events / 2 + 1..events + events / 2 + 1)]
        {
            let count = numbers.len();
            store::flush(&store, &flush(entities, numbers, from)).await?;
            from += count;
            let text = std::fs::read_to_string(&written.log)?;
            let told = text.lines().filter_map(|line| line.split_once(&of_database).map(|(_, told)| told));
            let all = told.filter(|told| told.starts_with("statement: ") || told.starts_with("execute ")).count();
            counts.entry(kind).or_default().push(all - seen);
            seen = all;
        }
    }
    for (kind, counts) in &counts {
        ensure!(counts.iter().all(|count| count == &counts[0] && (8..=MOST).contains(count)), "{kind}: {counts:?} statements");
    }
    tell(&format!("statements of a flush of 10, 1,000 and 5,000 records: {counts:?}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_a_flush_passes_the_failpoints() -> anyhow::Result<()> {
    let written = Written::start().await?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay-writer"));
    command.args([written.url.as_str(), "0", "1000"]).env("MEMORI_FAILPOINT", "trace");
    let output = tokio::task::block_in_place(|| command.output())?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the writer ended with {}: {told}", output.status);
    let before = told.lines().filter(|line| line.starts_with("failpoint before ")).count();
    let after = told.lines().filter(|line| line.starts_with("failpoint after ")).count();
    let statements = written.statements()?;
    ensure!(before > 100, "only {before} points");
    ensure!(
        before == statements.len() && after == before,
        "{before} statements are announced, {after} are told to be answered, and the server knows {}: {statements:#?}",
        statements.len()
    );
    Ok(())
}
