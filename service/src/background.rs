//! Threads for work that nobody waits for: a runtime of its own, whose threads the kernel puts behind all others.
//!
//! Promises: nothing that answers somebody shares a thread with what runs here, nor queues behind it; where processors are free it
//! runs as fast as anywhere, and where they are not it still gets a share, since the kernel starves nobody. What the threads open,
//! such as connections, stays with them: they are not lent to those who answer.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Behind the default of 0; about a tenth of a processor where others want all of it.
const NICE: i32 = 10;

/// The runtime. Dropped, it stops without waiting for what it runs.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// With one thread for tasks, and more for what blocks.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .on_thread_start(|| {
                // A system that refuses loses the order, not the work. 0 is the calling thread.
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::debug!(%error, "a thread keeps the common priority");
                }
            })
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a task there.
    ///
    /// # Panics
    /// Never: the runtime is there until this is dropped.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("the runtime is there until this is dropped").spawn(task)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn its_threads_stand_behind_and_others_do_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let background = Background::start("behind").unwrap();
        let (task, blocking) =
            background.spawn(async move { (nice(), tokio::task::spawn_blocking(nice).await.unwrap()) }).await.unwrap();
        assert!(task >= NICE && blocking >= NICE, "{task} {blocking}");
        assert_eq!(nice(), before);
    }
}
