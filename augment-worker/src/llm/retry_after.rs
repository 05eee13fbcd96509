//! When a provider wants to be asked again.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// A longer wait is not believed.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// `retry-after-ms`, else `Retry-After` in seconds or as a date, at most [`LONGEST`].
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)?;
        Some(Duration::from_secs_f64((number * unit).min(LONGEST.as_secs_f64())))
    };
    if let Some(wait) = text("retry-after-ms").and_then(|text| seconds(text, 1e-3)) {
        return Some(wait);
    }
    let after = text(RETRY_AFTER.as_str())?;
    seconds(after, 1.0).or_else(|| {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(after).ok()?;
        let wait = at.duration_since(now);
        Some(Duration::try_from(wait).unwrap_or_default().min(LONGEST))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{LONGEST, retry_after};

    #[test]
    fn seconds_milliseconds_and_dates_are_read_and_bounded() {
        let now: Timestamp = "2024-05-15T10:00:00Z".parse().unwrap();
        let s = Duration::from_secs;
        for (name, text, wait) in [
            ("retry-after", "7", Some(s(7))),
            ("retry-after", "0", Some(s(0))),
            ("retry-after", " 1.5 ", Some(Duration::from_millis(1_500))),
            ("retry-after", "99999999999999999999", Some(LONGEST)),
            ("retry-after", "Wed, 15 May 2024 10:00:30 GMT", Some(s(30))),
            ("retry-after", "Wed, 15 May 2024 09:00:00 GMT", Some(s(0))),
            ("retry-after", "Thu, 15 May 2025 09:00:00 GMT", Some(LONGEST)),
            ("retry-after", "-1", None),
            ("retry-after", "NaN", None),
            ("retry-after", "soon", None),
            ("retry-after-ms", "250", Some(Duration::from_millis(250))),
            ("x-other", "3", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(text).unwrap());
            assert_eq!(retry_after(&headers, now), wait, "{name}: {text}");
        }
    }
}
