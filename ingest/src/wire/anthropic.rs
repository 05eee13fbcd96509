//! Answers of Anthropic's messages: blocks by their index, each begun, continued and ended by events.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answer::{Answer, Cut, Room, count, error_word, word};

/// The answer so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    answer: Answer,
    room: Room,
    blocks: BTreeMap<u64, Block>,
    is_done: bool,
}

#[derive(Debug)]
enum Block {
    Text(String),
    /// A call of a tool: its block, and its input as far as it came.
    Call(Value, String),
    /// What comes whole.
    Whole(Value),
    /// The model's reasoning.
    LeftOut,
}

impl Assembly {
    pub(super) fn event(&mut self, name: &str, mut event: Value) {
        let kind = word(event.get("type")).unwrap_or_else(|| name.to_owned());
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        match kind.as_str() {
            "message_start" => {
                if let Some(message) = event.get_mut("message").map(Value::take) {
                    self.message(message);
                }
            }
            "content_block_start" => {
                if let Some(block) = event.get_mut("content_block").map(Value::take) {
                    self.block(index, block);
                }
            }
            "content_block_delta" => {
                if let Some(delta) = event.get("delta") {
                    self.delta(index, delta);
                }
            }
            "message_delta" => {
                if let Some(reason) = event.get("delta").and_then(|delta| word(delta.get("stop_reason"))) {
                    self.answer.finish_reason = Some(reason);
                }
                self.usage(event.get("usage"));
            }
            "message_stop" => self.is_done = true,
            "error" => self.answer.error = Some(error_word(event.get("error").unwrap_or(&event))),
            _ => {}
        }
    }

    pub(super) fn whole(&mut self, body: Value) {
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            self.answer.error = Some(error_word(error));
        }
        self.message(body);
        self.is_done = true;
    }

    pub(super) fn left_out(&mut self) {
        self.room.is_over = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn finish(self) -> Answer {
        let Self { mut answer, room, blocks, is_done } = self;
        let mut text = String::new();
        for block in blocks.into_values() {
            // Citations split one text into blocks: what stands side by side is one text.
            if let Block::Text(more) = block {
                text.push_str(&more);
                continue;
            }
            match block {
                Block::Text(_) | Block::LeftOut => continue,
                Block::Whole(part) => {
                    answer.push_text(std::mem::take(&mut text));
                    answer.push(part);
                }
                Block::Call(mut part, input) => {
                    answer.push_text(std::mem::take(&mut text));
                    if !input.is_empty() {
                        // What was cut is no JSON: it stays as it came.
                        part["input"] = super::json::read(&input).unwrap_or(Value::String(input));
                    }
                    answer.push(part);
                }
            }
        }
        answer.push_text(text);
        answer.cut = answer.cut.or(match () {
            () if room.is_over => Some(Cut::TooLong),
            () if answer.error.is_some() => Some(Cut::Failed),
            () if is_done || answer.finish_reason.is_some() => None,
            () => Some(Cut::Incomplete),
        });
        answer
    }

    fn message(&mut self, mut message: Value) {
        let answer = &mut self.answer;
        answer.response_id = word(message.get("id"));
        answer.model = word(message.get("model"));
        answer.finish_reason = word(message.get("stop_reason"));
        answer.choices = 1;
        self.usage(message.get("usage"));
        if let Some(Value::Array(blocks)) = message.get_mut("content").map(Value::take) {
            for (index, block) in (0..).zip(blocks) {
                self.block(index, block);
            }
        }
    }

    fn block(&mut self, index: u64, mut block: Value) {
        if !block.is_object() || !self.room.has_part(self.blocks.len()) {
            return;
        }
        let kind = word(block.get("type")).unwrap_or_default();
        let block = match kind.as_str() {
            "text" => {
                let mut text = String::new();
                self.room.push(&mut text, block.get("text").and_then(Value::as_str).unwrap_or_default());
                Block::Text(text)
            }
            "thinking" | "redacted_thinking" => Block::LeftOut,
            "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                // What a tool is called with may be as large as the provider lets it be.
                let input =
                    block.get_mut("input").map(Value::take).filter(|input| input.as_object().is_none_or(|o| !o.is_empty()));
                let mut text = String::new();
                if let Some(input) = input {
                    self.room.push(&mut text, &input.to_string());
                }
                block["input"] = json!({});
                Block::Call(block, text)
            }
            _ => {
                let (mut kept, whole) = (String::new(), block.to_string());
                self.room.push(&mut kept, &whole);
                if kept.len() < whole.len() { Block::LeftOut } else { Block::Whole(block) }
            }
        };
        self.blocks.insert(index, block);
    }

    fn delta(&mut self, index: u64, delta: &Value) {
        let of = |name: &str| delta.get(name).and_then(Value::as_str);
        match self.blocks.get_mut(&index) {
            Some(Block::Text(text)) => {
                if let Some(more) = of("text") {
                    self.room.push(text, more);
                }
            }
            Some(Block::Call(_, input)) => {
                if let Some(more) = of("partial_json") {
                    self.room.push(input, more);
                }
            }
            // The beginning of the block was not seen.
            None => {
                if let Some(more) = of("text").filter(|_| self.room.has_part(self.blocks.len())) {
                    let mut text = String::new();
                    self.room.push(&mut text, more);
                    self.blocks.insert(index, Block::Text(text));
                }
            }
            Some(Block::Whole(_) | Block::LeftOut) => {}
        }
    }

    /// The provider counts cached tokens apart; later counts are of the whole.
    fn usage(&mut self, usage: Option<&Value>) {
        let Some(usage) = usage.filter(|usage| usage.is_object()) else { return };
        let known = &mut self.answer.usage;
        if let Some(fresh) = count(usage, &["input_tokens"]) {
            let cached = count(usage, &["cache_read_input_tokens"]);
            let written = count(usage, &["cache_creation_input_tokens"]).unwrap_or(0);
            known.input_tokens = Some(fresh.saturating_add(cached.unwrap_or(0)).saturating_add(written));
            known.cached_input_tokens = cached.or(known.cached_input_tokens);
        }
        known.output_tokens = count(usage, &["output_tokens"]).or(known.output_tokens);
    }
}
