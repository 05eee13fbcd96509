//! What is served at once is bounded, in requests and in bytes of their bodies; beyond that the answer is 503, at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use memori_service::problem::{Answer, BodyBounds, Problem, read_bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Permits count in these, since a semaphore's count is 32 bits.
const UNIT_BYTES: usize = 1_024;

/// The bounds.
#[derive(Clone, Debug)]
pub struct Limits {
    requests: Arc<Semaphore>,
    /// Apart from the others, so that many who wait keep nobody from posting what they wait for.
    waits: Arc<Semaphore>,
    body_units: Arc<Semaphore>,
    body_units_total: usize,
    body_timeout: Duration,
}

/// A body, and its share of the bytes in flight for as long as this lives.
#[derive(Debug)]
pub struct HeldBody {
    /// The body.
    pub bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Limits {
    /// `requests` served and as many waiting; `body_bytes` held; a body arrives within `body_timeout`.
    #[must_use]
    pub fn new(requests: usize, body_bytes: usize, body_timeout: Duration) -> Self {
        // At least one largest body fits, else none of that size could ever be served.
        let units = (body_bytes / UNIT_BYTES).max(crate::events::MAX_BATCH_BYTES / UNIT_BYTES).min(u32::MAX as usize >> 4);
        Self {
            requests: Arc::new(Semaphore::new(requests.max(1))),
            waits: Arc::new(Semaphore::new(requests.max(1))),
            body_units: Arc::new(Semaphore::new(units)),
            body_units_total: units,
            body_timeout,
        }
    }

    /// A place for one request.
    ///
    /// # Errors
    /// 503 where there is none.
    pub fn admit(&self, waits: bool) -> Answer<OwnedSemaphorePermit> {
        let pool = if waits { &self.waits } else { &self.requests };
        Arc::clone(pool).try_acquire_owned().map_err(|_| Problem::unavailable("too many requests are being served", 1))
    }

    /// Reads a body of at most `max_bytes`. What its head does not declare is taken for the most.
    ///
    /// # Errors
    /// 503 where too many bytes are held, else as [`read_bytes`].
    pub async fn read(&self, headers: &HeaderMap, body: Body, max_bytes: usize) -> Answer<HeldBody> {
        let declared =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<usize>().ok());
        let bytes = declared.unwrap_or(max_bytes).min(max_bytes);
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, self.body_units_total)).unwrap_or(u32::MAX);
        let share = match Arc::clone(&self.body_units).try_acquire_many_owned(units) {
            Ok(share) => share,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                return Err(Problem::unavailable("too many bytes of requests are being held", 1));
            }
        };
        let bytes = read_bytes(headers, body, BodyBounds { max_bytes, timeout: self.body_timeout }).await?;
        Ok(HeldBody { bytes, _share: share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_and_bytes_come_back() {
        let limits = Limits::new(1, 0, Duration::from_secs(5));
        let place = limits.admit(false).unwrap();
        assert_eq!(limits.admit(false).unwrap_err().status, 503);
        assert!(limits.admit(true).is_ok(), "those who wait have places of their own");
        drop(place);
        assert!(limits.admit(false).is_ok());

        let all = crate::events::MAX_BATCH_BYTES;
        let held = limits.read(&HeaderMap::new(), Body::from("{}"), all).await.unwrap();
        assert_eq!(held.bytes.as_ref(), b"{}");
        let refused = limits.read(&HeaderMap::new(), Body::from("{}"), 10).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.retry_after), (503, Some(1)));
        drop(held);
        assert!(limits.read(&HeaderMap::new(), Body::from("{}"), 10).await.is_ok());
    }
}
