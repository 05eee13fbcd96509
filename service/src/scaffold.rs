//! What stands around every service of its own: metrics, signals, health and the admin address, begun first and ended last.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::process::{ProcessError, ready_line};
use crate::settings::Settings;
use crate::shutdown::Shutdown;
use crate::{admin, metrics_endpoint};

/// A process that answers `/healthz`, is not ready yet, and listens for signals.
#[derive(Debug)]
pub struct Scaffold {
    /// What `/readyz` says.
    pub health: Health,
    /// Triggered by signals.
    pub shutdown: Shutdown,
    admin_address: SocketAddr,
    admin_stop: CancellationToken,
    admin_server: JoinHandle<()>,
    draining: JoinHandle<()>,
}

impl Scaffold {
    /// Binds the admin address (`default_admin` where none is configured) and serves it.
    ///
    /// # Errors
    /// An address that is taken.
    pub async fn start(settings: &Settings, default_admin: impl Into<SocketAddr>) -> Result<Self, ProcessError> {
        let prometheus = metrics_endpoint::install();
        let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
        shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;
        let health = Health::new();
        let wanted = settings.admin.listen.unwrap_or_else(|| default_admin.into());
        let (listener, admin_address) = admin::bind("MEMORI__ADMIN__LISTEN", wanted).await?;
        let admin_stop = CancellationToken::new();
        let admin_server = tokio::spawn(admin::serve(listener, admin::router(health.clone(), prometheus), admin_stop.clone()));
        let draining = {
            let (health, shutdown) = (health.clone(), shutdown.clone());
            tokio::spawn(async move {
                shutdown.requested().await;
                health.draining();
            })
        };
        Ok(Self { health, shutdown, admin_address, admin_stop, admin_server, draining })
    }

    /// Runs `starting`; `None` where the process is asked to stop before it is through.
    ///
    /// # Errors
    /// Those of `starting`.
    pub async fn unless_stopped<T>(
        &self,
        starting: impl Future<Output = Result<T, ProcessError>>,
    ) -> Result<Option<T>, ProcessError> {
        tokio::select! {
            started = starting => started.map(Some),
            () = self.shutdown.requested() => Ok(None),
        }
    }

    /// Everything works: says so to `/readyz` and on stdout.
    pub fn ready(&self, api: Option<SocketAddr>) {
        self.health.started();
        ready_line(api, Some(self.admin_address));
    }

    /// Ends `stopping`, then the admin address, within `left`; what takes longer is cut off.
    pub async fn stop(self, left: Duration, stopping: impl Future<Output = ()>) {
        self.shutdown.trigger();
        let all = async {
            stopping.await;
            self.admin_stop.cancel();
            let _ = self.admin_server.await;
            let _ = self.draining.await;
        };
        if tokio::time::timeout(left, all).await.is_err() {
            tracing::warn!("what was left was cut off at the deadline");
        }
    }
}
