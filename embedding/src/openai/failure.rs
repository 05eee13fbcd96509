//! What went wrong with a request, and whether it is worth another. Pure.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::EmbedError;
use crate::metrics::Cause;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Who asks for more patience than this is not asked again within the call.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// A failed request. Its text holds no content, no key and no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    text: String,
    retry: bool,
    retry_after: Option<Duration>,
    /// It may be about how the request was put.
    pub(crate) form: bool,
}

impl Failure {
    fn new(cause: Cause, text: impl Into<String>, retry: bool) -> Self {
        Self { cause, text: text.into(), retry, retry_after: None, form: false }
    }

    /// No answer, or one that broke off.
    pub(crate) fn of_transport(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::new(Cause::Timeout, "the endpoint did not answer in time", true)
        } else if error.is_builder() {
            Self::new(Cause::Refused, "the request cannot be made", false)
        } else if error.is_connect() {
            Self::new(Cause::Connection, "no connection to the endpoint", true)
        } else {
            Self::new(Cause::Connection, "the connection to the endpoint broke off", true)
        }
    }

    /// An answer with another status than success. Of what it `said` only what it is about is looked at.
    pub(crate) fn of_status(status: StatusCode, headers: &HeaderMap, said: &[u8], now: Timestamp) -> Self {
        let text = format!("the endpoint answered {}", status.as_u16());
        let mut failure = match status {
            StatusCode::TOO_MANY_REQUESTS => Self::new(Cause::RateLimited, text, true),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Self::new(Cause::Unavailable, text, true),
            status if status.is_server_error() => Self::new(Cause::Unavailable, text, true),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Self::new(Cause::Refused, format!("{text}: see embedding.api_key"), false)
            }
            StatusCode::NOT_FOUND => {
                Self::new(Cause::Refused, format!("{text}: see embedding.base_url and embedding.model"), false)
            }
            _ => Self::new(Cause::Refused, text, false),
        };
        failure.retry_after = retry_after(headers, now);
        if [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&status) {
            let said = String::from_utf8_lossy(said).to_lowercase();
            failure.form = ["dimension", "matryoshka", "encoding_format", "extra", "unknown", "unrecognized", "unsupported"]
                .iter()
                .any(|word| said.contains(word));
        }
        failure
    }

    /// An answer that is not what was asked for; another may be.
    pub(crate) fn invalid(what: &str) -> Self {
        Self::new(Cause::Invalid, format!("the endpoint's answer cannot be used: {what}"), true)
    }

    /// An answer whose vectors have another length: no retry mends that.
    pub(crate) fn dimensions(found: usize, wanted: usize) -> Self {
        let text = format!("the endpoint's vectors have {found} components, embedding.dimensions is {wanted}: make them one");
        Self::new(Cause::Invalid, text, false)
    }

    /// How long to wait before attempt number `attempt + 1`; none: not at all. `chance` is in 0–1.
    pub(crate) fn wait(&self, attempt: u32, max_attempts: u32, chance: f64) -> Option<Duration> {
        if !self.retry || attempt >= max_attempts {
            return None;
        }
        let most = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_WAIT);
        let own = most.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        match self.retry_after {
            Some(asked) if asked > LONGEST_RETRY_AFTER => None,
            Some(asked) => Some(asked.max(own)),
            None => Some(own),
        }
    }

    pub(crate) fn into_error(self) -> EmbedError {
        if self.retry { EmbedError::Unavailable(self.text) } else { EmbedError::Refused(self.text) }
    }
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        let seconds = (seconds >= 0.0).then_some(seconds.min(1e6))?;
        return Some(Duration::from_secs_f64(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn status(code: u16, after: Option<&'static str>, said: &str) -> Failure {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
        }
        let now = "2024-05-15T10:00:00Z".parse().unwrap();
        Failure::of_status(StatusCode::from_u16(code).unwrap(), &headers, said.as_bytes(), now)
    }

    #[test]
    fn statuses_have_causes_and_only_some_are_worth_another_attempt() {
        for (code, cause, again) in [
            (429, Cause::RateLimited, true),
            (500, Cause::Unavailable, true),
            (503, Cause::Unavailable, true),
            (408, Cause::Unavailable, true),
            (400, Cause::Refused, false),
            (401, Cause::Refused, false),
            (404, Cause::Refused, false),
            (302, Cause::Refused, false),
        ] {
            let failure = status(code, None, "secret text");
            assert_eq!((failure.cause, failure.wait(1, 2, 0.0).is_some()), (cause, again), "{code}");
            assert!(!failure.text.contains("secret"));
        }
    }

    #[test]
    fn waits_grow_have_a_bound_and_heed_the_endpoint() {
        let ms = Duration::from_millis;
        let failure = status(500, None, "");
        assert_eq!(failure.wait(1, 9, 1.0), Some(ms(200)));
        assert_eq!(failure.wait(2, 9, 0.0), Some(ms(200)));
        assert_eq!(failure.wait(8, 9, 1.0), Some(LONGEST_WAIT));
        assert_eq!(failure.wait(9, 9, 1.0), None);
        assert_eq!(status(429, Some("2"), "").wait(1, 9, 1.0), Some(ms(2_000)));
        assert_eq!(status(429, Some("0"), "").wait(1, 9, 1.0), Some(ms(200)));
        assert_eq!(status(429, Some("Wed, 15 May 2024 10:00:05 GMT"), "").wait(1, 9, 1.0), Some(ms(5_000)));
        assert_eq!(status(429, Some("3600"), "").wait(1, 9, 1.0), None);
        for not in ["soon", "-1", "NaN"] {
            assert_eq!(status(429, Some(not), "").wait(1, 9, 1.0), Some(ms(200)), "{not}");
        }
    }

    #[test]
    fn a_refusal_of_the_form_is_told_apart() {
        assert!(status(400, None, "Model does not support Matryoshka representation").form);
        assert!(status(422, None, "Extra inputs are not permitted").form);
        assert!(!status(400, None, "maximum context length").form && !status(500, None, "dimensions").form);
    }
}
