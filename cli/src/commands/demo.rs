//! `memori demo`: the whole way on bundled conversations, in a temporary folder that is removed at the end.

use std::collections::BTreeMap;
use std::time::Instant;

use memori_service::{ProcessError, Secret, Settings, Shutdown};
use serde_json::{Value, json};

use super::recall::render;
use crate::client::{Client, ClientFlags, segment};
use crate::output::{say, table};
use memori_embedded::Embedded;

/// Written for this project; several users, several languages.
const CONVERSATIONS: &str = include_str!("../../demo/conversations.jsonl");

/// What is asked, of whom.
const QUESTIONS: [(&str, &str); 6] = [
    ("alice", "did she move?"),
    ("alice", "what is Alice allergic to?"),
    ("ben", "which language does he use for firmware?"),
    ("sofía", "¿cuál es su plato favorito?"),
    ("小美", "她住在哪里？"),
    ("jonas", "Wo arbeitet Jonas?"),
];

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Show it on this Postgres database instead; what is shown stays there, under the tenant `default`.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

pub(crate) async fn run(mut settings: Settings, flags: Flags) -> Result<(), ProcessError> {
    let folder = tempfile::tempdir().map_err(|e| ProcessError::Failed(format!("no temporary folder: {e}")))?;
    settings.embedded.data_dir = Some(folder.path().to_owned());
    // Never one that is only configured: a demo leaves its conversations behind.
    settings.embedded.database_url = flags.database.map(Secret::new);
    let needs = if settings.embedded.database_url.is_some() { "no server but your Postgres" } else { "no server" };
    settings.ingest.spool_dir = None;
    settings.ingest.listen.set_port(0);
    settings.auth.keys_file = None;
    let shutdown = Shutdown::new(std::time::Duration::from_millis(settings.shutdown.deadline_ms));
    let started = Instant::now();
    let Some(system) = Embedded::start(settings, shutdown.clone()).await? else { return Ok(()) };
    let url = format!("http://{}", system.address());
    say(format!(
        "\n1. The whole system is up in this process after {} ms, at {url}: {needs}, no key, no model.\n",
        started.elapsed().as_millis()
    ));
    let client = Client::new(&ClientFlags { url, key: None })?;
    let shown = show(&client).await;
    let stopped = system.stop().await;
    shown.and(stopped)
}

async fn show(client: &Client) -> Result<(), ProcessError> {
    let events: Vec<Value> = CONVERSATIONS
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|e| ProcessError::Failed(format!("the bundled conversations: {e}")))?;
    let sent = Instant::now();
    let answer = client.post("/v1/events/batch", &json!({ "events": events })).await?;
    let ids: Vec<String> =
        answer["results"].as_array().into_iter().flatten().filter_map(|r| r["event_id"].as_str().map(str::to_owned)).collect();
    let accepted_ms = sent.elapsed().as_millis();
    if !super::ingest::wait(client, &ids, 60).await? {
        return Err(ProcessError::Failed("the events were not applied within 60 s".into()));
    }
    say(format!(
        "2. {} conversation events were durable in the log after {accepted_ms} ms, and augmented, written and recallable after {} ms.\n",
        ids.len(),
        sent.elapsed().as_millis()
    ));

    let mut entities: BTreeMap<String, ()> = BTreeMap::new();
    for event in &events {
        entities.insert(event["entity_id"].as_str().unwrap_or_default().to_owned(), ());
    }
    say("3. What was learned, with its evidence:");
    for entity in entities.keys() {
        let listing = client.get(&format!("/v1/entities/{}/facts?limit=100", segment(entity))).await?;
        let rows: Vec<Vec<String>> = listing["facts"].as_array().into_iter().flatten().map(learned_row).collect();
        say(format!("\n   {entity}"));
        say(table(&["kind", "fact", "holds", "said", "evidence"], &rows));
    }

    say("\n4. Recall:");
    for (entity, query) in QUESTIONS {
        let answer = client.post("/v1/recall", &json!({"entity_id": entity, "query": query, "limit": 2})).await?;
        say(format!("\n   {entity}: {query}   ({} ms in the service)", answer["took_ms"]));
        say(render(&answer));
    }
    say("\nNext: `make run` leaves it up on http://127.0.0.1:7700. Then, in another terminal:\n");
    say("   target/debug/memori ingest cli/demo/conversations.jsonl --wait");
    say("   target/debug/memori recall alice 'where does she live?' --superseded");
    say("   curl -s localhost:7700/v1/entities/alice/export");
    say("\nOn your own Kafka and Postgres: docs/running-on-kafka-and-postgres.md");
    Ok(())
}

fn learned_row(fact: &Value) -> Vec<String> {
    let text = |name: &str| fact[name].as_str().unwrap_or_default().to_owned();
    let day = |name: &str| text(name).chars().take(10).collect::<String>();
    let holds = if fact["valid_to"].is_null() { "now".to_owned() } else { format!("until {}", day("valid_to")) };
    let evidence =
        fact["sources"].as_array().into_iter().flatten().filter_map(|s| s["message_id"].as_str()).collect::<Vec<_>>().join(", ");
    vec![text("kind"), text("content"), holds, format!("{}×", fact["mentions"]), evidence]
}
