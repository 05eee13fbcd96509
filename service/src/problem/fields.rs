//! Taking a JSON object apart by hand: every broken rule is noted with its path, and whatever is left over is unknown.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Answer, FieldError, Problem};

/// How many broken fields one answer names at most.
pub const MAX_FIELD_ERRORS: usize = 100;

/// The broken rules of one request, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors {
    found: Vec<FieldError>,
}

impl FieldErrors {
    /// Notes a broken rule; beyond [`MAX_FIELD_ERRORS`] it is dropped.
    pub fn push(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.found.len() < MAX_FIELD_ERRORS {
            self.found.push(FieldError { path: path.into(), message: message.into() });
        }
    }

    /// No rule is broken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// `value`, if no rule is broken.
    ///
    /// # Errors
    /// 422 with all that was noted.
    pub fn into_result<T>(self, value: T) -> Answer<T> {
        if self.found.is_empty() { Ok(value) } else { Err(Problem::invalid(self.found)) }
    }

    /// The error answer for what was noted.
    #[must_use]
    pub fn into_problem(self) -> Problem {
        Problem::invalid(self.found)
    }
}

/// The path of member `name` of what stands at `path`.
#[must_use]
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { shortened(name) } else { format!("{path}.{}", shortened(name)) }
}

/// Member names come from the caller: an answer repeats at most 64 characters of one.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(64) {
        Some((end, _)) if name.len() > 256 => format!("{}…", &name[..end]),
        _ => name.to_owned(),
    }
}

/// The members of one object, being taken out one by one. `null` counts as absent.
#[derive(Debug)]
pub struct Fields<'e> {
    path: String,
    members: Map<String, Value>,
    errors: &'e mut FieldErrors,
}

impl<'e> Fields<'e> {
    /// The members of `value`, which stands at `path`; `None` (and noted) where it is no object.
    pub fn of(value: Value, path: impl Into<String>, errors: &'e mut FieldErrors) -> Option<Self> {
        let path = path.into();
        match value {
            Value::Object(members) => Some(Self { path, members, errors }),
            _ => {
                errors.push(path, "must be an object");
                None
            }
        }
    }

    /// Notes a broken rule of member `name`.
    pub fn broken(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(join(&self.path, name), message);
    }

    /// The path of member `name`.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Where further rules are noted.
    pub fn errors(&mut self) -> &mut FieldErrors {
        self.errors
    }

    /// Takes a member as it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a member that must be there.
    pub fn required(&mut self, name: &str) -> Option<Value> {
        let value = self.take(name);
        if value.is_none() {
            self.broken(name, "is required");
        }
        value
    }

    /// Takes a text of `bytes` bytes of UTF-8, without U+0000.
    pub fn text(&mut self, name: &str, bytes: RangeInclusive<usize>) -> Option<String> {
        let value = self.take(name)?;
        self.check_text(name, value, bytes)
    }

    /// Takes a text that must be there.
    pub fn required_text(&mut self, name: &str, bytes: RangeInclusive<usize>) -> Option<String> {
        let value = self.required(name)?;
        self.check_text(name, value, bytes)
    }

    fn check_text(&mut self, name: &str, value: Value, bytes: RangeInclusive<usize>) -> Option<String> {
        let Value::String(text) = value else {
            self.broken(name, "must be a string");
            return None;
        };
        if !bytes.contains(&text.len()) {
            let (least, most) = bytes.into_inner();
            let bound = if least == 0 { format!("at most {most}") } else { format!("{least} to {most}") };
            self.broken(name, format!("must be {bound} bytes of UTF-8 and is {}", text.len()));
            return None;
        }
        if text.contains('\0') {
            self.broken(name, "must not contain U+0000");
            return None;
        }
        Some(text)
    }

