//! Instants on the log: microseconds since 1970-01-01T00:00:00Z.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// The present, by the system's clock. Only shells call this; decisions are given the time.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_microsecond())
    }

    /// Parses RFC 3339 (any offset). `None` where the text is not one, or lies before year 1 or after 9999-12-30T22:00:00Z (the last that `jiff` holds).
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        if !has_rfc3339_form(text) {
            return None;
        }
        let instant: jiff::Timestamp = text.parse().ok()?;
        let year = instant.to_zoned(jiff::tz::TimeZone::UTC).year();
        (1..=9999).contains(&year).then(|| Self(instant.as_microsecond()))
    }

    /// RFC 3339 in UTC with a trailing `Z`, as the HTTP API shows times.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_microsecond(self.0).map_or_else(|_| self.0.to_string(), |t| t.to_string())
    }
}

/// `jiff` reads far more of ISO 8601 (basic forms, missing parts, zone annotations) than RFC 3339 has.
fn has_rfc3339_form(text: &str) -> bool {
    let fits = |bytes: &[u8], form: &[u8]| {
        bytes.len() == form.len()
            && bytes.iter().zip(form).all(|(byte, kind)| match kind {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b't' | b' '),
                b'+' => matches!(byte, b'+' | b'-'),
                _ => byte == kind,
            })
    };
    let Some((head, mut tail)) = text.as_bytes().split_at_checked(19) else { return false };
    if let Some(fraction) = tail.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        tail = &fraction[digits..];
    }
    fits(head, b"0000-00-00T00:00:00") && (matches!(tail, b"Z" | b"z") || fits(tail, b"+00:00"))
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::Micros;

    #[test]
    fn rfc_3339_in_any_offset() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t01:00:00.5+01:00", 500_000),
            ("1969-12-31 23:59:59.999999z", -1),
            ("2024-02-29T12:00:00-05:30", 1_709_227_800_000_000),
            ("9999-12-30T21:59:59Z", 253_402_207_199_000_000),
            ("2024-01-01T00:00:00.123456789Z", 1_704_067_200_123_456),
        ] {
            let parsed = Micros::parse_rfc3339(text);
            assert_eq!(parsed, Some(Micros(micros)), "{text}");
            assert_eq!(parsed.and_then(|t| Micros::parse_rfc3339(&t.to_rfc3339())), parsed, "{text}");
        }
        assert_eq!(Micros(0).to_rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Micros(1_500_000).to_rfc3339(), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "now",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00Z",
            "20240101T000000Z",
            "2024-01-01T00:00Z",
            "2024-02-30T00:00:00Z",
            "2024-01-01T25:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00Z[Europe/Paris]",
            "+002024-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "1700000000",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(Micros::parse_rfc3339(text), None, "{text}");
        }
    }
}
