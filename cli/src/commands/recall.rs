//! `memori recall ENTITY QUERY`: what is known.

use memori_service::ProcessError;
use serde_json::{Value, json};

use crate::client::{Client, ClientFlags};
use crate::output::{say, table};

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Whom it is about: the entity's id.
    entity: String,
    /// What is asked.
    query: String,
    /// Facts (and messages) at most.
    #[arg(long, default_value_t = 5)]
    limit: u32,
    /// What was said, too.
    #[arg(long)]
    messages: bool,
    /// What held at that time (RFC 3339).
    #[arg(long)]
    as_of: Option<String>,
    /// Facts that no longer hold, too.
    #[arg(long)]
    superseded: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let body = json!({
        "entity_id": flags.entity, "query": flags.query, "limit": flags.limit, "include_messages": flags.messages,
        "as_of": flags.as_of, "include_superseded": flags.superseded,
    });
    let answer = Client::new(&flags.client)?.post("/v1/recall", &body).await?;
    say(if flags.json { answer.to_string() } else { render(&answer) });
    Ok(())
}

/// An answer of `/v1/recall` for people.
pub(crate) fn render(answer: &Value) -> String {
    let mut parts = Vec::new();
    let items = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let fact_rows: Vec<Vec<String>> = items("facts").iter().map(fact_row).collect();
    if fact_rows.is_empty() {
        parts.push("   nothing is known".to_owned());
    } else {
        parts.push(table(&["score", "fact", "said", "evidence"], &fact_rows));
    }
    let instructions: Vec<String> =
        items("instructions").iter().map(|i| format!("   standing instruction: {}", text(i, "content"))).collect();
    parts.extend(instructions);
    let message_rows: Vec<Vec<String>> = items("messages")
        .iter()
        .map(|m| {
            vec![
                format!("{:.2}", m["score"].as_f64().unwrap_or_default()),
                text(m, "role"),
                text(m, "content"),
                text(m, "occurred_at"),
            ]
        })
        .collect();
    if !message_rows.is_empty() {
        parts.push(table(&["score", "role", "message", "at"], &message_rows));
    }
    parts.join("\n")
}

fn fact_row(fact: &Value) -> Vec<String> {
    let sources = fact.get("sources").and_then(Value::as_array).cloned().unwrap_or_default();
    let first = sources.first().map(|s| text(s, "message_id")).unwrap_or_default();
    let more = if sources.len() > 1 { format!(" +{}", sources.len() - 1) } else { String::new() };
    vec![
        format!("{:.2}", fact["score"].as_f64().unwrap_or_default()),
        text(fact, "content"),
        text(fact, "occurred_at").chars().take(10).collect(),
        format!("{first}{more}"),
    ]
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
