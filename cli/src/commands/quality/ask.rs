//! Asks every question, and keeps of the answers what measuring needs.
//!
//! Each question is asked as a bot asks it (ten of each, timed), once for the whole ranking, and once per token budget.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use memori_service::ProcessError;
use serde_json::{Value, json};

use super::format::{Data, Question};
use super::load::entity_id;
use super::measure::without_digests;
use crate::client::Client;
use crate::output::aside;

/// Items of the answer that is timed.
pub(super) const TIMED_LIMIT: usize = 10;
/// Items of the whole ranking; the contract's most.
const WHOLE_LIMIT: usize = 1_000;
/// Items that a budget may be spent on.
const BUDGET_LIMIT: usize = 100;
/// Instructions per question: the API's default.
pub(super) const INSTRUCTION_LIMIT: usize = 3;

/// How to ask.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) prefix: String,
    pub(super) lexical: bool,
    pub(super) ablations: bool,
    pub(super) budgets: Vec<u64>,
}

/// One item of a ranking: a message, or a fact with its sources.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    pub(super) kind: String,
    pub(super) text: String,
    /// The message itself, or the messages that a fact rests on.
    pub(super) messages: Vec<String>,
    pub(super) sessions: Vec<String>,
    pub(super) at: String,
    pub(super) score: f64,
    /// With `explain`: the score's parts.
    pub(super) parts: BTreeMap<String, f64>,
}

/// The whole ranking of one question.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking {
    pub(super) messages: Vec<Item>,
    pub(super) facts: Vec<Item>,
    pub(super) instructions: Vec<Item>,
}

/// The messages that fit a budget, by what it was spent on.
#[derive(Clone, Debug, Default)]
pub(super) struct Fitting {
    pub(super) budget: u64,
    pub(super) by_facts: HashSet<String>,
    pub(super) by_messages: HashSet<String>,
    pub(super) by_both: HashSet<String>,
}

/// What came back for one question.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) whole: Ranking,
    /// The same asked with `vectors: false`, for ablations.
    pub(super) lexical: Option<Ranking>,
    pub(super) fitting: Vec<Fitting>,
    /// The first question of an entity finds nothing cached.
    pub(super) is_first: bool,
    pub(super) client_time: Duration,
    pub(super) took_ms: f64,
    /// What the answer says about its recipe.
    pub(super) recipe: Value,
}

/// Asks all questions, one after the other.
pub(super) async fn all(client: &Client, asking: &Asking, data: &Data) -> Result<Vec<Found>, ProcessError> {
    let mut known = HashSet::new();
    let mut found = Vec::with_capacity(data.questions.len());
    for (n, question) in data.questions.iter().enumerate() {
        let is_first = known.insert(question.entity_id.as_str());
        found.push(Found { is_first, ..one(client, asking, question).await? });
        if (n + 1) % 50 == 0 {
            aside(format!("{} of {} questions are asked", n + 1, data.questions.len()));
        }
    }
    Ok(found)
}

async fn one(client: &Client, asking: &Asking, question: &Question) -> Result<Found, ProcessError> {
    let mut body = json!({
        "entity_id": entity_id(&asking.prefix, &question.entity_id), "query": question.text, "limit": TIMED_LIMIT,
        "instruction_limit": INSTRUCTION_LIMIT, "include_messages": true,
    });
    if let Some(as_of) = &question.as_of {
        body["as_of"] = json!(as_of);
    }
    if asking.lexical {
        body["vectors"] = json!(false);
    }
    let sent = Instant::now();
    let timed = client.post("/v1/recall", &body).await?;
    let client_time = sent.elapsed();

    body["limit"] = json!(WHOLE_LIMIT);
    body["explain"] = json!(true);
    let whole = client.post("/v1/recall", &body).await?;
    let lexical = if asking.ablations {
        body["vectors"] = json!(false);
        Some(ranking(&client.post("/v1/recall", &body).await?))
    } else {
        None
    };
    if asking.ablations && !asking.lexical {
        body.as_object_mut().map(|fields| fields.remove("vectors"));
    }
    body.as_object_mut().map(|fields| fields.remove("explain"));
    Ok(Found {
        whole: ranking(&whole),
        lexical,
        fitting: fitting(client, asking, body).await?,
        is_first: false,
        client_time,
        took_ms: timed["took_ms"].as_f64().unwrap_or_default(),
        recipe: whole["ranking"].clone(),
    })
}

async fn fitting(client: &Client, asking: &Asking, mut body: Value) -> Result<Vec<Fitting>, ProcessError> {
    body["limit"] = json!(BUDGET_LIMIT);
    let mut queries = Vec::new();
    for budget in &asking.budgets {
        body["token_budget"] = json!(budget);
        let mut facts = body.clone();
        facts["include_messages"] = json!(false);
        let mut messages = body.clone();
        messages["kinds"] = json!([]);
        queries.extend([facts, messages, body.clone()]);
    }
    let mut fitting = Vec::new();
    if queries.is_empty() {
        return Ok(fitting);
    }
    let answer = client.post("/v1/recall/batch", &json!({ "queries": queries })).await?;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    if let Some(refused) = results.iter().find(|result| !result["error"].is_null()) {
        return Err(ProcessError::Failed(format!("a query with a token budget was refused: {}", refused["error"])));
    }
    for (budget, of_it) in asking.budgets.iter().zip(results.chunks(3)) {
        let covered = |n: usize| {
            let ranking = of_it.get(n).map(ranking).unwrap_or_default();
            let facts = without_digests(&ranking.facts);
            ranking.messages.into_iter().chain(facts).flat_map(|item| item.messages).collect()
        };
        fitting.push(Fitting { budget: *budget, by_facts: covered(0), by_messages: covered(1), by_both: covered(2) });
    }
    Ok(fitting)
}

/// An answer of `/v1/recall` as rankings.
pub(super) fn ranking(answer: &Value) -> Ranking {
    let items = |name: &str, item: fn(&Value) -> Item| answer[name].as_array().into_iter().flatten().map(item).collect();
    Ranking { messages: items("messages", message), facts: items("facts", fact), instructions: items("instructions", fact) }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn base(value: &Value, kind: String) -> Item {
    let parts = value["score_parts"].as_object().into_iter().flatten();
    Item {
        kind,
        text: text(value, "content"),
        at: text(value, "occurred_at"),
        score: value["score"].as_f64().unwrap_or_default(),
        parts: parts.filter_map(|(name, part)| Some((name.clone(), part.as_f64()?))).collect(),
        ..Item::default()
    }
}

fn message(value: &Value) -> Item {
    Item {
        messages: vec![text(value, "message_id")],
        sessions: vec![text(value, "session_id")],
        ..base(value, text(value, "role"))
    }
}

fn fact(value: &Value) -> Item {
    let of = |name: &str| value["sources"].as_array().into_iter().flatten().map(|source| text(source, name)).collect();
    Item { messages: of("message_id"), sessions: of("session_id"), ..base(value, text(value, "kind")) }
}