    /// Takes a text and reads it with `read`; `expected` says what it must be, such as "an RFC 3339 time".
    pub fn parsed<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let parsed = value.as_str().and_then(read);
        if parsed.is_none() {
            self.broken(name, format!("must be {expected}"));
        }
        parsed
    }

    /// Takes a whole number within bounds. `5.0` is one, too: JSON does not tell them apart.
    pub fn integer(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(name)?;
        #[allow(clippy::cast_possible_truncation)] // whole and within ±2^53, so exact
        let number = value
            .as_i64()
            .or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0).map(|f| f as i64));
        match number {
            Some(number) if bounds.contains(&number) => Some(number),
            _ => {
                self.broken(name, format!("must be a whole number from {} to {}", bounds.start(), bounds.end()));
                None
            }
        }
    }

    /// Takes a number within bounds.
    pub fn number(&mut self, name: &str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(name)?;
        match value.as_f64() {
            Some(number) if bounds.contains(&number) => Some(number),
            _ => {
                self.broken(name, format!("must be a number from {} to {}", bounds.start(), bounds.end()));
                None
            }
        }
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            self.broken(name, "must be true or false");
        }
        boolean
    }

    /// Takes a list with a number of items within bounds.
    pub fn list(&mut self, name: &str, items: RangeInclusive<usize>) -> Option<Vec<Value>> {
        let value = self.take(name)?;
        self.check_list(name, value, items)
    }

    /// Takes a list that must be there.
    pub fn required_list(&mut self, name: &str, items: RangeInclusive<usize>) -> Option<Vec<Value>> {
        let value = self.required(name)?;
        self.check_list(name, value, items)
    }

    fn check_list(&mut self, name: &str, value: Value, items: RangeInclusive<usize>) -> Option<Vec<Value>> {
        let Value::Array(list) = value else {
            self.broken(name, "must be a list");
            return None;
        };
        if !items.contains(&list.len()) {
            let (least, most) = items.into_inner();
            self.broken(name, format!("must have {least} to {most} items and has {}", list.len()));
            return None;
        }
        Some(list)
    }

    /// Whatever was not taken is unknown, and noted.
    pub fn finish(self) {
        for name in self.members.keys() {
            self.errors.push(join(&self.path, name), "is not a known field");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_broken_rules_are_named_with_their_paths() {
        let mut errors = FieldErrors::default();
        let body = json!({"id": 7, "name": "", "nul": "a\0b", "limit": 0, "score": 2.0, "on": "yes", "kinds": [1, 2, 3], "since": "yesterday",
            "more": 1, "nothing": null});
        let mut fields = Fields::of(body, "queries[3]", &mut errors).unwrap();
        assert_eq!(fields.text("id", 0..=8), None);
        assert_eq!(fields.required_text("name", 1..=8), None);
        assert_eq!(fields.text("nul", 1..=8), None);
        assert_eq!(fields.integer("limit", 1..=10), None);
        assert_eq!(fields.number("score", 0.0..=1.0), None);
        assert_eq!(fields.boolean("on"), None);
        assert_eq!(fields.list("kinds", 0..=2), None);
        assert_eq!(fields.parsed("since", "an RFC 3339 time", |_| None::<i64>), None);
        assert_eq!(fields.required_text("gone", 1..=8), None);
        assert_eq!(fields.text("nothing", 1..=8), None);
        fields.finish();
        let shown: Vec<String> = errors.into_problem().errors.into_iter().map(|e| format!("{} {}", e.path, e.message)).collect();
        assert_eq!(
            shown,
            [
                "queries[3].id must be a string",
                "queries[3].name must be 1 to 8 bytes of UTF-8 and is 0",
                "queries[3].nul must not contain U+0000",
                "queries[3].limit must be a whole number from 1 to 10",
                "queries[3].score must be a number from 0 to 1",
                "queries[3].on must be true or false",
                "queries[3].kinds must have 0 to 2 items and has 3",
                "queries[3].since must be an RFC 3339 time",
                "queries[3].gone is required",
                "queries[3].more is not a known field",
            ]
        );
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
        let mut errors = FieldErrors::default();
        let mut fields =
            Fields::of(json!({"a": 5.0, "b": 5.5, "c": 1e300, "d": 18446744073709551615u64}), "", &mut errors).unwrap();
        assert_eq!(fields.integer("a", 0..=10), Some(5));
        assert_eq!(fields.integer("b", 0..=10), None);
        assert_eq!(fields.integer("c", 0..=i64::MAX), None);
        assert_eq!(fields.integer("d", 0..=i64::MAX), None);
    }

    #[test]
    fn errors_and_repeated_names_are_bounded() {
        let mut errors = FieldErrors::default();
        let giant = "k".repeat(100_000);
        let members: Map<String, Value> = (0..200).map(|n| (format!("{giant}{n}"), Value::Bool(true))).collect();
        Fields::of(Value::Object(members), "", &mut errors).unwrap().finish();
        let problem = errors.into_problem();
        assert_eq!(problem.errors.len(), MAX_FIELD_ERRORS);
        assert!(problem.errors.iter().all(|e| e.path.len() < 100));
    }
}
