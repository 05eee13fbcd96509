//! `Turn`.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memori_sdk::turn::LARGE_BODY_BYTES;
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::callbacks::{self, Given};
use crate::guarded;

/// Above this a body is read without the interpreter's lock; below it, letting go of the lock costs more than the reading.
const LARGE_BYTES: usize = 16 << 10;

/// One call to a model.
#[pyclass(frozen, module = "memori._core")]
pub(crate) struct Turn {
    turn: Arc<memori_sdk::Turn>,
    /// The body as it came, where that is large.
    original: Option<Py<PyBytes>>,
}

impl Turn {
    pub(crate) fn new(turn: Arc<memori_sdk::Turn>, original: Option<Py<PyBytes>>) -> Self {
        Self { turn, original }
    }

    fn original(&self, py: Python<'_>) -> Option<(Bytes, Py<PyBytes>)> {
        self.original.as_ref().map(|original| (self.turn.original().clone(), original.clone_ref(py)))
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

    fn inject<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let injected = self.if_ours(|| py.detach(|| self.turn.inject_here()));
        let injected = injected.as_ref().unwrap_or_else(|| self.turn.original());
        Injected { body: injected.clone(), original: self.original(py) }.into_python(py)
    }

    fn inject_async(&self, py: Python<'_>, done: Py<PyAny>) {
        let engine = Arc::clone(self.turn.engine());
        // Called once, also where a broken invariant of ours comes between.
        let done = Arc::new(Mutex::new(Some((done, self.original(py)))));
        let tell = move |body| {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((done, original)) = done {
                callbacks::call(Arc::clone(&engine), done, Given::Body(Injected { body, original }));
            }
        };
        if self.if_ours(|| py.detach(|| self.turn.inject_then(tell.clone()))).is_none() {
            tell(self.turn.original().clone());
        }
    }

    #[pyo3(signature = (status, content_type, body, latency_ms))]
    fn answer(&self, py: Python<'_>, status: u16, content_type: Option<&str>, body: &Bound<'_, PyBytes>, latency_ms: f64) {
        // Whether it is a stream that was read as a whole or one JSON, its first byte tells better.
        let _ = content_type;
        let body = bytes_of(body);
        self.if_ours(|| without_lock_if(py, body.len() > LARGE_BYTES, || self.turn.answer(status, body, latency_ms)));
    }

    fn feed(&self, py: Python<'_>, piece: &[u8]) {
        self.if_ours(|| without_lock_if(py, piece.len() > LARGE_BYTES, || self.turn.feed(piece)));
    }

    fn end(&self, py: Python<'_>, status: u16, complete: bool, latency_ms: f64) {
        self.if_ours(|| py.detach(|| self.turn.end(status, complete, latency_ms)));
    }
}

/// A body to send, and the one that it may still be.
pub(crate) struct Injected {
    body: Bytes,
    original: Option<(Bytes, Py<PyBytes>)>,
}

impl Injected {
    /// The original itself where nothing was put into it; a large one is copied without the interpreter's lock.
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
        let Self { body, original } = self;
        match original {
            Some((original, object)) if original.as_ptr() == body.as_ptr() && original.len() == body.len() => {
                Ok(object.into_bound(py))
            }
            _ if body.len() <= LARGE_BYTES => Ok(PyBytes::new(py, &body)),
            _ => copied_without_lock(py, &body),
        }
    }
}

fn copied_without_lock<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let length = ffi::Py_ssize_t::try_from(body.len()).map_err(|_| PyMemoryError::new_err("the body is too large"))?;
    // SAFETY: without bytes to copy this makes an object of that length whose bytes are to be written before anybody sees it.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), length))? };
    // SAFETY: it is a bytes object, whose memory stays where it is for as long as `object` lives.
    let target = unsafe { ffi::PyBytes_AsString(object.as_ptr()) } as usize;
    // SAFETY: nobody else knows the object yet, and it has as many bytes as `body`.
    py.detach(|| unsafe { std::ptr::copy_nonoverlapping(body.as_ptr(), target as *mut u8, body.len()) });
    object.cast_into::<PyBytes>().map_err(Into::into)
}

/// The bytes of `object`; many are not copied, but held.
pub(crate) fn bytes_of(object: &Bound<'_, PyBytes>) -> Bytes {
    if object.as_bytes().len() > LARGE_BODY_BYTES {
        Bytes::from_owner(PyBackedBytes::from(object.clone()))
    } else {
        Bytes::copy_from_slice(object.as_bytes())
    }
}

fn without_lock_if(py: Python<'_>, is_long: bool, work: impl FnOnce() + Send) {
    if is_long { py.detach(work) } else { work() }
}
