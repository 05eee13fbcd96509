//! With a schema registry: what is on the log is in its wire format and can be read by whoever knows the registry alone; what was written
//! without one is read beside it; a subject that somebody else's schema stands in is refused at the start, by name.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use apache_avro::types::Value as Avro;
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Log, LogRecord, NewRecord, Topic, TopicPartition};
use memori_schemas::framing;
use memori_schemas::{ConversationEvent, LogRecordBody, ids};
use memori_tests::distributed::Distributed;
use memori_tests::process::binary;
use memori_tests::registry::Registry;
use memori_tests::servers::Servers;
use reqwest::StatusCode;
use schema_registry_converter::async_impl::avro::AvroDecoder;
use schema_registry_converter::async_impl::schema_registry::SrSettings;
use serde_json::{Value, json};

const TENANT: &str = "acme";

/// Everything of a topic, as it lies there.
async fn all(log: &KafkaLog, topic: Topic) -> anyhow::Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    for partition in 0..log.identity().await?.partitions {
        let source = TopicPartition { topic, partition };
        let (start, end) = log.watermarks(source).await?;
        records.extend(log.read(source, start, usize::try_from(end - start)?).await?);
    }
    Ok(records)
}

async fn say(http: &reqwest::Client, method: reqwest::Method, url: &str, body: Value) -> anyhow::Result<StatusCode> {
    Ok(http.request(method, url).json(&body).send().await?.status())
}

/// Somebody else's schema under the name of one of ours, and a front door that starts on it.
async fn a_foreign_schema_is_refused(servers: &Servers, registry: &Registry) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let subject = format!("{}/subjects/memori.Flush", registry.url());
    let foreign =
        json!({"type": "record", "name": "Flush", "namespace": "memori", "fields": [{"name": "surprise", "type": "int"}]});
    let made = say(&http, reqwest::Method::POST, &format!("{subject}/versions"), json!({"schema": foreign.to_string()})).await?;
    ensure!(made.is_success(), "the foreign schema: {made}");
    let prefix = servers.fresh_prefix();
    let env = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &prefix),
        ("MEMORI__REGISTRY__URL", registry.url()),
        ("MEMORI__INGEST__LISTEN", "127.0.0.1:0"),
        ("MEMORI__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let mut command = Command::new(binary("memori-ingest")?);
    command.env_clear().envs(env).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{}: {told}", output.status);
    for word in ["memori.Flush", "BACKWARD", "registry.url"] {
        ensure!(told.contains(word), "it does not tell of {word}: {told}");
    }
    let removed = say(&http, reqwest::Method::DELETE, &subject, json!({})).await?;
    ensure!(removed.is_success(), "the subject stays: {removed}");
    let _ = say(&http, reqwest::Method::DELETE, &format!("{subject}?permanent=true"), json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_in_the_registrys_format_and_older_records_are_read() -> anyhow::Result<()> {
    let servers = Servers::shared()?;
    let registry = tokio::task::spawn_blocking(Registry::start).await??;
    a_foreign_schema_is_refused(servers, &registry).await?;

    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[("MEMORI__REGISTRY__URL", registry.url())]).await?;
    let api = shape.api(TENANT);
    let event =
        json!({"event_id": "by-the-door", "entity_id": "alice", "messages": [{"role": "user", "content": "I like amber tea."}]});
    ensure!(api.post("/v1/events", &event).await?.status == StatusCode::ACCEPTED, "an event is refused");
    api.wait_final(&["by-the-door".to_owned()], Duration::from_secs(120)).await?;

    // As it was written before there was a registry: the same record under another id, in our own framing.
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &shape.prefix)).await?;
    let conversations = all(&log, Topic::ConversationsLive).await?;
    let ours = conversations.first().context("no conversation on the log")?;
    ensure!(ours.payload[0] == 0, "not in the registry's wire format: {:?}", &ours.payload[..8]);
    let decoder = AvroDecoder::new(SrSettings::new(registry.url().to_owned()));
    let read = decoder.decode(Some(&ours.payload)).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let Avro::Record(fields) = &read.value else { anyhow::bail!("not a record: {:?}", read.value) };
    ensure!(fields.iter().any(|(name, value)| name == "tenant" && *value == Avro::String(TENANT.to_owned())), "{fields:?}");
    ensure!(framing::decode(&ours.payload).is_err(), "the registry's framing is read without the registry");

    let older = ConversationEvent { event_id: "from-before".to_owned(), ..as_ours(&read.value)? };
    let payload = framing::encode(&LogRecordBody::Conversation(older))?;
    ensure!(payload[0] == 0xC3);
    let key = ids::log_key(TENANT, "alice").into();
    let record = NewRecord { topic: Topic::ConversationsLive, key, payload: payload.into(), headers: Vec::new() };
    log.producer().append(&[record], None).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let since = Instant::now();
    loop {
        let status = api.event("from-before").await?.map(|event| event["status"].clone());
        if status == Some(json!("applied")) {
            break;
        }
        ensure!(since.elapsed() < Duration::from_secs(120), "an older record is {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let facts = all(&log, Topic::FactsLive).await?;
    ensure!(facts.len() >= 2 && facts.iter().all(|record| record.payload[0] == 0), "facts are not in the registry's wire format");
    let erased = api.delete("/v1/entities/alice").await?;
    ensure!(erased.status == StatusCode::ACCEPTED, "{}: {}", erased.status, erased.body);
    let receipt = format!("/v1/erasures/{}", erased.body["erasure_id"].as_str().context("a receipt")?);
    let since = Instant::now();
    while api.get(&receipt).await?.body["status"] != "applied" {
        ensure!(since.elapsed() < Duration::from_secs(120), "a deletion is not applied");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let controls = all(&log, Topic::Controls).await?;
    ensure!(controls.len() == 1 && controls[0].payload[0] == 0, "a control is not in the registry's wire format");
    Ok(())
}

fn as_ours(value: &Avro) -> anyhow::Result<ConversationEvent> {
    Ok(apache_avro::from_value(value)?)
}
