//! Answers of OpenAI's chat completions, and of those who speak its language with their own accents: Azure's first event has no
//! choice, some send no index with a tool's call, or a content of parts.

use serde_json::{Value, json};

use super::answer::{Answer, Cut, Room, Usage, count, error_word, word};

/// The answer so far: the choice with index 0.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    answer: Answer,
    room: Room,
    text: String,
    refusal: String,
    audio: Option<Audio>,
    calls: Vec<Call>,
    is_done: bool,
}

#[derive(Debug, Default)]
struct Audio {
    id: Option<String>,
    transcript: String,
    base64_bytes: usize,
}

#[derive(Debug)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    /// `function` or `custom`.
    kind: &'static str,
    name: String,
    arguments: String,
}

impl Assembly {
    pub(super) fn event(&mut self, name: &str, event: &Value) {
        self.head(event);
        if name == "error" && self.answer.error.is_none() {
            self.answer.error = Some(error_word(event));
        }
        for choice in choices(event) {
            self.choice(choice, choice.get("delta"));
        }
    }

    pub(super) fn whole(&mut self, body: &Value) {
        self.head(body);
        for choice in choices(body) {
            self.choice(choice, choice.get("message"));
        }
        self.is_done = true;
    }

    pub(super) fn done(&mut self) {
        self.is_done = true;
    }

    pub(super) fn left_out(&mut self) {
        self.room.is_over = true;
    }

    /// Events without a word (usage, filters) may still come; the words have ended.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn finish(self) -> Answer {
        let Self { mut answer, room, text, refusal, audio, calls, is_done } = self;
        answer.push_text(text);
        if !refusal.is_empty() {
            answer.push(json!({"type": "refusal", "refusal": refusal}));
        }
        if let Some(audio) = audio {
            let mut part = json!({"type": "audio", "text": audio.transcript, "id": audio.id});
            if audio.base64_bytes > 0 {
                part["omitted"] = json!({"media_type": "audio/*", "bytes": audio.base64_bytes / 4 * 3});
            }
            answer.push(part);
        }
        for call in calls {
            let inner = if call.kind == "custom" { "input" } else { "arguments" };
            let mut part = json!({"type": call.kind, call.kind: {"name": call.name, inner: call.arguments}});
            if let Some(id) = call.id {
                part["id"] = id.into();
            }
            answer.push(part);
        }
        answer.cut = answer.cut.or(match () {
            () if room.is_over => Some(Cut::TooLong),
            () if answer.error.is_some() => Some(Cut::Failed),
            () if is_done || answer.finish_reason.is_some() => None,
            () => Some(Cut::Incomplete),
        });
        answer
    }

    fn head(&mut self, event: &Value) {
        let answer = &mut self.answer;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            answer.error = Some(error_word(error));
        }
        answer.response_id = answer.response_id.take().or_else(|| word(event.get("id")));
        answer.model = answer.model.take().or_else(|| word(event.get("model")));
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            answer.usage = Usage {
                input_tokens: count(usage, &["prompt_tokens"]),
                output_tokens: count(usage, &["completion_tokens"]),
                cached_input_tokens: count(usage, &["prompt_tokens_details", "cached_tokens"]),
            };
        }
    }

    fn choice(&mut self, choice: &Value, said: Option<&Value>) {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        self.answer.choices = self.answer.choices.max(u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1));
        if index != 0 {
            return;
        }
        if let Some(reason) = word(choice.get("finish_reason")) {
            self.answer.finish_reason = Some(reason);
        }
        let Some(said) = said else { return };
        match said.get("content") {
            Some(Value::String(text)) => self.room.push(&mut self.text, text),
            Some(Value::Array(parts)) => {
                for text in parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)) {
                    self.room.push(&mut self.text, text);
                }
            }
            _ => {}
        }
        if let Some(refusal) = said.get("refusal").and_then(Value::as_str) {
            self.room.push(&mut self.refusal, refusal);
        }
        if let Some(audio) = said.get("audio").filter(|audio| audio.is_object()) {
            self.audio(audio);
        }
        for call in said.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            self.call(call);
        }
        if let Some(function) = said.get("function_call").filter(|call| call.is_object()) {
            self.call(&json!({"index": u64::MAX, "function": function}));
        }
    }

    fn audio(&mut self, audio: &Value) {
        let known = self.audio.get_or_insert_default();
        known.id = known.id.take().or_else(|| word(audio.get("id")));
        known.base64_bytes += audio.get("data").and_then(Value::as_str).map_or(0, str::len);
        if let Some(transcript) = audio.get("transcript").and_then(Value::as_str) {
            self.room.push(&mut known.transcript, transcript);
        }
    }

    fn call(&mut self, call: &Value) {
        let (kind, inner) = match call.get("custom") {
            Some(custom) if custom.is_object() => ("custom", custom),
            _ => ("function", call.get("function").unwrap_or(&Value::Null)),
        };
        let (index, id) = (call.get("index").and_then(Value::as_u64), word(call.get("id")));
        // By its index; without one, an id that is not the last call's begins a new one.
        let place = match index {
            Some(_) => self.calls.iter().rposition(|known| known.index == index),
            None => {
                let is_other = |known: &Call| id.is_some() && known.id != id;
                self.calls.len().checked_sub(1).filter(|last| !is_other(&self.calls[*last]))
            }
        };
        let place = match place {
            Some(place) => place,
            None if self.room.has_part(self.calls.len()) => {
                self.calls.push(Call { index, id: None, kind, name: String::new(), arguments: String::new() });
                self.calls.len() - 1
            }
            None => return,
        };
        let known = &mut self.calls[place];
        known.id = known.id.take().or(id);
        if let Some(name) = inner.get("name").and_then(Value::as_str).filter(|name| known.name != *name) {
            self.room.push(&mut known.name, name);
        }
        let arguments = if kind == "custom" { "input" } else { "arguments" };
        match inner.get(arguments) {
            Some(Value::String(text)) => self.room.push(&mut known.arguments, text),
            // Some send an object where a text belongs.
            Some(object @ Value::Object(_)) => self.room.push(&mut known.arguments, &object.to_string()),
            _ => {}
        }
    }
}

fn choices(event: &Value) -> impl Iterator<Item = &Value> {
    event.get("choices").and_then(Value::as_array).into_iter().flatten()
}
