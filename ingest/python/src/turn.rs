//! `Turn`.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::callbacks::{self, Given};
use crate::guarded;

/// Above this a body is read without the interpreter's lock; below it, letting go of the lock costs more than the reading.
const LARGE_BYTES: usize = 16 << 10;

/// One call to a model.
#[pyclass(frozen, module = "memori._core")]
pub(crate) struct Turn {
    turn: Arc<memori_sdk::Turn>,
}

impl Turn {
    pub(crate) fn new(turn: Arc<memori_sdk::Turn>) -> Self {
        Self { turn }
    }

    /// A child does not go on with its parent's turns.
    fn if_ours<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let engine = self.turn.engine();
        if engine.is_of_this_process() { guarded(engine, work) } else { None }
    }
}

#[pymethods]
impl Turn {
    #[getter]
    fn event_id(&self) -> &str {
        self.turn.event_id()
    }

    fn inject<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let injected = self.if_ours(|| py.detach(|| self.turn.inject_here()));
        PyBytes::new(py, injected.as_ref().unwrap_or_else(|| self.turn.original()))
    }

    fn inject_async(&self, py: Python<'_>, done: Py<PyAny>) {
        let engine = Arc::clone(self.turn.engine());
        // Called once, also where a broken invariant of ours comes between.
        let done = Arc::new(Mutex::new(Some(done)));
        let tell = move |body| {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                callbacks::call(Arc::clone(&engine), done, Given::Body(body));
            }
        };
        if self.if_ours(|| py.detach(|| self.turn.inject_then(tell.clone()))).is_none() {
            tell(self.turn.original().clone());
        }
    }

    #[pyo3(signature = (status, content_type, body, latency_ms))]
    fn answer(&self, py: Python<'_>, status: u16, content_type: Option<&str>, body: &[u8], latency_ms: f64) {
        // Whether it is a stream that was read as a whole or one JSON, its first byte tells better.
        let _ = content_type;
        self.if_ours(|| without_lock_if(py, body.len() > LARGE_BYTES, || self.turn.answer(status, body, latency_ms)));
    }

    fn feed(&self, py: Python<'_>, piece: &[u8]) {
        self.if_ours(|| without_lock_if(py, piece.len() > LARGE_BYTES, || self.turn.feed(piece)));
    }

    fn end(&self, py: Python<'_>, status: u16, complete: bool, latency_ms: f64) {
        self.if_ours(|| py.detach(|| self.turn.end(status, complete, latency_ms)));
    }
}

fn without_lock_if(py: Python<'_>, is_long: bool, work: impl FnOnce() + Send) {
    if is_long { py.detach(work) } else { work() }
}
