//! Who is woken: this process's members and consumers at once, those of other processes by LISTEN and NOTIFY.
//!
//! Promises: hints only. A NOTIFY is sent after the commit, by one task, never inside a transaction that writes (which would make
//! the commits of the whole database wait for each other), and at most one per [`GAP`]. What is missed while the listening
//! connection is away is made up for by a bump when it is back; everything else by whoever polls.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::connection::Lent;
use crate::backoff::Backoff;

const CHANNEL: &str = "memori_log";
/// Between two notifications of one process.
const GAP: Duration = Duration::from_millis(10);
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LONGEST: Duration = Duration::from_secs(5);

/// What happened since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Happened {
    appends: u64,
    changes: u64,
}

pub(super) struct Wakes {
    appended: watch::Sender<u64>,
    groups_changed: watch::Sender<u64>,
    happened: watch::Sender<Happened>,
    _stop: DropGuard,
}

impl Wakes {
    /// Starts the telling and the listening task; they end with the last handle.
    pub(super) fn start(work: PgPool, listening: PgPool) -> Self {
        let (appended, groups_changed) = (watch::Sender::new(0), watch::Sender::new(0));
        let (happened, told) = watch::channel(Happened::default());
        let stop = CancellationToken::new();
        let me = Uuid::new_v4().simple().to_string();
        tokio::spawn(stop.clone().run_until_cancelled_owned(tell(work, me.clone(), told)));
        let wake = (appended.clone(), groups_changed.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen(listening, me, wake)));
        Self { appended, groups_changed, happened, _stop: stop.drop_guard() }
    }

    /// Records of this process are durable.
    pub(super) fn appended(&self) {
        self.appended.send_modify(|n| *n += 1);
        self.happened.send_modify(|happened| happened.appends += 1);
    }

    /// Members or leases were changed by this process.
    pub(super) fn groups_changed(&self) {
        self.groups_changed.send_modify(|n| *n += 1);
        self.happened.send_modify(|happened| happened.changes += 1);
    }

    pub(super) fn on_append(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    pub(super) fn on_change(&self) -> watch::Receiver<u64> {
        self.groups_changed.subscribe()
    }
}

async fn tell(pool: PgPool, me: String, mut happened: watch::Receiver<Happened>) {
    let mut told = Happened::default();
    while happened.changed().await.is_ok() {
        let now = *happened.borrow_and_update();
        let what = match (now.appends > told.appends, now.changes > told.changes) {
            (true, true) => "both",
            (true, false) => "appended",
            (false, _) => "changed",
        };
        if let Err(error) = notify(&pool, &format!("{me} {what}")).await {
            tracing::debug!(%error, "other processes could not be told of what was appended; they look by themselves");
        }
        told = now;
        tokio::time::sleep(GAP).await;
    }
}

async fn notify(pool: &PgPool, payload: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut lent = Lent::from(pool).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(&mut *lent).await?;
    lent.give_back();
    Ok(())
}

/// What another process told, by its payload; none for what this process told itself.
fn heard(payload: &str, me: &str) -> Option<(bool, bool)> {
    match payload.split_once(' ') {
        Some((sender, _)) if sender == me => None,
        Some((_, "appended")) => Some((true, false)),
        Some((_, "changed")) => Some((false, true)),
        _ => Some((true, true)),
    }
}

async fn listen(pool: PgPool, me: String, (appended, groups_changed): (watch::Sender<u64>, watch::Sender<u64>)) {
    let wake = |(append, change): (bool, bool)| {
        if append {
            appended.send_modify(|n| *n += 1);
        }
        if change {
            groups_changed.send_modify(|n| *n += 1);
        }
    };
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_LONGEST);
    loop {
        let result = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            backoff.reset();
            wake((true, true));
            while let Some(notification) = listener.try_recv().await? {
                if let Some(what) = heard(notification.payload(), &me) {
                    wake(what);
                }
            }
            Ok::<_, sqlx::Error>(())
        }
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, "the connection that listens to the log broke");
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_notifications_wake_nobody_and_unknown_ones_everybody() {
        assert_eq!(heard("a appended", "a"), None);
        assert_eq!(heard("a appended", "b"), Some((true, false)));
        assert_eq!(heard("a changed", "b"), Some((false, true)));
        assert_eq!(heard("a both", "b"), Some((true, true)));
        assert_eq!(heard("of a later version", "b"), Some((true, true)));
        assert_eq!(heard("", "b"), Some((true, true)));
    }
}
