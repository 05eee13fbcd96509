//! `Member`.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memori_sdk::process::PerProcess;
use memori_sdk::turn::{LARGE_BODY_BYTES, Scope};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::callbacks::{self, Given};
use crate::turn::{Turn, bytes_of};
use crate::{guarded, seconds};

/// How often a wait looks whether a signal came.
const SIGNALS: Duration = Duration::from_millis(50);
/// Beyond its own time a wait is waited for that long.
const GRACE: Duration = Duration::from_secs(1);

/// What one `Memori` captured, and whether it is applied.
#[pyclass(frozen, module = "memori._core")]
pub(crate) struct Member {
    member: Arc<memori_sdk::Member>,
    /// What stands for it in a process that was forked.
    forked: PerProcess<Arc<memori_sdk::Member>>,
}

impl Member {
    pub(crate) fn new(member: Arc<memori_sdk::Member>) -> Self {
        Self { member, forked: PerProcess::new() }
    }

    /// This process's.
    fn here(&self) -> &Arc<memori_sdk::Member> {
        let engine = self.member.engine();
        if engine.is_of_this_process() {
            return &self.member;
        }
        self.forked.get_or_make(|| Arc::new(engine.here().member()))
    }
}

#[pymethods]
impl Member {
    #[pyo3(signature = (scope, url_path, content_type, body, retry))]
    fn begin(
        &self,
        py: Python<'_>,
        scope: (String, Option<String>, Option<String>),
        url_path: &str,
        content_type: Option<&str>,
        body: &Bound<'_, PyBytes>,
        retry: u32,
    ) -> Option<Turn> {
        let member = self.here();
        let (entity_id, process_id, session_id) = scope;
        let scope = Scope { entity_id, process_id, session_id };
        let original = (body.as_bytes().len() > LARGE_BODY_BYTES).then(|| body.clone().unbind());
        let body = bytes_of(body);
        let begun = guarded(member.engine(), || py.detach(|| member.begin(scope, url_path, content_type, body, retry)));
        begun.flatten().map(|turn| Turn::new(turn, original))
    }

    fn capture(&self, py: Python<'_>, event_json: &[u8]) -> PyResult<String> {
        let member = self.here();
        let captured = py.detach(|| member.capture(event_json));
        captured.map(|(event_id, _)| event_id).map_err(PyValueError::new_err)
    }

    fn capture_durable(&self, py: Python<'_>, event_json: &[u8], timeout_s: f64) -> PyResult<(String, bool)> {
        let member = self.here();
        py.detach(|| {
            let (event_id, number) = member.capture(event_json)?;
            let durable = number.and_then(|number| member.engine().block_on(seconds(timeout_s), member.durable(number)));
            Ok((event_id, durable.unwrap_or(false)))
        })
        .map_err(|why: String| PyValueError::new_err(why))
    }

    #[pyo3(signature = (timeout_s))]
    fn wait(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<bool> {
        let member = self.here();
        let timeout = timeout_s.map(seconds);
        let (sender, receiver) = sync_channel(1);
        let receiver = Mutex::new(receiver);
        py.detach(|| {
            member.wait_then(timeout, move |applied| {
                let _ = sender.send(applied);
            });
        });
        let end = timeout.map(|timeout| Instant::now() + timeout + GRACE);
        loop {
            match py.detach(|| receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SIGNALS)) {
                Ok(applied) => return Ok(applied),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) if end.is_some_and(|end| Instant::now() >= end) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            }
        }
    }

    #[pyo3(signature = (timeout_s, done))]
    fn wait_async(&self, py: Python<'_>, timeout_s: Option<f64>, done: Py<PyAny>) {
        let member = self.here();
        let engine = Arc::clone(member.engine());
        py.detach(|| {
            member.wait_then(timeout_s.map(seconds), move |applied| {
                callbacks::call(engine, done, Given::Flag(applied));
            });
        });
    }

    fn failures_json(&self, py: Python<'_>) -> String {
        let member = self.here();
        py.detach(|| serde_json::to_string(&member.failures()).unwrap_or_else(|_| "[]".to_owned()))
    }
}
