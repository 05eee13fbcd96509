//! The database of the open-source library Memori (`memori_conversation_message` and the tables around it), on SQLite or Postgres.
//! Conversations come as they were had. Its facts come on request only, as what the person said, since the conversations teach them anew.

use serde_json::{Value, json};

use crate::options::id;
use crate::record::{Bad, Row};
use crate::time;
use crate::turns::{Conversation, Said, role};

/// Its messages, conversation by conversation, in order. Everything as text, so that both databases answer alike.
pub(crate) const MESSAGES_SQL: &str = "\
SELECT 'message' AS kind, CAST(c.uuid AS TEXT) AS conversation, CAST(s.uuid AS TEXT) AS session, e.external_id AS entity, \
p.external_id AS process, CAST(m.uuid AS TEXT) AS id, m.role AS role, m.content AS content, CAST(m.date_created AS TEXT) AS at \
FROM memori_conversation_message m \
JOIN memori_conversation c ON c.id = m.conversation_id \
JOIN memori_session s ON s.id = c.session_id \
LEFT JOIN memori_entity e ON e.id = s.entity_id \
LEFT JOIN memori_process p ON p.id = s.process_id \
ORDER BY m.conversation_id, m.id";

/// Its facts, by person.
pub(crate) const FACTS_SQL: &str = "\
SELECT 'fact' AS kind, CAST(f.uuid AS TEXT) AS conversation, 'memori-facts' AS session, e.external_id AS entity, NULL AS process, \
CAST(f.uuid AS TEXT) AS id, 'user' AS role, f.content AS content, CAST(f.date_created AS TEXT) AS at \
FROM memori_entity_fact f JOIN memori_entity e ON e.id = f.entity_id ORDER BY f.entity_id, f.id";

pub(super) fn group(row: &Row) -> Option<String> {
    id(row.get("conversation"))
}

pub(super) fn speaks(row: &Row) -> bool {
    row.get("role").and_then(Value::as_str) == Some("user")
}

pub(super) fn conversation_of(rows: &[Row]) -> Result<(Conversation, Vec<Bad>), String> {
    let first = rows.first().ok_or("no rows")?;
    let of = |row: &Row, name: &str| id(row.get(name));
    let mut bad = Vec::new();
    let mut messages = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(role) = row.get("role").and_then(Value::as_str).and_then(role) else {
            bad.push(Bad::new("the message's role is none that is known", Value::Object(row.clone()).to_string().as_bytes()));
            continue;
        };
        let content = row.get("content").cloned().unwrap_or(Value::Null);
        messages.push(Said {
            id: of(row, "id"),
            role,
            name: None,
            content,
            at: time::read(row.get("at").unwrap_or(&Value::Null)),
        });
    }
    let kind = first.get("kind").and_then(Value::as_str).unwrap_or("message");
    let source = if kind == "fact" { "memori-fact" } else { "memori" };
    let conversation = Conversation {
        id: of(first, "conversation"),
        entity: of(first, "entity"),
        process: of(first, "process"),
        session: of(first, "session"),
        at: None,
        metadata: json!({"source": source}).as_object().cloned().unwrap_or_default(),
        messages,
    };
    Ok((conversation, bad))
}
