//! The elements of a JSON list, or values that follow each other, without parsing more than where each begins and ends.

use std::io::{self, BufRead, BufReader, Read};

use super::{Cut, MAX_RECORD_BYTES};
use crate::record::{Bad, Body, Raw};

/// Where the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Before the first value.
    Start,
    /// Inside the list whose elements are the records.
    InList,
    /// Among values that follow each other.
    Loose,
    /// Behind all.
    Over,
}

/// Records of an input that is a list `[…]`, an object whose first member is one (`{"results": […]}`), or values one after the other.
pub struct Elements<R> {
    reader: BufReader<R>,
    stand: Stand,
    number: u64,
    wrapped: bool,
    max_bytes: usize,
}

impl<R: Read> Elements<R> {
    /// All records of `reader` after number `skip`. `wrapped`: the list is the first member of an object.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn new(reader: R, skip: u64, wrapped: bool) -> io::Result<Self> {
        let reader = BufReader::with_capacity(256 << 10, reader);
        let mut elements = Self { reader, stand: Stand::Start, number: 0, wrapped, max_bytes: MAX_RECORD_BYTES };
        while elements.number < skip && elements.next()?.is_some() {}
        Ok(elements)
    }

    /// The next byte that `passed` does not name.
    fn peek_past(&mut self, passed: impl Fn(u8) -> bool) -> io::Result<Option<u8>> {
        loop {
            let held = self.reader.fill_buf()?;
            if held.is_empty() {
                return Ok(None);
            }
            match held.iter().position(|byte| !passed(*byte)) {
                Some(at) => {
                    let byte = held[at];
                    self.reader.consume(at);
                    return Ok(Some(byte));
                }
                None => {
                    let all = held.len();
                    self.reader.consume(all);
                }
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let first = self.peek_past(|byte| is_space(byte) || [0xef, 0xbb, 0xbf].contains(&byte))?;
        self.stand = match first {
            None => Stand::Over,
            Some(b'[') => {
                self.reader.consume(1);
                Stand::InList
            }
            Some(b'{') if self.wrapped => {
                // `{`, the member's name, `:`, and what stands between them.
                self.peek_past(|byte| byte != b'[')?;
                self.reader.consume(1);
                Stand::InList
            }
            Some(_) => Stand::Loose,
        };
        Ok(())
    }

    /// Reads one value. The answer says whether it is whole.
    fn value(&mut self, first: u8, out: &mut Vec<u8>) -> io::Result<Extent> {
        let nested = matches!(first, b'{' | b'[');
        let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
        let mut over = false;
        loop {
            let held = self.reader.fill_buf()?;
            if held.is_empty() {
                // A number may end with the input.
                return Ok(if nested || in_text { Extent::Broken } else { Extent::of(over) });
            }
            let mut end = None;
            for (at, byte) in held.iter().copied().enumerate() {
                if in_text {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => {
                            in_text = false;
                            if depth == 0 {
                                end = Some(at + 1);
                            }
                        }
                        _ => {}
                    }
                } else {
                    match byte {
                        b'"' => in_text = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            if depth <= 1 {
                                end = Some(at + usize::from(depth == 1));
                            }
                            depth = depth.saturating_sub(1);
                        }
                        b',' if depth == 0 => end = Some(at),
                        _ if depth == 0 && is_space(byte) => end = Some(at),
                        _ => {}
                    }
                }
                if end.is_some() {
                    break;
                }
            }
            let used = end.unwrap_or(held.len());
            if out.len() + used > self.max_bytes {
                over = true;
            } else if !over {
                out.extend_from_slice(&held[..used]);
            }
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Extent::of(over));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Over,
    Broken,
}

