//! Times as exports write them.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use memori_schemas::Micros;
use serde_json::Value;

/// A time that is a number of seconds, milliseconds, microseconds or nanoseconds since 1970 (by its size), or text: RFC 3339, or a
/// date with or without a time of day, taken for UTC where it names no offset. `None` where it is none of these, or not after 1970.
#[must_use]
pub fn read(value: &Value) -> Option<Micros> {
    match value {
        Value::Number(number) => of_number(number.as_f64()?),
        Value::String(text) => of_text(text.trim()),
        _ => None,
    }
}

fn of_number(number: f64) -> Option<Micros> {
    // Seconds reach 1e11 in the year 5138; as milliseconds that is March 1973.
    let micros = match number {
        n if n.is_nan() || n <= 0.0 => return None,
        n if n < 1e11 => n * 1e6,
        n if n < 1e14 => n * 1e3,
        n if n < 1e17 => n,
        n => n / 1e3,
    };
    #[allow(clippy::cast_possible_truncation, reason = "rounded, and far below the bounds of i64")]
    let micros = Micros(micros.round() as i64);
    Timestamp::from_microsecond(micros.0).ok().map(|_| micros)
}

fn of_text(text: &str) -> Option<Micros> {
    if let Some(at) = Micros::parse_rfc3339(text) {
        return Some(at);
    }
    if let Ok(number) = text.parse::<f64>() {
        return of_number(number);
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(Micros(instant.as_microsecond()));
    }
    let civil =
        text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|date| date.to_datetime(jiff::civil::Time::midnight())));
    let instant = civil.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Micros(instant.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_exports_write_is_read() {
        let expected = Some("2024-05-06T07:08:09Z");
        for value in [
            json!(1_714_979_289),
            json!(1_714_979_289.0),
            json!(1_714_979_289_000_i64),
            json!(1_714_979_289_000_000_i64),
            json!(1_714_979_289_000_000_000_i64),
            json!("1714979289"),
            json!("2024-05-06T07:08:09Z"),
            json!("2024-05-06 07:08:09"),
            json!("2024-05-06T07:08:09"),
            json!("2024-05-06T09:08:09+02:00"),
            json!("2024-05-06 07:08:09+00:00"),
            json!(" 2024-05-06 07:08:09.000 "),
        ] {
            assert_eq!(read(&value).map(Micros::to_rfc3339).as_deref(), expected, "{value}");
        }
        assert_eq!(read(&json!("2024-05-06")).map(Micros::to_rfc3339).as_deref(), Some("2024-05-06T00:00:00Z"));
        assert_eq!(read(&json!(1_714_979_289.25)).map(Micros::to_rfc3339).as_deref(), Some("2024-05-06T07:08:09.25Z"));
        for value in [json!("yesterday"), json!(null), json!(-1), json!(0), json!(f64::MAX), json!([]), json!("")] {
            assert_eq!(read(&value), None, "{value}");
        }
    }
}
