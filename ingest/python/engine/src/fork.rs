//! Forks: while the process is copied, none of its SQLite files is open, and none is being opened.
//!
//! SQLite counts its locks per process. A child that inherits an open file believes that it holds its parent's locks, and two
//! processes that believe so ruin the file. So whatever opens one does so inside [`opening`], a fork waits until that is over and every
//! system is suspended, and what could not be closed in time is never opened by the child.

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::config::Target;
use crate::engine::{Engine, lock};
use crate::process::PerProcess;
use crate::systems;

/// How long a fork waits for files to be closed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at what cannot be waited for.
const LOOK: Duration = Duration::from_millis(2);

/// Held for reading by whoever starts a system.
static OPENINGS: PerProcess<Arc<RwLock<()>>> = PerProcess::new();
static FORKS: PerProcess<Mutex<Forks>> = PerProcess::new();

/// Threads that are about to fork: another one may be while the first is.
#[derive(Default)]
struct Forks {
    threads: usize,
    /// Nothing is opened meanwhile.
    closed: Option<OwnedRwLockWriteGuard<()>>,
}

thread_local! {
    /// Between the two sides of a fork, both of which run on the thread that forks.
    static LEFT_OPEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// No fork comes between, until it is dropped.
pub(crate) async fn opening() -> OwnedRwLockReadGuard<()> {
    Arc::clone(OPENINGS.get_or_make(Arc::default)).read_owned().await
}

/// Closes what a child must not inherit open.
pub(crate) fn before() {
    let deadline = Instant::now() + PATIENCE;
    let mut forks = lock(FORKS.get_or_make(Mutex::default));
    forks.threads += 1;
    let openings = OPENINGS.get_or_make(Arc::default);
    while forks.closed.is_none() && Instant::now() < deadline {
        forks.closed = Arc::clone(openings).try_write_owned().ok();
        if forks.closed.is_none() {
            pause();
        }
    }
    let none_opens = forks.closed.is_some();
    let patience = deadline.saturating_duration_since(Instant::now());
    let left_open = Engine::each_that_ran(|engine| {
        let suspended = match engine.system_now() {
            None => none_opens,
            Some(system) => engine.block_on(patience, async move { system.suspend(patience).await }).unwrap_or(false),
        };
        // A system that was stopped may still be at it.
        let closed = match &engine.config.target {
            Target::Sqlite(path) => suspended && closes(path, deadline),
            Target::Postgres(_) | Target::Platform { .. } => true,
        };
        (!closed).then(|| engine.config.place())
    });
    LEFT_OPEN.with_borrow_mut(|open| *open = left_open.into_iter().flatten().collect());
}

/// Opens them again, once no thread is about to fork.
pub(crate) fn after_in_parent() {
    let mut forks = lock(FORKS.get_or_make(Mutex::default));
    forks.threads = forks.threads.saturating_sub(1);
    if forks.threads > 0 {
        return;
    }
    forks.closed = None;
    for engine in Engine::all() {
        if let Some(system) = engine.system_now() {
            system.resume();
        }
    }
}

/// Notes what could not be closed: this process never opens it.
pub(crate) fn after_in_child() {
    for place in LEFT_OPEN.take() {
        systems::inherited_open(place);
    }
}

/// Whether this process has the file closed by then.
fn closes(path: &Path, deadline: Instant) -> bool {
    while is_open(path) {
        if Instant::now() >= deadline {
            return false;
        }
        pause();
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "a thread that forks is nobody's runtime")]
fn pause() {
    std::thread::sleep(LOOK);
}

/// Whether this process has the file open, where the system tells.
fn is_open(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return false };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    entries.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|open| open == path))
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "beside the runtime that is waited for")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_waited_for_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.memori.db");
        let file = std::fs::File::create(&path).unwrap();
        assert!(!closes(&path, Instant::now() + Duration::from_millis(20)));
        let closing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(file);
        });
        assert!(closes(&path, Instant::now() + Duration::from_secs(30)));
        closing.join().unwrap();
    }

    #[test]
    fn nothing_is_opened_between_the_two_sides_of_a_fork() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        before();
        // As another thread does that forks, too.
        before();
        let opened = runtime.spawn(async { drop(opening().await) });
        after_in_parent();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!opened.is_finished());
        after_in_parent();
        runtime.block_on(opened).unwrap();
    }
}
