//! The file of conversations and questions: what a line may say, and what must hold between lines.
//!
//! Promises: what [`parse`] returns is whole: every id that a question names exists for its entity, ids are distinct where they
//! must be, evidence is older than its question, and every answer string stands in the evidence. Everything that is wrong is
//! told at once, with the line and what to do. `docs/quality.md` describes the format for people.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use memori_schemas::Micros;
use serde::Deserialize;

/// Problems that are shown; all are counted.
const SHOWN_PROBLEMS: usize = 20;
/// Between messages that have no time of their own.
const STEP_US: i64 = 60_000_000;

/// What one line says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Conversation(Conversation),
    Question(Question),
}

/// What was said to or about one entity, in one or several sessions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversation {
    #[serde(rename = "conversation_id")]
    _conversation_id: Option<String>,
    pub(super) entity_id: String,
    pub(super) language: String,
    pub(super) process_id: Option<String>,
    pub(super) sessions: Vec<Session>,
}

/// One sitting.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) session_id: String,
    pub(super) started_at: String,
    pub(super) messages: Vec<Message>,
}

/// One message of a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) message_id: String,
    pub(super) role: String,
    pub(super) name: Option<String>,
    pub(super) content: String,
    pub(super) at: Option<String>,
}

/// What is asked of an entity's memory, and where the answer stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    pub(super) question_id: String,
    pub(super) entity_id: String,
    pub(super) text: String,
    pub(super) category: String,
    #[serde(default)]
    pub(super) language: String,
    pub(super) asked_at: Option<String>,
    pub(super) as_of: Option<String>,
    #[serde(default)]
    pub(super) instruction: bool,
    #[serde(default)]
    pub(super) unanswerable: bool,
    #[serde(default)]
    pub(super) evidence: Evidence,
    #[serde(default)]
    pub(super) answer: Vec<String>,
}

/// Where an answer stands. [`parse`] adds the sessions of the messages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    #[serde(default)]
    pub(super) messages: BTreeSet<String>,
    #[serde(default)]
    pub(super) sessions: BTreeSet<String>,
}

/// Where a message stands, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) session_id: String,
    pub(super) role: String,
    pub(super) content: String,
    pub(super) at: Micros,
}

/// A whole file.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) conversations: Vec<Conversation>,
    pub(super) questions: Vec<Question>,
    /// By entity and message id.
    pub(super) places: HashMap<(String, String), Place>,
}

/// What is wrong with a file, line by line.
#[derive(Debug, thiserror::Error)]
pub(super) struct Problems(Vec<(usize, String)>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problems; docs/quality.md describes the format", self.0.len())?;
        for (line, text) in self.0.iter().take(SHOWN_PROBLEMS) {
            if *line == 0 { write!(f, "\n  {text}")? } else { write!(f, "\n  line {line}: {text}")? }
        }
        if self.0.len() > SHOWN_PROBLEMS { write!(f, "\n  and {} more", self.0.len() - SHOWN_PROBLEMS) } else { Ok(()) }
    }
}

impl Data {
    /// The message that an id of an entity names.
    pub(super) fn place(&self, entity_id: &str, message_id: &str) -> Option<&Place> {
        self.places.get(&(entity_id.to_owned(), message_id.to_owned()))
    }

    /// How many messages there are.
    pub(super) fn messages(&self) -> usize {
        self.places.len()
    }

    /// Every entity, once.
    pub(super) fn entities(&self) -> BTreeSet<&str> {
        self.conversations.iter().map(|c| c.entity_id.as_str()).collect()
    }
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Data, Problems> {
    let mut reading = Reading::default();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Line>(line) {
            Ok(Line::Conversation(conversation)) => reading.conversation(number, conversation),
            Ok(Line::Question(question)) => reading.questions.push((number, question)),
            Err(error) => {
                reading.bad(number, format!("{error}; give one object with `\"type\": \"conversation\"` or `\"question\"`"))
            }
        }
    }
    reading.finish()
}

#[derive(Default)]
struct Reading {
    conversations: Vec<Conversation>,
    questions: Vec<(usize, Question)>,
    places: HashMap<(String, String), Place>,
    sessions: HashSet<(String, String)>,
    language: BTreeMap<String, String>,
    problems: Vec<(usize, String)>,
}

impl Reading {
    fn bad(&mut self, line: usize, text: String) {
        self.problems.push((line, text));
    }

