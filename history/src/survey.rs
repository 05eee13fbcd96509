//! What a look at a source finds: how much there is of what, and what its extraction by a model would cost.

use std::collections::HashSet;

use memori_service::tokens;
use serde_json::Value;

/// Distinct names are counted one by one up to so many; the count stops there.
pub const MOST_DISTINCT: usize = 1 << 20;

/// Tokens of our own prompt in a call, and of what is known about a person: about what a call costs beside its conversation.
const PROMPT_TOKENS: u64 = 3_500;
/// Tokens that a call answers, about.
const ANSWER_TOKENS: u64 = 400;

/// What one event is worth to a survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    entity: u64,
    session: u64,
    messages: u64,
    tokens: u64,
}

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    entities: HashSet<u64>,
    sessions: HashSet<u64>,
    /// Events.
    pub events: u64,
    /// Their messages.
    pub messages: u64,
    /// Their words, in estimated tokens.
    pub tokens: u64,
    /// Windows, as a worker gathers them by default: what is extracted in one call.
    pub windows: u64,
    open: Option<Window>,
}

/// The window that the last event stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    session: u64,
    events: u64,
    messages: u64,
    tokens: u64,
}

fn hash(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
    }
    u64::from_be_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap_or_default())
}

fn text_tokens(content: &Value) -> usize {
    match content {
        Value::String(text) => tokens::quarters(text),
        Value::Array(parts) => parts.iter().map(text_tokens).sum(),
        Value::Object(part) => part.get("text").map_or(0, text_tokens),
        _ => 0,
    }
}

impl Survey {
    /// What an event is worth.
    #[must_use]
    pub fn of(event: &Value) -> Seen {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let messages = event["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let quarters: usize = messages.iter().map(|message| text_tokens(&message["content"])).sum();
        Seen {
            entity: hash(&[text("entity_id")]),
            session: hash(&[text("entity_id"), text("process_id"), text("session_id")]),
            messages: messages.len() as u64,
            tokens: quarters.div_ceil(4) as u64,
        }
    }

    /// Counts an event.
    pub fn add(&mut self, seen: &Seen) {
        for (set, key) in [(&mut self.entities, seen.entity), (&mut self.sessions, seen.session)] {
            if set.len() < MOST_DISTINCT {
                set.insert(key);
            }
        }
        self.events += 1;
        self.messages += seen.messages;
        self.tokens += seen.tokens;
        let joins = self.open.is_some_and(|open| {
            open.session == seen.session
                && open.events < 8
                && open.messages + seen.messages <= 24
                && open.tokens + seen.tokens <= 3_000
        });
        if !joins {
            self.windows += 1;
            self.open = Some(Window { session: seen.session, events: 0, messages: 0, tokens: 0 });
        }
        if let Some(open) = &mut self.open {
            open.events += 1;
            open.messages += seen.messages;
            open.tokens += seen.tokens;
        }
    }

    /// Counts what another counted behind this one.
    pub fn join(&mut self, other: &Self) {
        for (set, more) in [(&mut self.entities, &other.entities), (&mut self.sessions, &other.sessions)] {
            for key in more {
                if set.len() < MOST_DISTINCT {
                    set.insert(*key);
                }
            }
        }
        self.events += other.events;
        self.messages += other.messages;
        self.tokens += other.tokens;
        self.windows += other.windows;
    }

    /// Distinct entities; at [`MOST_DISTINCT`] there are at least so many.
    #[must_use]
    pub fn entities(&self) -> usize {
        self.entities.len()
    }

    /// Distinct sessions, as [`Survey::entities`].
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Tokens that a model would read and write, about.
    #[must_use]
    pub fn model_tokens(&self) -> (u64, u64) {
        (self.tokens + self.windows * PROMPT_TOKENS, self.windows * ANSWER_TOKENS)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn windows_end_with_the_session_and_at_their_bounds() {
        let event = |session: &str| json!({"entity_id": "a", "session_id": session, "messages": [{"content": "abcd"}, {"content": [{"text": "abcd"}]}]});
        let mut survey = Survey::default();
        for session in ["s"; 9].iter().chain(&["t"; 2]) {
            survey.add(&Survey::of(&event(session)));
        }
        assert_eq!((survey.events, survey.messages, survey.tokens, survey.windows), (11, 22, 22, 3));
        assert_eq!((survey.entities(), survey.sessions()), (1, 2));
        let mut joined = survey.clone();
        joined.join(&survey);
        assert_eq!((joined.events, joined.sessions(), joined.windows), (22, 2, 6));
    }
}
