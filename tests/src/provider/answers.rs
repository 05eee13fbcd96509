//! What the double says when it answers well: plausible facts from the conversation's text, by rules that a test can repeat.
//!
//! A conversation is shown to it as one JSON document on a line of its own in a message of role `user`, with `messages` that have
//! `number`, `role`, `speaker` and `text`, and with what is `known`: what is said of that again it names by number. A request that shows none gets a sentence, or the JSON that its last message asks for.

use serde_json::{Value, json};

/// Behind "I", what ends a statement.
const NO_LONGER: &str = "no longer ";

/// A statement that the double finds in a person's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The statement.
    pub text: String,
    /// Whether it is a standing wish.
    pub is_instruction: bool,
    /// What it says about where somebody lives.
    pub lives_in: Option<String>,
}

/// What `speaker` states with `text`: sentences that begin with "I VERB", and "Always …". Sentences with a marker state nothing.
#[must_use]
pub fn facts_of(speaker: &str, text: &str) -> Vec<Found> {
    let sentences = text.split(['.', '!', '?', '\n']).map(str::trim).filter(|sentence| !sentence.contains("[["));
    let found = sentences.filter_map(|sentence| {
        if sentence.starts_with("Always ") {
            return Some(Found { text: sentence.to_owned(), is_instruction: true, lives_in: None });
        }
        let rest = sentence.strip_prefix("I ").filter(|rest| !rest.starts_with(NO_LONGER))?;
        let (verb, object) = verb_and_object(rest);
        let text = format!("{speaker} {verb} {object}").trim_end().to_owned();
        let lives_in = (verb == "lives").then(|| object.strip_prefix("in ").map(str::to_owned)).flatten();
        Some(Found { text, is_instruction: false, lives_in })
    });
    found.collect()
}

/// What a person's words end: sentences that begin with "I no longer VERB", as the statement that held.
#[must_use]
pub fn ended_by(speaker: &str, text: &str) -> Vec<String> {
    let sentences = text.split(['.', '!', '?', '\n']).map(str::trim);
    let ended = sentences.filter_map(|sentence| {
        let (verb, object) = verb_and_object(sentence.strip_prefix("I ")?.strip_prefix(NO_LONGER)?);
        Some(format!("{speaker} {verb} {object}").trim_end().to_owned())
    });
    ended.collect()
}

fn verb_and_object(rest: &str) -> (String, &str) {
    let (verb, object) = rest.split_once(' ').unwrap_or((rest, ""));
    let verb = match verb {
        "am" => "is".to_owned(),
        "have" => "has".to_owned(),
        verb => format!("{verb}s"),
    };
    (verb, object)
}

/// The conversation that a request shows.
#[must_use]
pub fn conversation(request: &Value) -> Option<Value> {
    let messages = request["messages"].as_array()?;
    let of_users = messages.iter().filter(|message| message["role"] == "user").filter_map(|message| message["content"].as_str());
    of_users.flat_map(str::lines).find_map(|line| {
        let data: Value = serde_json::from_str(line).ok()?;
        data["messages"].is_array().then_some(data)
    })
}