impl Extent {
    fn of(over: bool) -> Self {
        if over { Self::Over } else { Self::Whole }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl<R: Read> Cut for Elements<R> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        if self.stand == Stand::Start {
            self.begin()?;
        }
        let bad = |number, reason: String, bytes: &[u8]| Ok(Some(Raw::at(number, Body::Bad(Bad::new(reason, bytes)))));
        let first = match self.stand {
            Stand::Over => return Ok(None),
            _ => self.peek_past(|byte| is_space(byte) || byte == b',')?,
        };
        match (first, self.stand) {
            (None, Stand::InList) => {
                self.stand = Stand::Over;
                bad(self.number + 1, "the input ends inside its list: it is cut off".to_owned(), b"")
            }
            (None, _) => {
                self.stand = Stand::Over;
                Ok(None)
            }
            (Some(b']'), Stand::InList) => {
                self.stand = Stand::Over;
                Ok(None)
            }
            (Some(other @ (b']' | b'}' | b':')), _) => {
                self.stand = Stand::Over;
                bad(
                    self.number + 1,
                    format!("a `{}` stands where a record should begin; nothing is read after it", char::from(other)),
                    b"",
                )
            }
            (Some(first), _) => {
                self.number += 1;
                let mut value = Vec::with_capacity(1024);
                match self.value(first, &mut value)? {
                    Extent::Whole => Ok(Some(Raw::at(self.number, Body::Json(value)))),
                    Extent::Over => bad(self.number, format!("the record is over {} bytes", self.max_bytes), &value),
                    Extent::Broken => {
                        self.stand = Stand::Over;
                        bad(self.number, "the input ends inside this record: it is cut off".to_owned(), &value)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8], skip: u64, wrapped: bool) -> Vec<String> {
        let mut elements = Elements::new(text, skip, wrapped).unwrap();
        let mut found = Vec::new();
        while let Some(raw) = elements.next().unwrap() {
            found.push(match raw.body {
                Body::Json(bytes) => format!("{} {}", raw.number, String::from_utf8_lossy(&bytes)),
                Body::Bad(bad) => format!("{} bad: {}", raw.number, bad.reason),
                Body::Rows(_) => unreachable!(),
            });
        }
        found
    }

    #[test]
    fn lists_wrapped_lists_and_loose_values() {
        let list = r#" [ {"a":"}]\"x"}, [1,[2]] ,7,"s",null ]"#.as_bytes();
        assert_eq!(all(list, 0, false), [r#"1 {"a":"}]\"x"}"#, "2 [1,[2]]", "3 7", "4 \"s\"", "5 null"]);
        assert_eq!(all(list, 3, false), ["4 \"s\"", "5 null"]);
        assert_eq!(all(br#"{"results": [{"a":1},{"b":2}], "next": null}"#, 0, true), [r#"1 {"a":1}"#, r#"2 {"b":2}"#]);
        assert_eq!(all(b"{\n \"a\": 1\n}\n{\"b\":2} 3", 0, false), ["1 {\n \"a\": 1\n}", "2 {\"b\":2}", "3 3"]);
        assert!(all(b"", 0, false).is_empty() && all(b"[]", 0, false).is_empty() && all(b" \n", 0, false).is_empty());
    }

    #[test]
    fn what_is_cut_off_is_said_once() {
        assert_eq!(all(br#"[{"a":1},{"b":"#, 0, false)[1], "2 bad: the input ends inside this record: it is cut off");
        assert_eq!(all(br#"[{"a":1},"#, 0, false)[1], "2 bad: the input ends inside its list: it is cut off");
        let over = all(br#"{"a":1} } {"b":1}"#, 0, false);
        assert!(over.len() == 2 && over[1].contains("`}`"), "{over:?}");
    }

    proptest! {
        #[test]
        fn values_come_back_as_they_were(values in proptest::collection::vec(value(), 0..8), list: bool, pretty: bool, skip in 0_usize..9) {
            let shown = |value: &serde_json::Value| if pretty { format!("{value:#}") } else { value.to_string() };
            let text = values.iter().map(shown).collect::<Vec<_>>().join(if list { " ,\n" } else { "\n" });
            let text = if list { format!("[{text}]") } else { text };
            // A list that stands alone is taken for the list of records.
            prop_assume!(list || !values.first().is_some_and(serde_json::Value::is_array));
            let found = all(text.as_bytes(), skip as u64, false);
            let expected: Vec<String> =
                values.iter().enumerate().skip(skip).map(|(n, value)| format!("{} {}", n + 1, shown(value))).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[\[\]{}:,"\\a1 \n]{0,80}"#, wrapped: bool) {
            all(&bytes, 0, wrapped);
            all(text.as_bytes(), 1, wrapped);
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            r#"[a"\\{}\[\],: \n]{0,8}"#.prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(r#"[a"}]{0,3}"#, inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect()))
            ]
        })
    }
}
