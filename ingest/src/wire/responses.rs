//! Answers of OpenAI's responses: items by their place in the output. What an event says of a whole item counts; the deltas before
//! it are what there is of an item that was cut.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answer::{Answer, Cut, Room, Usage, count, error_word, word};

/// The answer so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    answer: Answer,
    room: Room,
    items: BTreeMap<u64, Item>,
    is_done: bool,
}

#[derive(Debug)]
enum Item {
    /// Begun: as it was announced, the texts of its content by their place, and the arguments of its call.
    Begun { item: Value, contents: BTreeMap<u64, Content>, arguments: String },
    /// The whole item.
    Whole(Value),
}

#[derive(Debug, Default)]
struct Content {
    is_refusal: bool,
    text: String,
}

impl Assembly {
    pub(super) fn event(&mut self, name: &str, mut event: Value) {
        let kind = word(event.get("type")).unwrap_or_else(|| name.to_owned());
        let at = |name: &str| event.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (item, content) = (at("output_index"), at("content_index"));
        match kind.as_str() {
            "response.created" | "response.queued" | "response.in_progress" => {
                if let Some(response) = event.get("response") {
                    self.answer.response_id = word(response.get("id"));
                    self.answer.model = word(response.get("model"));
                }
            }
            "response.output_item.added" => {
                if let Some(added) = event.get_mut("item").map(Value::take) {
                    self.begin(item, added);
                }
            }
            "response.output_text.delta" | "response.refusal.delta" => {
                let is_refusal = kind == "response.refusal.delta";
                if let Some(delta) = event.get("delta").and_then(Value::as_str) {
                    self.words(item, content, is_refusal, delta);
                }
            }
            "response.function_call_arguments.delta"
            | "response.custom_tool_call_input.delta"
            | "response.mcp_call_arguments.delta" => {
                if let Some(delta) = event.get("delta").and_then(Value::as_str) {
                    self.arguments(item, delta);
                }
            }
            "response.output_item.done" => {
                if let Some(done) = event.get_mut("item").map(Value::take) {
                    self.item(item, done);
                }
            }
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                if let Some(response) = event.get_mut("response").map(Value::take) {
                    self.response(response);
                }
                self.is_done = true;
            }
            "error" => {
                self.answer.error = Some(error_word(event.get("error").unwrap_or(&event)));
                self.is_done = true;
            }
            _ => {}
        }
    }

    pub(super) fn whole(&mut self, body: Value) {
        self.response(body);
    }

    /// The last event repeats the whole answer: without it, what came before is all the same whole.
    pub(super) fn left_out(&mut self, name: &str) {
        if matches!(name, "response.completed" | "response.incomplete") {
            self.is_done = true;
            self.answer.finish_reason = name.split('.').next_back().map(str::to_owned);
        } else if name != "response.image_generation_call.partial_image" {
            self.room.is_over = true;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn finish(self) -> Answer {
        let Self { mut answer, room, items, is_done } = self;
        for item in items.into_values() {
            match item {
                Item::Whole(item) => push(&mut answer, item),
                Item::Begun { mut item, contents, arguments } => {
                    let parts = contents.into_values().map(|content| match content.is_refusal {
                        true => json!({"type": "refusal", "refusal": content.text}),
                        false => json!({"type": "output_text", "text": content.text}),
                    });
                    let parts: Vec<Value> = parts.collect();
                    if !parts.is_empty() {
                        item["type"] = "message".into();
                        item["content"] = parts.into();
                    }
                    if !arguments.is_empty() {
                        let name = if item["type"] == "custom_tool_call" { "input" } else { "arguments" };
                        item[name] = arguments.into();
                    }
                    push(&mut answer, item);
                }
            }
        }
        answer.cut = answer.cut.or(match () {
            () if room.is_over => Some(Cut::TooLong),
            () if answer.error.is_some() => Some(Cut::Failed),
            () if is_done => None,
            () => Some(Cut::Incomplete),
        });
        answer
    }

    fn response(&mut self, mut response: Value) {
        let answer = &mut self.answer;
        answer.choices = 1;
        answer.response_id = word(response.get("id")).or(answer.response_id.take());
        answer.model = word(response.get("model")).or(answer.model.take());
        if let Some(error) = response.get("error").filter(|error| !error.is_null()) {
            answer.error = Some(error_word(error));
        }
        if let Some(usage) = response.get("usage").filter(|usage| usage.is_object()) {
            answer.usage = Usage {
                input_tokens: count(usage, &["input_tokens"]),
                output_tokens: count(usage, &["output_tokens"]),
                cached_input_tokens: count(usage, &["input_tokens_details", "cached_tokens"]),
            };
        }
        let status = word(response.get("status"));
        let reason = response.get("incomplete_details").and_then(|details| word(details.get("reason")));
        answer.finish_reason = reason.or_else(|| status.clone());
        match status.as_deref() {
            Some("failed") => answer.error = answer.error.take().or_else(|| Some("failed".into())),
            // The answer comes later, to another call.
            Some("queued" | "in_progress") => {}
            Some("cancelled") => answer.cut = Some(Cut::Incomplete),
            _ => self.is_done = true,
        }
        if self.items.is_empty()
            && let Some(Value::Array(items)) = response.get_mut("output").map(Value::take)
        {
            for (index, item) in (0..).zip(items) {
                self.item(index, item);
            }
        }
    }

    fn begin(&mut self, at: u64, item: Value) {
        if item.is_object() && self.room.has_part(self.items.len()) {
            self.items.insert(at, Item::Begun { item, contents: BTreeMap::new(), arguments: String::new() });
        }
    }

    fn begun(&mut self, at: u64) -> Option<(&mut BTreeMap<u64, Content>, &mut String, &mut Room)> {
        if !self.items.contains_key(&at) {
            self.begin(at, json!({}));
        }
        match self.items.get_mut(&at)? {
            Item::Begun { contents, arguments, .. } => Some((contents, arguments, &mut self.room)),
            Item::Whole(_) => None,
        }
    }

    fn words(&mut self, at: u64, content: u64, is_refusal: bool, more: &str) {
        let Some((contents, _, room)) = self.begun(at) else { return };
        if !contents.contains_key(&content) && !room.has_part(contents.len()) {
            return;
        }
        let content = contents.entry(content).or_default();
        content.is_refusal = is_refusal;
        room.push(&mut content.text, more);
    }

    fn arguments(&mut self, at: u64, more: &str) {
        if let Some((_, arguments, room)) = self.begun(at) {
            room.push(arguments, more);
        }
    }

    /// A whole item. One that has no room leaves what its deltas told.
    fn item(&mut self, at: u64, item: Value) {
        let known = match self.items.get(&at) {
            Some(Item::Begun { contents, arguments, .. }) => {
                arguments.len() + contents.values().map(|content| content.text.len()).sum::<usize>()
            }
            Some(Item::Whole(_)) => return,
            None if !self.room.has_part(self.items.len()) => return,
            None => 0,
        };
        let item = if item.get("type").is_some_and(|kind| kind == "reasoning") { json!({"type": "reasoning"}) } else { item };
        let mut left_out = super::parts::LeftOut::default();
        let Some(item) = super::parts::kept(item, &mut left_out) else { return };
        self.answer.left_out.payloads += left_out.payloads;
        if self.room.replace(known, item.to_string().len()) {
            self.items.insert(at, Item::Whole(item));
        } else if let Value::Object(mut item) = item {
            // A message that is too long is cut; of anything else there is no half.
            let contents = item.get_mut("content").map(Value::take);
            for (index, part) in (0..).zip(contents.as_ref().and_then(Value::as_array).into_iter().flatten()) {
                if known == 0
                    && let Some(text) = part.get("text").and_then(Value::as_str)
                {
                    self.words(at, index, false, text);
                }
            }
        }
    }
}

/// An item as parts: a message's contents, or itself.
fn push(answer: &mut Answer, mut item: Value) {
    match item.get("type").and_then(Value::as_str) {
        Some("message") => {
            let mut text = String::new();
            for part in item.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some("output_text" | "text") = part.get("type").and_then(Value::as_str) {
                    text.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
                } else {
                    answer.push_text(std::mem::take(&mut text));
                    answer.push(part.take());
                }
            }
            answer.push_text(text);
        }
        Some("reasoning") | None => {}
        Some(_) => answer.push(item),
    }
}