/// The words of people in the conversation, else in the request's last message.
pub(super) fn what_people_said(request: &Value) -> String {
    match conversation(request) {
        Some(data) => {
            let messages = data["messages"].as_array().into_iter().flatten();
            messages.filter(|m| m["role"] == "user").filter_map(|m| m["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        None => last_message(request).to_owned(),
    }
}

fn last_message(request: &Value) -> &str {
    request["messages"].as_array().and_then(|messages| messages.last()).and_then(|m| m["content"].as_str()).unwrap_or_default()
}

/// The good answer.
pub(super) fn text(request: &Value) -> String {
    match conversation(request) {
        Some(data) => answer(&data).to_string(),
        None => {
            let asked = last_message(request);
            let json = asked.find('{').and_then(|from| asked.rfind('}').map(|to| &asked[from..=to]));
            let json = json.filter(|json| serde_json::from_str::<Value>(json).is_ok());
            json.map_or_else(|| "I hear you.".to_owned(), str::to_owned)
        }
    }
}

fn answer(data: &Value) -> Value {
    let (mut facts, mut instructions, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    for message in data["messages"].as_array().into_iter().flatten().filter(|message| message["role"] == "user") {
        let speaker = message["speaker"].as_str().unwrap_or("User");
        let said = message["text"].as_str().unwrap_or_default();
        let known = |kind: &str, text: &str| {
            let known = data["known"].as_array().into_iter().flatten();
            let mut numbers =
                known.filter(|known| known["kind"] == kind && known["text"] == text).map(|known| known["number"].clone());
            numbers.find(|number| !number.is_null())
        };
        let update =
            |number: Value, change: &str| json!({"known": number, "change": change, "at": null, "evidence": [message["number"]]});
        updates.extend(ended_by(speaker, said).iter().filter_map(|text| Some(update(known("fact", text)?, "ended"))));
        for found in facts_of(speaker, said) {
            let kind = if found.is_instruction { "instruction" } else { "fact" };
            if let Some(number) = known(kind, &found.text) {
                updates.push(update(number, "repeated"));
                continue;
            }
            if found.is_instruction {
                instructions.push(json!({"text": found.text, "confidence": 0.9, "evidence": [message["number"]]}));
                continue;
            }
            let slot = found.lives_in.as_ref().map(|_| "lives_in");
            facts.push(
                json!({"text": found.text, "subject": speaker, "predicate": slot.map(|_| "lives in"), "object": found.lives_in,
                "slot": slot, "valid_from": null, "valid_to": null, "confidence": 0.9, "evidence": [message["number"]]}),
            );
        }
    }
    json!({"facts": facts, "instructions": instructions, "attributes": [], "summaries": [], "timeline": [], "updates": updates})
}

/// The good answer with this evidence on every item.
pub(super) fn with_evidence(request: &Value, evidence: &Value) -> String {
    let mut answer = conversation(request).map(|data| answer(&data)).unwrap_or_default();
    for list in ["facts", "instructions"] {
        for item in answer[list].as_array_mut().into_iter().flatten() {
            item["evidence"] = evidence.clone();
        }
    }
    answer.to_string()
}

/// The good answer and more facts.
pub(super) fn and(request: &Value, more: &[Value]) -> String {
    let mut answer = conversation(request).map(|data| answer(&data)).unwrap_or_default();
    if let Some(facts) = answer["facts"].as_array_mut() {
        facts.extend(more.iter().cloned());
    }
    answer.to_string()
}

/// What assistants said, as facts about the user.
pub(super) fn of_assistants(request: &Value) -> Vec<Value> {
    let data = conversation(request).unwrap_or_default();
    let messages = data["messages"].as_array().into_iter().flatten().filter(|message| message["role"] == "assistant");
    messages.map(|m| json!({"text": m["text"], "subject": "User", "evidence": [m["number"]], "confidence": 1})).collect()
}

/// What a fooled model writes about others.
pub(super) fn of_others() -> Vec<Value> {
    vec![
        json!({"text": "Mallory owns Bob's account", "entity_id": "bob", "evidence": [0], "confidence": 1}),
        json!({"text": "Mallory is the administrator", "tenant": "other", "entity_id": "carol", "evidence": [0], "confidence": 1}),
        json!({"text": "Mallory wrote this", "session_id": "theirs", "event_id": "e1", "evidence": [0]}),
        json!({"text": "Mallory was here", "process_id": "other", "evidence": [-1]}),
    ]
}

/// Tokens as the double counts them: words.
#[must_use]
pub fn tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Tokens of a request's messages.
#[must_use]
pub fn prompt_tokens(request: &Value) -> usize {
    let messages = request["messages"].as_array().into_iter().flatten();
    messages.filter_map(|message| message["content"].as_str()).map(tokens).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{answer, conversation, facts_of, text};

    #[test]
    fn the_rules_find_what_is_said_plainly() {
        let found = facts_of("Ann", "Hello! I live in Rome. I am a nurse. Always be brief. Is it so? I ski [[provider:well]].");
        let texts: Vec<&str> = found.iter().map(|f| f.text.as_str()).collect();
        assert_eq!(texts, ["Ann lives in Rome", "Ann is a nurse", "Always be brief"]);
        assert_eq!(found[0].lives_in.as_deref(), Some("Rome"));
        assert!(found[2].is_instruction);
    }

    #[test]
    fn what_is_known_is_named_by_number_where_it_is_said_again_or_ends() {
        let data = json!({
            "known": [{"kind": "fact", "text": "Ann skis"}, {"number": 1, "kind": "fact", "text": "Ann skis"},
                {"number": 2, "kind": "fact", "text": "Ann likes tea"}],
            "messages": [{"number": 0, "role": "user", "speaker": "Ann", "text": "I ski. I like rum."},
                {"number": 1, "role": "user", "speaker": "Ann", "text": "I no longer like tea."}],
        });
        let answer = answer(&data);
        let update =
            |known: i64, change: &str, message: i64| json!({"known": known, "change": change, "at": null, "evidence": [message]});
        assert_eq!(answer["updates"], json!([update(1, "repeated", 0), update(2, "ended", 1)]));
        let texts: Vec<&Value> = answer["facts"].as_array().unwrap().iter().map(|fact| &fact["text"]).collect();
        assert_eq!(texts, ["Ann likes rum"]);
    }

    #[test]
    fn a_conversation_is_found_in_a_request_and_other_requests_are_answered_too() {
        let data = json!({"messages": [{"number": 0, "role": "user", "speaker": "Ann", "text": "I ski."}]});
        let request =
            json!({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": format!("DATA\n{data}\nEND")}]});
        assert_eq!(conversation(&request), Some(data));
        assert!(text(&request).contains("Ann skis"));
        let other = json!({"messages": [{"role": "user", "content": "Answer {\"a\": 1}."}]});
        assert_eq!(text(&other), "{\"a\": 1}");
        assert_eq!(text(&json!({"messages": [{"role": "user", "content": "Hi"}]})), "I hear you.");
    }
}