    fn conversation(&mut self, line: usize, conversation: Conversation) {
        let entity = conversation.entity_id.clone();
        if entity.is_empty() || conversation.language.is_empty() {
            self.bad(line, "entity_id and language must not be empty".into());
        }
        if conversation.sessions.is_empty() {
            self.bad(line, "a conversation needs a session with messages".into());
        }
        self.language.entry(entity.clone()).or_insert_with(|| conversation.language.clone());
        for session in &conversation.sessions {
            self.session(line, &entity, session);
        }
        self.conversations.push(conversation);
    }

    fn session(&mut self, line: usize, entity: &str, session: &Session) {
        let id = &session.session_id;
        if !self.sessions.insert((entity.to_owned(), id.clone())) {
            self.bad(line, format!("session {id:?} is there already: give each session of an entity an id of its own"));
        }
        let Some(started) = Micros::parse_rfc3339(&session.started_at) else {
            return self.bad(line, format!("started_at of session {id:?} must be an RFC 3339 time such as 2025-03-04T18:30:00Z"));
        };
        if session.messages.first().is_none_or(|message| message.role != "user") {
            self.bad(line, format!("session {id:?} must begin with a message of role user"));
        }
        for (n, message) in (0..).zip(&session.messages) {
            let shown = &message.message_id;
            if !["user", "assistant", "system", "tool"].contains(&message.role.as_str()) {
                self.bad(line, format!("the role of message {shown:?} must be user, assistant, system or tool"));
            }
            if message.content.trim().is_empty() || shown.is_empty() {
                self.bad(line, format!("message {shown:?} of session {id:?} needs an id and content"));
            }
            let at = match message.at.as_deref().map(Micros::parse_rfc3339) {
                None => Micros(started.0 + n * STEP_US),
                Some(Some(at)) => at,
                Some(None) => {
                    self.bad(line, format!("the time `at` of message {shown:?} must be an RFC 3339 time"));
                    started
                }
            };
            let place = Place { session_id: id.clone(), role: message.role.clone(), content: message.content.clone(), at };
            if self.places.insert((entity.to_owned(), shown.clone()), place).is_some() {
                self.bad(line, format!("message {shown:?} is there already: give each message of an entity an id of its own"));
            }
        }
    }

    fn question(&mut self, line: usize, question: &mut Question) {
        let entity = question.entity_id.clone();
        match self.language.get(&entity) {
            None => return self.bad(line, format!("no conversation is about entity {entity:?}")),
            Some(language) if question.language.is_empty() => question.language.clone_from(language),
            Some(_) => {}
        }
        if question.text.trim().is_empty() || question.category.is_empty() {
            self.bad(line, "text and category must not be empty".into());
        }
        let asked_at = self.time(line, "asked_at", question.asked_at.as_deref());
        self.time(line, "as_of", question.as_of.as_deref());
        let given = &question.evidence;
        if given.messages.is_empty() && given.sessions.is_empty() && !question.unanswerable {
            self.bad(line, "no evidence: name messages or sessions, or say `\"unanswerable\": true`".into());
        }
        if question.unanswerable && !(given.messages.is_empty() && given.sessions.is_empty() && question.answer.is_empty()) {
            self.bad(line, "an unanswerable question has neither evidence nor an answer".into());
        }
        let mut sessions = given.sessions.clone();
        let mut said = String::new();
        for id in given.messages.clone() {
            match self.places.get(&(entity.clone(), id.clone())).cloned() {
                None => self.bad(line, format!("no message {id:?} in the conversations of entity {entity:?}")),
                Some(place) => {
                    if asked_at.is_some_and(|asked| asked < place.at) {
                        self.bad(line, format!("message {id:?} is younger than the question's asked_at"));
                    }
                    said.push_str(&plain(&place.content));
                    said.push('\n');
                    sessions.insert(place.session_id);
                }
            }
        }
        for id in &question.evidence.sessions.clone() {
            if !self.sessions.contains(&(entity.clone(), id.clone())) {
                self.bad(line, format!("no session {id:?} in the conversations of entity {entity:?}"));
            }
            if question.evidence.messages.is_empty() {
                let of_it = self.places.iter().filter(|((of, _), place)| *of == entity && place.session_id == *id);
                said.extend(of_it.map(|(_, place)| plain(&place.content) + "\n"));
            }
        }
        for part in question.answer.clone() {
            if part.trim().is_empty() || !said.contains(&plain(&part)) {
                self.bad(
                    line,
                    format!("the answer {part:?} does not stand in the evidence: quote it, or name the message it is in"),
                );
            }
        }
        question.evidence.sessions = sessions;
    }

