//! Ordered shutdown: a signal, then parts stop in the order in which the process awaits them, all within one deadline.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tells every part when to stop, and how long they have.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    deadline: Duration,
}

impl Shutdown {
    /// Not yet asked for; parts will have `deadline` once it is.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self { token: CancellationToken::new(), deadline }
    }

    /// Asks for it.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Cancelled once it is asked for.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until it is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// What all parts have together.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Triggers on SIGTERM and SIGINT. A second signal ends the process at once.
    ///
    /// # Errors
    /// Where the system refuses signal handlers.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
            tracing::info!(signal = name, deadline_ms = shutdown.deadline.as_millis(), "draining");
            shutdown.trigger();
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::warn!("second signal: stopping at once");
            crate::process::exit_now(1);
        });
        Ok(())
    }

    /// Runs `draining` to its end, or gives up at the deadline counted from now. `true` where it ended.
    pub async fn within_deadline(&self, draining: impl Future<Output = ()>) -> bool {
        tokio::time::timeout_at(Instant::now() + self.deadline, draining).await.is_ok()
    }
}
