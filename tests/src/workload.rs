//! Realistic conversations from a seed: what clients would post, in the order in which each client posts it.
//!
//! Promises: the same configuration yields the same workload; every event has an id and a time of its own, so that what it
//! implies does not depend on when it is posted; an entity belongs to one client, so that its events are posted in order.
//! The same entity ids and event ids occur in several tenants, with other words.

use std::collections::BTreeMap;

use memori_schemas::Micros;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::phrases;

/// How much, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadConfig {
    /// Everything follows from it.
    pub seed: u64,
    /// Distinct events over all tenants.
    pub events: usize,
    /// Tenants, named `tenant-a`, `tenant-b`, …
    pub tenants: usize,
    /// Entities over all tenants.
    pub entities: usize,
    /// Clients per tenant that post side by side.
    pub clients_per_tenant: usize,
}

/// What the answer to a post must be when nothing fails on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The first post of this id.
    Accepted,
    /// Posted before, the same content.
    Duplicate,
    /// Breaks the contract: refused with 422.
    Invalid,
    /// Posted before with another content: 409.
    Conflict,
}

/// One event as a client posts it.
#[derive(Clone, Debug)]
pub struct Post {
    /// The JSON body.
    pub body: Value,
    /// Its answer.
    pub expect: Expect,
}

impl Post {
    /// Its idempotency key.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.body["event_id"].as_str().unwrap_or_default()
    }
}

/// One request.
#[derive(Clone, Debug)]
pub enum Step {
    /// `POST /v1/events`
    Single(Post),
    /// `POST /v1/events/batch` as JSON.
    Batch(Vec<Post>),
    /// `POST /v1/events/batch` as NDJSON.
    Ndjson(Vec<Post>),
}

impl Step {
    /// The events of the request.
    #[must_use]
    pub fn posts(&self) -> &[Post] {
        match self {
            Self::Single(post) => std::slice::from_ref(post),
            Self::Batch(posts) | Self::Ndjson(posts) => posts,
        }
    }
}

/// Requests that are sent one after the other.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whose key it uses.
    pub tenant: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// Everything that is posted.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it came from.
    pub config: WorkloadConfig,
    /// The tenants' names.
    pub tenants: Vec<String>,
    /// They post side by side.
    pub clients: Vec<Client>,
}

/// `tenant-a`, `tenant-b`, …
#[must_use]
pub fn tenant_name(index: usize) -> String {
    format!("tenant-{}", char::from(b'a' + u8::try_from(index % 26).unwrap_or(0)))
}

/// Entity ids that look alike and are not: in each tenant, the first ones are these.
pub const LOOKALIKE_ENTITIES: [&str; 8] =
    ["1", "001", "１", "alice@example.com", "Alice@example.com", "a/b c?%2F", "用户-7", "Zoë"];

fn entity_id(index: usize) -> String {
    LOOKALIKE_ENTITIES.get(index).map_or_else(|| format!("user-{index:04}"), |id| (*id).to_owned())
}

/// Event ids are unique per tenant, and the same in each; now and then one that needs escaping in a path.
fn event_id(tenant_counter: usize) -> String {
    if tenant_counter % 41 == 7 { format!("turn/{tenant_counter} ü#?") } else { format!("evt-{tenant_counter:06}") }
}

/// 2026-01-05T08:00:00Z, in microseconds.
const START_US: i64 = 1_767_600_000_000_000;
const SECOND_US: i64 = 1_000_000;

/// One person's conversations, as they grow.
struct Person {
    entity_id: String,
    word: String,
    language: usize,
    clock_us: i64,
    processes: Vec<Option<String>>,
    named_sessions: bool,
    session: usize,
    people: Vec<Option<String>>,
    history: Vec<Value>,
    message_ids: bool,
    messages_sent: usize,
}

impl Person {
    fn new(rng: &mut StdRng, tenant: usize, index: usize) -> Self {
        let processes = match rng.random_range(0..4) {
            0 => vec![None],
            1 => vec![Some("support-bot".to_owned())],
            2 => vec![Some("support-bot".to_owned()), Some("旅行-bot".to_owned())],
            _ => vec![None, Some("support-bot".to_owned())],
        };
        let people = match rng.random_range(0..5) {
            0 => vec![Some("Ana".to_owned()), Some("Boris".to_owned())],
            1 => vec![Some("Mia".to_owned())],
            _ => vec![None],
        };
        Self {
            entity_id: entity_id(index),
            word: format!("{}{index}", phrases::WORDS[(index * 7 + tenant * 3) % phrases::WORDS.len()]),
            language: rng.random_range(0..phrases::LANGUAGES.len()),
            clock_us: START_US + rng.random_range(0..86_400) * SECOND_US,
            processes,
            named_sessions: rng.random_bool(0.5),
            session: 0,
            people,
            history: Vec::new(),
            message_ids: rng.random_bool(0.5),
            messages_sent: 0,
        }
    }