    fn time(&mut self, line: usize, name: &str, text: Option<&str>) -> Option<Micros> {
        let read = Micros::parse_rfc3339(text?);
        if read.is_none() {
            self.bad(line, format!("{name} must be an RFC 3339 time"));
        }
        read
    }

    fn finish(mut self) -> Result<Data, Problems> {
        let mut questions = std::mem::take(&mut self.questions);
        let mut ids = HashSet::new();
        for (line, question) in &mut questions {
            if !ids.insert(question.question_id.clone()) {
                self.bad(*line, format!("question {:?} is there already: give each an id of its own", question.question_id));
            }
            self.question(*line, question);
        }
        if questions.is_empty() || self.conversations.is_empty() {
            self.bad(0, "the file needs conversations and questions about them".into());
        }
        if !self.problems.is_empty() {
            self.problems.sort();
            return Err(Problems(self.problems));
        }
        let questions = questions.into_iter().map(|(_, question)| question).collect();
        Ok(Data { conversations: self.conversations, questions, places: self.places })
    }
}

/// A text as answer strings are compared: lower case, white space folded.
pub(super) fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TALK: &str = r#"{"type":"conversation","entity_id":"ana","language":"en","sessions":[{"session_id":"s1","started_at":"2025-03-04T18:30:00Z","messages":[{"message_id":"m1","role":"user","content":"My  cat is called Miso."},{"message_id":"m2","role":"assistant","content":"Lovely."}]}]}"#;

    fn with(question: &str) -> Result<Data, Problems> {
        parse(&format!("{TALK}\n\n{question}\n"))
    }

    #[test]
    fn a_whole_file_is_read() {
        let data = with(
            r#"{"type":"question","question_id":"q1","entity_id":"ana","text":"What is the cat called?","category":"single","evidence":{"messages":["m1"]},"answer":["CAT is called miso"]}"#,
        )
        .unwrap();
        let question = &data.questions[0];
        assert_eq!((question.language.as_str(), question.evidence.sessions.len()), ("en", 1));
        assert_eq!(data.messages(), 2);
        let (first, second) = (data.place("ana", "m1").unwrap().at, data.place("ana", "m2").unwrap().at);
        assert_eq!(second.0 - first.0, STEP_US);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_to_do() {
        let question = |rest: &str| {
            with(&format!(r#"{{"type":"question","question_id":"q","entity_id":"ana","text":"?","category":"single",{rest}}}"#))
        };
        for (rest, told) in [
            (r#""evidence":{"messages":["m9"]}"#, "line 3: no message \"m9\""),
            (r#""evidence":{"sessions":["s9"]}"#, "no session \"s9\""),
            (r#""evidence":{}"#, "`\"unanswerable\": true`"),
            (r#""unanswerable":true,"answer":["Miso"]"#, "neither evidence nor an answer"),
            (r#""evidence":{"messages":["m1"]},"answer":["dog"]"#, "does not stand in the evidence"),
            (r#""evidence":{"messages":["m1"]},"asked_at":"2025-01-01T00:00:00Z""#, "younger"),
            (r#""evidence":{"messages":["m1"]},"as_of":"yesterday""#, "as_of must be an RFC 3339 time"),
            (r#""evidnce":{"messages":["m1"]}"#, "unknown field `evidnce`"),
        ] {
            let text = question(rest).unwrap_err().to_string();
            assert!(text.contains(told), "{rest}: {text}");
        }
        let text = parse(&format!("{TALK}\n{TALK}\nnot json")).unwrap_err().to_string();
        for told in
            ["line 2: session \"s1\" is there already", "line 2: message \"m1\"", "line 3: ", "needs conversations and questions"]
        {
            assert!(text.contains(told), "{told}: {text}");
        }
    }

    #[test]
    fn many_problems_are_counted_and_some_shown() {
        let text = parse(&"x\n".repeat(30)).unwrap_err().to_string();
        assert!(text.starts_with("31 problems") && text.ends_with("and 11 more"), "{text}");
    }
}
