//! Rows of a table, or flat JSON objects, by a mapping: a message a row (`role`, `content`), or a turn a row (`user`, `assistant`).

use serde_json::Value;

use super::{as_text, content, metadata};
use crate::options::{Options, at, id};
use crate::record::{Bad, Row};
use crate::time;
use crate::turns::{Conversation, Said, role};

fn field<'r>(row: &'r Row, options: &Options, target: &str) -> Option<&'r Value> {
    at(row, options.map.field(target)?)
}

/// Rows belong together by person, agent and session, or by the event that they name.
pub(super) fn group(row: &Row, options: &Options) -> Option<String> {
    let parts = ["entity", "process", "session", "event_id"].map(|target| id(field(row, options, target)).unwrap_or_default());
    Some(parts.iter().map(|part| format!("{}:{part}", part.len())).collect())
}

pub(super) fn speaks(row: &Row, options: &Options) -> bool {
    match field(row, options, "role") {
        Some(given) => given.as_str().and_then(role) == Some("user"),
        None => true,
    }
}

pub(super) fn conversation_of(rows: &[Row], options: &Options) -> Result<(Conversation, Vec<Bad>), String> {
    let mapped = |target: &str| options.map.field(target).is_some();
    if !mapped("content") && !mapped("user") {
        return Err("no field is said to be the content: say which, such as --map content=text,role=role, or --map user=question,assistant=answer".to_owned());
    }
    let first = rows.first().ok_or("no rows")?;
    let mut bad = Vec::new();
    let mut messages = Vec::with_capacity(rows.len());
    for row in rows {
        let sent = field(row, options, "time");
        let when = sent.and_then(time::read);
        let whole = || Value::Object(row.clone()).to_string();
        if sent.is_some_and(|sent| when.is_none() && sent != "") {
            bad.push(Bad::new("the time is none that can be read", whole().as_bytes()));
            continue;
        }
        let message_id = id(field(row, options, "message_id"));
        let name = id(field(row, options, "name"));
        if mapped("content") {
            let given = field(row, options, "role");
            let role = match given {
                None => Some("user"),
                Some(given) => role(&as_text(given)),
            };
            match (role, field(row, options, "content")) {
                (Some(role), Some(said)) => messages.push(Said { id: message_id, role, name, content: content(said), at: when }),
                (None, _) => bad.push(Bad::new("the role is none that is known", whole().as_bytes())),
                (_, None) => bad.push(Bad::new("the row has no content", whole().as_bytes())),
            }
        } else {
            for (target, role) in [("user", "user"), ("assistant", "assistant")] {
                if let Some(said) = field(row, options, target) {
                    let id = message_id.as_ref().map(|id| format!("{id}/{role}"));
                    let name = name.clone().filter(|_| role == "user");
                    messages.push(Said { id, role, name, content: content(said), at: when });
                }
            }
        }
    }
    let of = |target: &str| id(field(first, options, target));
    let session = of("session");
    let conversation = Conversation {
        id: of("event_id").or_else(|| session.clone()),
        entity: of("entity"),
        process: of("process"),
        session,
        at: None,
        metadata: metadata(first, options),
        messages,
    };
    Ok((conversation, bad))
}
