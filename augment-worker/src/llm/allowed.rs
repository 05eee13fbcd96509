//! What a provider's headers say is left of its limits.
//!
//! Three families: `x-ratelimit-{remaining,limit,reset}-{requests,tokens}` (OpenAI and whoever is compatible with it; resets are spans
//! such as `6m0s`), `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{remaining,limit,reset}` (resets are times), and
//! the plain `ratelimit-{remaining,limit,reset}`, with `x-` before it or not (resets are seconds, or seconds since 1970). The first two
//! fill steadily; of the last one it is not known, so all comes back at its reset. A count without a reset is not used: a refusal says more.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

use super::retry_after::LONGEST;
use crate::pace::{Allowed, Remaining};

/// Numbers from this on are a time, in seconds since 1970, and no span.
const A_TIME: f64 = 1e9;
/// Numbers from this on are a time in milliseconds.
const A_TIME_MS: f64 = 1e12;

/// What `headers` say.
pub(crate) fn allowed(headers: &HeaderMap, now: Timestamp) -> Allowed {
    let told = |remaining: &str, limit: &str, reset: &str, is_steady: bool| {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        Some(Remaining {
            remaining: text(remaining)?.parse().ok()?,
            limit: text(limit).and_then(|limit| limit.parse().ok()),
            resets_after: span(text(reset)?, now)?,
            is_steady,
        })
    };
    let named = |what: &str| {
        let open_ai =
            [format!("x-ratelimit-remaining-{what}"), format!("x-ratelimit-limit-{what}"), format!("x-ratelimit-reset-{what}")];
        let anthropic = ["remaining", "limit", "reset"].map(|part| format!("anthropic-ratelimit-{what}-{part}"));
        [open_ai, anthropic].into_iter().filter_map(|[remaining, limit, reset]| told(&remaining, &limit, &reset, true)).next()
    };
    let plain = || {
        ["", "x-"].into_iter().find_map(|x| {
            let [remaining, limit, reset] = ["remaining", "limit", "reset"].map(|part| format!("{x}ratelimit-{part}"));
            told(&remaining, &limit, &reset, false)
        })
    };
    // Of tokens in, out and together the one that is nearest to its end.
    let tokens = ["tokens", "input-tokens", "output-tokens"].into_iter().filter_map(named).min_by_key(|told| told.remaining);
    Allowed { requests: named("requests").or_else(plain), tokens }
}

/// A span (`1m30.5s`, `120ms`, seconds) or a time (RFC 3339, since 1970) as how long from now, at most [`LONGEST`].
fn span(text: &str, now: Timestamp) -> Option<Duration> {
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
    let span = if let Ok(number) = text.parse::<f64>() {
        if !number.is_finite() || number < 0.0 {
            return None;
        }
        if number >= A_TIME_MS {
            until(Timestamp::from_second((number / 1e3) as i64).ok()?)
        } else if number >= A_TIME {
            until(Timestamp::from_second(number as i64).ok()?)
        } else {
            Duration::from_secs_f64(number)
        }
    } else if let Ok(at) = text.parse::<Timestamp>() {
        until(at)
    } else {
        units(text)?
    };
    Some(span.min(LONGEST))
}

/// Numbers with their units, one behind the other.
fn units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{LONGEST, allowed, span};
    use crate::pace::{Allowed, Remaining};

    fn now() -> Timestamp {
        "2024-05-15T10:00:00Z".parse().unwrap()
    }

    fn headers(of: &[(&str, &str)]) -> HeaderMap {
        let pairs = of
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).expect("a name"), HeaderValue::from_str(value).expect("a value")));
        pairs.collect()
    }

    #[test]
    fn every_family_is_read() {
        let told = |remaining, limit, ms, is_steady| {
            Some(Remaining { remaining, limit, resets_after: Duration::from_millis(ms), is_steady })
        };
        let of = |headers_of: &[(&str, &str)]| allowed(&headers(headers_of), now());
        assert_eq!(
            of(&[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-limit-tokens", "150000"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ]),
            Allowed { requests: told(59, Some(60), 1_000, true), tokens: told(149_984, Some(150_000), 360_000, true) }
        );
        assert_eq!(
            of(&[
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-limit", "50"),
                ("anthropic-ratelimit-requests-reset", "2024-05-15T10:00:30Z"),
                ("anthropic-ratelimit-input-tokens-remaining", "9000"),
                ("anthropic-ratelimit-input-tokens-reset", "2024-05-15T10:00:10Z"),
                ("anthropic-ratelimit-output-tokens-remaining", "100"),
                ("anthropic-ratelimit-output-tokens-reset", "2024-05-15T10:00:20Z"),
            ]),
            Allowed { requests: told(0, Some(50), 30_000, true), tokens: told(100, None, 20_000, true) }
        );
        for prefix in ["", "x-"] {
            let names = ["remaining", "limit", "reset"].map(|part| format!("{prefix}ratelimit-{part}"));
            let plain = of(&[(&names[0], "3"), (&names[1], "10"), (&names[2], "7")]);
            assert_eq!(plain, Allowed { requests: told(3, Some(10), 7_000, false), tokens: None });
        }
        assert_eq!(of(&[("x-ratelimit-remaining-requests", "0")]), Allowed::default(), "without a reset it says too little");
        assert_eq!(of(&[("ratelimit-remaining", "many"), ("ratelimit-reset", "1")]), Allowed::default());
    }

    #[test]
    fn spans_and_times_are_read_and_bounded() {
        for (text, ms) in [
            ("0", Some(0)),
            ("1.5", Some(1_500)),
            ("120ms", Some(120)),
            ("8.64s", Some(8_640)),
            ("2m59.56s", Some(179_560)),
            ("1h", Some(600_000)),
            ("1715767230", Some(30_000)),
            ("1715767230000", Some(30_000)),
            ("1715767200", Some(0)),
            ("2024-05-15T09:00:00Z", Some(0)),
            ("-1", None),
            ("NaN", None),
            ("s", None),
            ("1x", None),
            ("soon", None),
            ("1..2s", None),
        ] {
            assert_eq!(span(text, now()), ms.map(Duration::from_millis), "{text}");
        }
        assert_eq!(span("99999d", now()), Some(LONGEST));
    }

    proptest::proptest! {
        #[test]
        fn any_words_are_survived(text in proptest::prelude::any::<String>()) {
            if let Some(wait) = span(&text, now()) {
                proptest::prop_assert!(wait <= LONGEST);
            }
        }
    }
}
