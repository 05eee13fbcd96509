//! `memori._core`: the engine of `memori-sdk`, as Python sees it (`memori/_core.pyi` is the contract).
//!
//! Promises: the interpreter's lock is held by nothing that waits; what the interceptor calls raises nothing; Python is called back
//! only from one thread of ours, never from the runtime's, and not once the interpreter has begun to end; what was opened before a
//! fork is not touched in the child.

mod callbacks;
mod engine;
mod member;
mod turn;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use memori_sdk::process;
use pyo3::prelude::*;

/// Seconds as Python gives them; what is no length of time is none at all, what is too long is a year.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, 31_536_000.0)).unwrap_or_default()
}

/// What the interceptor calls raises nothing, a broken invariant of ours included: it is counted, and the call goes out untouched.
fn guarded<T>(engine: &memori_sdk::Engine, work: impl FnOnce() -> T) -> Option<T> {
    let caught = catch_unwind(AssertUnwindSafe(work));
    caught.inspect_err(|_| engine.internal_error("a broken invariant; please report what the process wrote to stderr")).ok()
}

/// Ends what runs, within each engine's `exit_deadline_ms`; afterwards nothing is started, and Python is not called any more.
#[pyfunction]
fn _at_exit(py: Python<'_>) {
    py.detach(|| {
        process::exit_begins();
        memori_sdk::Engine::close_all();
        callbacks::end();
    });
}

/// Makes durable what every engine has queued, within its `exit_deadline_ms`.
#[pyfunction]
fn _flush_all(py: Python<'_>) -> bool {
    py.detach(memori_sdk::Engine::flush_all)
}

/// Closes files that a child must not inherit open.
#[pyfunction]
fn _before_fork(py: Python<'_>) {
    py.detach(memori_sdk::Engine::before_fork);
}

/// Opens them again.
#[pyfunction]
fn _after_fork_in_parent(py: Python<'_>) {
    py.detach(memori_sdk::Engine::after_fork_in_parent);
}

/// Leaves alone what the parent had open.
#[pyfunction]
fn _after_fork_in_child() {
    memori_sdk::Engine::after_fork_in_child();
}

/// The native module.
#[pymodule]
mod _core {
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::member::Member;
    #[pymodule_export]
    use super::turn::Turn;
    #[pymodule_export]
    use super::{_after_fork_in_child, _after_fork_in_parent, _at_exit, _before_fork, _flush_all};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        // Handlers run in the order opposite to their registration: this module is imported first, so ours is the last.
        py.import("atexit")?.call_method1("register", (module.getattr("_at_exit")?,))?;
        let handlers = PyDict::new(py);
        handlers.set_item("before", module.getattr("_before_fork")?)?;
        handlers.set_item("after_in_parent", module.getattr("_after_fork_in_parent")?)?;
        handlers.set_item("after_in_child", module.getattr("_after_fork_in_child")?)?;
        py.import("os")?.call_method("register_at_fork", (), Some(&handlers))?;
        Ok(())
    }
}