    /// The next event: usually a few minutes later, sometimes hours, now and then earlier or at the same instant.
    fn next_event(&mut self, rng: &mut StdRng, event_id: &str) -> Value {
        let occurred_us = match rng.random_range(0..20) {
            0 => self.clock_us - rng.random_range(1..40_000) * SECOND_US,
            1 => self.clock_us,
            2 | 3 => {
                self.session += 1;
                self.history.clear();
                self.clock_us += rng.random_range(2_000..90_000) * SECOND_US;
                self.clock_us
            }
            _ => {
                self.clock_us += rng.random_range(5..600) * SECOND_US + rng.random_range(0..SECOND_US);
                self.clock_us
            }
        };
        let mut messages: Vec<Value> = Vec::new();
        // A client that names its messages sends the end of the conversation again.
        if self.message_ids && !self.history.is_empty() && rng.random_bool(0.4) {
            let again = rng.random_range(1..=self.history.len().min(3));
            messages.extend_from_slice(&self.history[self.history.len() - again..]);
        }
        for _ in 0..rng.random_range(1..=2) {
            let user = self.user_message(rng);
            messages.push(user.clone());
            if rng.random_bool(0.7) {
                messages.push(self.reply(rng, &user));
            }
        }
        for message in &messages {
            if message.get("message_id").is_some() && !self.history.contains(message) {
                self.history.push(message.clone());
            }
        }
        let mut event = json!({
            "event_id": event_id,
            "entity_id": self.entity_id,
            "occurred_at": Micros(occurred_us).to_rfc3339(),
            "messages": messages,
        });
        if let Some(process) = &self.processes[rng.random_range(0..self.processes.len())] {
            event["process_id"] = json!(process);
        }
        if self.named_sessions {
            event["session_id"] = json!(format!("chat-{}", self.session));
        }
        if rng.random_bool(0.2) {
            event["metadata"] =
                json!({"zone": "eu", "channel": *["web", "mail", "звонок"].choose(rng).expect("not empty"), "a": ""});
        }
        event
    }

    fn message(&mut self, rng: &mut StdRng, role: &str, content: Value, name: Option<&str>) -> Value {
        let mut message = json!({"role": role, "content": content});
        if self.message_ids {
            message["message_id"] = json!(format!("m-{}", self.messages_sent));
        }
        self.messages_sent += 1;
        if let Some(name) = name {
            message["name"] = json!(name);
        }
        if rng.random_bool(0.1) {
            message["created_at"] = json!(Micros(self.clock_us - 3 * SECOND_US).to_rfc3339());
        }
        message
    }

