//! Answers on their way back to Python.
//!
//! One thread of this process takes the interpreter's lock and hands over all that is ready, so that none of the runtime's threads
//! ever waits for that lock. It ends before the interpreter does: a thread that asks a dying interpreter for its lock is killed in
//! the middle of what it does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memori_sdk::process::PerProcess;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::turn::Injected;

/// How long the end of the process waits for a callback that is under way.
const END_DEADLINE: Duration = Duration::from_secs(1);

static CALLBACKS: PerProcess<Option<Arc<Callbacks>>> = PerProcess::new();
/// No thread may ask for the interpreter's lock any more.
static ENDED: AtomicBool = AtomicBool::new(false);

/// What is handed to a callback.
pub(crate) enum Given {
    Flag(bool),
    Body(Injected),
    Response(u16, Bytes),
}

struct Job {
    engine: Arc<memori_sdk::Engine>,
    done: Py<PyAny>,
    given: Given,
}

#[derive(Default)]
struct Callbacks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    is_calling: bool,
}

impl Callbacks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands `given` to `done`, soon, on the thread for that.
pub(crate) fn call(engine: Arc<memori_sdk::Engine>, done: Py<PyAny>, given: Given) {
    let job = Job { engine, done, given };
    let callbacks = CALLBACKS.get_or_make(|| {
        let callbacks = Arc::new(Callbacks::default());
        let of_thread = Arc::clone(&callbacks);
        let started = std::thread::Builder::new().name("memori-callback".to_owned()).spawn(move || run(&of_thread));
        started.is_ok().then_some(callbacks)
    });
    match callbacks {
        Some(callbacks) => {
            callbacks.lock().waiting.push_back(job);
            callbacks.changed.notify_all();
        }
        // Nobody will call it; without the interpreter's lock it cannot even be dropped.
        None => std::mem::forget(job),
    }
}

fn run(callbacks: &Callbacks) {
    loop {
        let jobs = {
            let mut state = callbacks.lock();
            while state.waiting.is_empty() {
                state = callbacks.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if ENDED.load(Ordering::SeqCst) {
                std::mem::forget(std::mem::take(&mut state.waiting));
                return;
            }
            state.is_calling = true;
            std::mem::take(&mut state.waiting)
        };
        let mut jobs = Some(jobs);
        let called = Python::try_attach(|py| {
            for job in jobs.take().into_iter().flatten() {
                job.call(py);
            }
        });
        // Without an interpreter they cannot be dropped either.
        std::mem::forget(jobs);
        callbacks.lock().is_calling = false;
        callbacks.changed.notify_all();
        if called.is_none() {
            return;
        }
    }
}

impl Job {
    fn call(self, py: Python<'_>) {
        let Self { engine, done, given } = self;
        let called = match given {
            Given::Flag(flag) => done.call1(py, (flag,)),
            Given::Body(injected) => injected.into_python(py).and_then(|body| done.call1(py, (body,))),
            Given::Response(status, body) => done.call1(py, (status, PyBytes::new(py, &body))),
        };
        if let Err(error) = called {
            // Its text may quote what the program works with.
            let kind = error.get_type(py).name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
            engine.internal_error(&format!("a callback raised {kind}"));
        }
    }
}

/// No callback is called after this. Waits a while for one that is under way.
pub(crate) fn end() {
    ENDED.store(true, Ordering::SeqCst);
    let Some(callbacks) = CALLBACKS.get_or_make(|| None) else { return };
    let end = Instant::now() + END_DEADLINE;
    let mut state = callbacks.lock();
    callbacks.changed.notify_all();
    while state.is_calling {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = callbacks.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}
