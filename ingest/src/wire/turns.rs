//! The turns of a request, told apart by who speaks, without decoding more than the last of them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Surface, json};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A person, or a program in a person's place. With Anthropic, a tool's results as well.
    User,
    /// A tool's result.
    Tool,
    /// The model, or what ran beside it.
    Model,
    /// Who set the scene, and what is no message.
    Other,
}

/// One turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) speaker: Speaker,
    pub(super) raw: &'a RawValue,
    pub(super) content: Option<&'a RawValue>,
    pub(super) name: Option<&'a RawValue>,
    pub(super) tool_call_id: Option<&'a RawValue>,
    /// The model spoke, and said words and nothing else.
    pub(super) is_only_words: bool,
}

#[derive(Default, Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_call_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

impl<'a> Turn<'a> {
    pub(super) fn of(raw: &'a RawValue, surface: Surface) -> Self {
        let head: Head<'a> = serde_json::from_str(raw.get()).unwrap_or_default();
        let speaker = match (head.role.as_deref(), head.kind.as_deref()) {
            (Some("user"), _) => Speaker::User,
            (Some("assistant"), _) => Speaker::Model,
            (Some("tool" | "function"), _) if surface == Surface::OpenAiChat => Speaker::Tool,
            (None, Some(kind)) if surface == Surface::OpenAiResponses => of_item(kind),
            _ => Speaker::Other,
        };
        let is_only_words = speaker == Speaker::Model
            && head.tool_calls.is_none_or(|calls| calls.get() == "[]")
            && head.function_call.is_none()
            && head.content.is_some_and(is_words);
        Self { speaker, raw, content: head.content, name: head.name, tool_call_id: head.tool_call_id, is_only_words }
    }

    /// A member of the turn that is a text.
    pub(super) fn text_of(raw: Option<&RawValue>) -> Option<String> {
        json::text(raw?).filter(|text| !text.is_empty())
    }
}

/// Items of the Responses API that are no messages: what answers a call of the model's, what the model made, and the rest.
fn of_item(kind: &str) -> Speaker {
    if kind.ends_with("_output") || kind == "mcp_approval_response" {
        Speaker::Tool
    } else if kind.ends_with("_call")
        || matches!(kind, "reasoning" | "item_reference" | "compaction" | "mcp_list_tools" | "mcp_approval_request" | "program")
    {
        Speaker::Model
    } else {
        Speaker::Other
    }
}

fn is_words(content: &RawValue) -> bool {
    content.get().starts_with('"')
        || serde_json::from_str::<Vec<Kind<'_>>>(content.get())
            .is_ok_and(|parts| parts.iter().all(|part| matches!(part.kind.as_deref(), Some("text" | "output_text"))))
}