    fn user_message(&mut self, rng: &mut StdRng) -> Value {
        // Most people keep to one language; some switch.
        let language = if rng.random_bool(0.1) { rng.random_range(0..phrases::LANGUAGES.len()) } else { self.language };
        let sentences: Vec<String> = (0..rng.random_range(1..=3)).map(|_| phrases::sentence(rng, language, &self.word)).collect();
        let text = sentences.join(if phrases::LANGUAGES[language].spaced { " " } else { "" });
        let content = match rng.random_range(0..12) {
            0 => {
                json!([{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])
            }
            1 => json!(format!("{}{text}", phrases::RECALLED_BLOCK)),
            _ => json!(text),
        };
        let name = self.people.choose(rng).cloned().flatten();
        self.message(rng, "user", content, name.as_deref())
    }

    fn reply(&mut self, rng: &mut StdRng, user: &Value) -> Value {
        match rng.random_range(0..6) {
            0 => {
                let order = rng.random_range(1..9_999);
                self.message(rng, "tool", json!(format!("{{\"order\": {order}, \"state\": \"shipped\"}}")), None)
            }
            1 => self.message(rng, "system", json!("You are a helpful assistant."), None),
            // An echo of the user's words must not become a mention.
            2 | 3 if user["content"].is_string() => {
                let echo = user["content"].as_str().unwrap_or_default().replace(phrases::RECALLED_BLOCK, "");
                self.message(rng, "assistant", json!(echo), None)
            }
            _ => self.message(rng, "assistant", json!("Thanks, noted. Anything else I can do for you?"), None),
        }
    }
}

/// Makes the workload of `config`.
///
/// # Panics
/// Where a count is zero.
#[must_use]
pub fn generate(config: WorkloadConfig) -> Workload {
    assert!(config.tenants > 0 && config.entities >= config.tenants && config.clients_per_tenant > 0);
    let tenants: Vec<String> = (0..config.tenants).map(tenant_name).collect();
    let mut clients = Vec::new();
    for (tenant_index, tenant) in tenants.iter().enumerate() {
        let mut rng = StdRng::seed_from_u64(config.seed.wrapping_mul(1_000_003).wrapping_add(tenant_index as u64));
        let entities = config.entities / config.tenants + usize::from(tenant_index < config.entities % config.tenants);
        let events = config.events / config.tenants + usize::from(tenant_index < config.events % config.tenants);
        let mut people: Vec<Person> = (0..entities).map(|index| Person::new(&mut rng, tenant_index, index)).collect();
        let mut posts: Vec<Vec<Post>> = vec![Vec::new(); config.clients_per_tenant];
        // Everybody speaks at least once; then the talkative speak more.
        let mut turns: Vec<usize> = (0..events)
            .map(|n| if n < entities { n } else { rng.random_range(0..entities).min(rng.random_range(0..entities)) })
            .collect();
        turns.shuffle(&mut rng);
        for (counter, entity) in turns.into_iter().enumerate() {
            let body = people[entity].next_event(&mut rng, &event_id(counter));
            let mine = &mut posts[entity % config.clients_per_tenant];
            mine.push(Post { body, expect: Expect::Accepted });
            extras(&mut rng, mine);
        }
        for posts in posts {
            clients.push(Client { tenant: tenant.clone(), steps: into_steps(&mut rng, posts) });
        }
    }
    Workload { config, tenants, clients }
}

/// Duplicates, conflicts and broken events, after the event that they repeat.
fn extras(rng: &mut StdRng, posts: &mut Vec<Post>) {
    let accepted: Vec<usize> =
        (posts.len().saturating_sub(40)..posts.len()).filter(|i| posts[*i].expect == Expect::Accepted).collect();
    let Some(index) = accepted.choose(rng) else { return };
    let mut body = posts[*index].body.clone();
    match rng.random_range(0..100) {
        0..=6 => posts.push(Post { body, expect: Expect::Duplicate }),
        7..=9 => {
            // A re-sent event without its time is a duplicate too.
            body.as_object_mut().expect("an event is an object").remove("occurred_at");
            posts.push(Post { body, expect: Expect::Duplicate });
        }
        10..=12 => {
            body["messages"][0]["content"] = json!("My favourite number is another one than I said.");
            posts.push(Post { body, expect: Expect::Conflict });
        }
        13..=14 => {
            body["event_id"] = json!(format!("{}-broken", posts[*index].event_id()));
            match rng.random_range(0..4) {
                0 => body["entity_id"] = json!(""),
                1 => body["messages"] = json!([]),
                2 => body["messages"][0]["role"] = json!("robot"),
                _ => body["surprise"] = json!(true),
            }
            posts.push(Post { body, expect: Expect::Invalid });
        }
        _ => {}
    }
}

fn into_steps(rng: &mut StdRng, posts: Vec<Post>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut posts = posts.into_iter().peekable();
    while posts.peek().is_some() {
        let shape = rng.random_range(0..10);
        let size = rng.random_range(2..=12);
        let step = match shape {
            0 => Step::Batch(posts.by_ref().take(size).collect()),
            1 => Step::Ndjson(posts.by_ref().take(size).collect()),
            _ => Step::Single(posts.next().expect("peeked")),
        };
        steps.push(step);
    }
    steps
}

impl Workload {
    /// The accepted events of each tenant by id, first posts only.
    #[must_use]
    pub fn accepted(&self) -> BTreeMap<(String, String), Value> {
        self.clients
            .iter()
            .flat_map(|client| client.steps.iter().flat_map(Step::posts).map(|post| (&client.tenant, post)))
            .filter(|(_, post)| post.expect == Expect::Accepted)
            .map(|(tenant, post)| ((tenant.clone(), post.event_id().to_owned()), post.body.clone()))
            .collect()
    }

    /// The number of requests.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.clients.iter().map(|client| client.steps.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: WorkloadConfig = WorkloadConfig { seed: 11, events: 600, tenants: 3, entities: 60, clients_per_tenant: 2 };

    #[test]
    fn the_same_seed_is_the_same_workload_and_another_is_not() {
        let text = |config| format!("{:?}", generate(config).clients);
        assert_eq!(text(CONFIG), text(CONFIG));
        assert_ne!(text(CONFIG), text(WorkloadConfig { seed: 12, ..CONFIG }));
    }

    #[test]
    fn it_has_all_that_a_client_may_do() {
        let workload = generate(CONFIG);
        assert_eq!(workload.accepted().len(), 600);
        let count = |expect| {
            workload.clients.iter().flat_map(|c| &c.steps).flat_map(Step::posts).filter(|post| post.expect == expect).count()
        };
        for expect in [Expect::Duplicate, Expect::Conflict, Expect::Invalid] {
            assert!(count(expect) > 3, "{expect:?}: {}", count(expect));
        }
        assert!(workload.clients.iter().flat_map(|c| &c.steps).any(|s| matches!(s, Step::Batch(p) if p.len() > 1)));
        assert!(workload.clients.iter().flat_map(|c| &c.steps).any(|s| matches!(s, Step::Ndjson(p) if p.len() > 1)));
        let entities: std::collections::BTreeSet<_> = workload
            .accepted()
            .iter()
            .map(|((tenant, _), body)| (tenant.clone(), body["entity_id"].as_str().unwrap_or_default().to_owned()))
            .collect();
        assert_eq!(entities.len(), 60);
    }

    #[test]
    fn the_same_ids_mean_other_words_in_another_tenant() {
        let accepted = generate(CONFIG).accepted();
        let of = |tenant: &str| accepted.get(&(tenant.to_owned(), "evt-000000".to_owned())).cloned();
        assert!(of("tenant-a").is_some() && of("tenant-b").is_some());
        assert_ne!(of("tenant-a"), of("tenant-b"));
    }
}
