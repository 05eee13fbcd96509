//! JSON as it comes: halves of surrogate pairs, which other writers let through and Rust's text cannot hold, become U+FFFD.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// What `json` says, if it is JSON of that form.
pub(super) fn read<T: DeserializeOwned>(json: &str) -> Option<T> {
    match serde_json::from_str(json) {
        Ok(value) => Some(value),
        Err(_) => match mended(json) {
            Cow::Borrowed(_) => None,
            Cow::Owned(mended) => serde_json::from_str(&mended).ok(),
        },
    }
}

/// [`read`], of bytes.
pub(super) fn read_bytes<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    read(std::str::from_utf8(json).ok()?)
}

/// The text that a JSON string holds. None where it is something else.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    raw.get().starts_with('"').then(|| read(raw.get())).flatten()
}

/// `json` with every half of a surrogate pair that stands alone as `\ufffd`.
fn mended(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let escape = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(escape).ok()?, 16).ok()
    };
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(&json[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(&json[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_become_marks() {
        for (json, text) in [
            (r#""a\ud83d\ude00b""#, Some("a😀b")),
            (r#""a\ud83db""#, Some("a\u{FFFD}b")),
            (r#""\ude00\ud83d""#, Some("\u{FFFD}\u{FFFD}")),
            (r#""\\ud83d \ud83d\u0041""#, Some("\\ud83d \u{FFFD}A")),
            (r#""\ud83d\n""#, Some("\u{FFFD}\n")),
            (r#""\ud8"#, None),
            (r#""\ud83d"#, None),
            ("\"\\ud83dä\"", Some("\u{FFFD}ä")),
            ("\"\\ä\"", None),
        ] {
            assert_eq!(read::<String>(json).as_deref(), text, "{json}");
        }
    }
}
