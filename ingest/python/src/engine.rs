//! `Engine`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use memori_sdk::system::problem;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::callbacks::{self, Given};
use crate::member::Member;
use crate::seconds;

/// Log, worker, writer and recall in this process, or the way to a platform; shared by all that ask for the same configuration.
#[pyclass(frozen, module = "memori._core")]
pub(crate) struct Engine {
    engine: Arc<memori_sdk::Engine>,
    /// This handle was closed; others of the same engine go on.
    closed: AtomicBool,
}

impl Engine {
    /// The engine of this process; none where this handle was closed.
    fn here(&self) -> Option<Arc<memori_sdk::Engine>> {
        (!self.closed.load(Ordering::SeqCst)).then(|| self.engine.here())
    }
}

fn closed() -> (u16, Bytes) {
    (503, problem(503, "memory is closed"))
}

/// What is asked for, taken apart while Python's objects may be touched.
fn asked(method: &str, body: Option<&[u8]>) -> (Option<memori_sdk::Method>, Option<Bytes>) {
    (memori_sdk::Method::from_bytes(method.as_bytes()).ok(), body.map(Bytes::copy_from_slice))
}

#[pymethods]
impl Engine {
    #[staticmethod]
    fn open(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        let engine = py.detach(|| memori_sdk::Engine::open(config_json)).map_err(|error| PyValueError::new_err(error.0))?;
        Ok(Self { engine, closed: AtomicBool::new(false) })
    }

    fn build(&self, py: Python<'_>, timeout_s: f64) -> PyResult<String> {
        let Some(engine) = self.here() else { return Err(PyRuntimeError::new_err("memory is closed")) };
        let timeout = seconds(timeout_s);
        match py.detach(|| engine.build_here(timeout)) {
            Some(Ok(place)) => Ok(place),
            Some(Err(why)) => Err(PyRuntimeError::new_err(why)),
            None => Err(PyRuntimeError::new_err(format!("memory was not ready within {timeout_s} s"))),
        }
    }

    fn member(&self, py: Python<'_>) -> Member {
        let engine = self.engine.here();
        Member::new(py.detach(|| Arc::new(engine.member())))
    }

    fn set_workers(&self, py: Python<'_>, n: usize) {
        if let Some(engine) = self.here() {
            py.detach(|| engine.set_workers(n));
        }
    }

    fn set_batch_rows(&self, py: Python<'_>, n: usize) {
        if let Some(engine) = self.here() {
            py.detach(|| engine.set_batch_rows(n));
        }
    }

    fn stats_json(&self, py: Python<'_>) -> String {
        let engine = self.engine.here();
        py.detach(|| engine.stats_json())
    }

    fn notices(&self, py: Python<'_>) -> Vec<(u8, String)> {
        let engine = self.engine.here();
        py.detach(|| engine.notices())
    }

    fn quota(&self, py: Python<'_>) -> Option<(String, f64)> {
        let engine = self.here()?;
        py.detach(|| engine.quota()).map(|(said, left)| (said, left.as_secs_f64()))
    }

    fn flush(&self, py: Python<'_>, timeout_s: f64) -> bool {
        let Some(engine) = self.here() else { return false };
        py.detach(|| engine.flush(seconds(timeout_s)))
    }

    fn close(&self, py: Python<'_>, timeout_s: f64) -> bool {
        let Some(engine) = self.here() else { return true };
        self.closed.store(true, Ordering::SeqCst);
        py.detach(|| engine.close(seconds(timeout_s)))
    }

    #[pyo3(signature = (method, path, body, deadline_ms))]
    fn request_json<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        deadline_ms: u64,
    ) -> (u16, Bound<'py, PyBytes>) {
        let (method, body) = asked(method, body);
        let (status, answer) = match (self.here(), method) {
            (None, _) => closed(),
            (_, None) => (405, problem(405, "that is no method")),
            (Some(engine), Some(method)) => {
                py.detach(|| engine.request(method, path.to_owned(), body, Duration::from_millis(deadline_ms)))
            }
        };
        (status, PyBytes::new(py, &answer))
    }

    #[pyo3(signature = (method, path, body, deadline_ms, done))]
    fn request_async(&self, py: Python<'_>, method: &str, path: &str, body: Option<&[u8]>, deadline_ms: u64, done: Py<PyAny>) {
        let (method, body) = asked(method, body);
        let respond = |engine: Arc<memori_sdk::Engine>, (status, answer): (u16, Bytes)| {
            callbacks::call(engine, done, Given::Response(status, answer));
        };
        match (self.here(), method) {
            (None, _) => respond(self.engine.here(), closed()),
            (Some(engine), None) => respond(engine, (405, problem(405, "that is no method"))),
            (Some(engine), Some(method)) => py.detach(|| {
                let of_callback = Arc::clone(&engine);
                let respond = move |answer| respond(of_callback, answer);
                engine.request_then(method, path.to_owned(), body, Duration::from_millis(deadline_ms), respond);
            }),
        }
    }
}
