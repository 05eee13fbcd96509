//! JSON text to a value, more strictly than `serde_json` alone: a repeated member name is refused, since no two readers agree on
//! which of them counts (and RFC 8785, which hashed JSON follows, has none).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::fields::{FieldErrors, join};
use super::{Answer, Problem};

/// Reads one JSON value that fills `bytes`.
///
/// # Errors
/// 400 where it is not JSON (invalid UTF-8, lone surrogates and nesting beyond 128 levels included), 422 where a member is repeated.
pub fn parse_json(bytes: &[u8]) -> Answer<Value> {
    let not_json = |error: serde_json::Error| Problem::bad_request(format!("the body is not JSON: {error}"));
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    let mut repeated = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { repeated: &mut repeated }.deserialize(&mut deserializer).map_err(not_json)?;
    deserializer.end().map_err(not_json)?;
    let mut errors = FieldErrors::default();
    for path in repeated {
        errors.push(path, "is there more than once");
    }
    errors.into_result(value)
}

/// Builds a [`Value`] and notes the paths of repeated members. A path is completed on the way out, so that a good body pays nothing.
struct Strict<'a> {
    repeated: &'a mut Vec<String>,
}

impl Strict<'_> {
    /// Puts `segment` in front of the paths that were noted since there were `before`.
    fn prefix(&mut self, before: usize, segment: &str) {
        for path in &mut self.repeated[before..] {
            *path = if path.starts_with('[') { format!("{segment}{path}") } else { join(segment, path) };
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let before = self.repeated.len();
            let Some(item) = access.next_element_seed(Strict { repeated: &mut *self.repeated })? else { break };
            if self.repeated.len() > before {
                self.prefix(before, &format!("[{}]", items.len()));
            }
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let before = self.repeated.len();
            let value = access.next_value_seed(Strict { repeated: &mut *self.repeated })?;
            if self.repeated.len() > before {
                self.prefix(before, &name);
            }
            if members.contains_key(&name) {
                if self.repeated.len() > 1_000 {
                    return Err(A::Error::custom("too many repeated members"));
                }
                self.repeated.push(name);
            } else {
                members.insert(name, value);
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(text: &str) -> Vec<String> {
        parse_json(text.as_bytes()).unwrap_err().errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn repeated_members_are_422_with_their_paths() {
        assert_eq!(paths(r#"{"a":1,"a":2}"#), ["a"]);
        assert_eq!(paths(r#"{"m":[{},{"role":1,"role":2,"x":{"y":[[{"z":1,"z":1}]]}}]}"#), ["m[1].role", "m[1].x.y[0][0].z"]);
        assert_eq!(paths(r#"[{"a":1,"a":1}]"#), ["[0].a"]);
        assert_eq!(parse_json(br#"{"a":1,"a":2}"#).unwrap_err().status, 422);
    }

    #[test]
    fn what_is_not_json_is_400() {
        let deep = "[".repeat(200_000);
        let balanced = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        let cases: [&[u8]; 15] = [
            b"",
            b" ",
            b"{",
            b"nul",
            b"{}x",
            b"{} {}",
            b"\"\\ud800\"",
            b"\"\\udc00\\ud800\"",
            b"\"\xff\"",
            b"1e999",
            b"'a'",
            b"\xef\xbb\xbf{}",
            b"[1,]",
            deep.as_bytes(),
            balanced.as_bytes(),
        ];
        for case in cases {
            assert_eq!(parse_json(case).unwrap_err().status, 400, "{:?}", String::from_utf8_lossy(&case[..case.len().min(20)]));
        }
    }

    proptest! {
        #[test]
        fn reads_what_serde_json_reads(text in r#"[\[\]{}:,"0-9a-c\\u.eE+ -]{0,40}"#) {
            let ours = parse_json(text.as_bytes());
            match serde_json::from_str::<Value>(&text) {
                Err(_) => prop_assert_eq!(ours.unwrap_err().status.as_u16(), 400),
                Ok(theirs) => match ours {
                    Ok(ours) => prop_assert_eq!(ours, theirs),
                    Err(problem) => prop_assert_eq!(problem.status.as_u16(), 422),
                },
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_json(&bytes);
        }
    }
}
