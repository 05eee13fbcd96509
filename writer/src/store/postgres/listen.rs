//! Commits of other writers, told by LISTEN. Hints only: what is missed while the connection is away is made up for by a bump on
//! reconnecting, and by one now and then.

use std::time::Duration;

use futures::StreamExt as _;
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::notify::Commits;
use crate::postgres::PostgresTarget;

/// Sent after a commit, never inside its transaction, which would serialise the commits of the whole database.
pub(super) const NOTIFY: &str = "NOTIFY memori_commits";
const LISTEN: &str = "LISTEN memori_commits";
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Bumps `commits` at every notification, and every `look_again` without one, until `shutdown`.
pub async fn listen(target: PostgresTarget, commits: Commits, look_again: Duration, shutdown: CancellationToken) {
    let wake = |cause| {
        metrics::woken(cause);
        commits.bump();
    };
    let poll = async {
        loop {
            tokio::time::sleep(look_again).await;
            wake("poll");
        }
    };
    let listening = async {
        loop {
            match target.connect().await {
                Ok((client, mut connection)) => {
                    let mut messages = futures::stream::poll_fn(|cx| connection.poll_message(cx));
                    // The connection does its work only while it is polled, so both go side by side.
                    let mut started = std::pin::pin!(client.batch_execute(LISTEN));
                    let mut listens = false;
                    loop {
                        tokio::select! {
                            result = &mut started, if !listens => match result {
                                Ok(()) => {
                                    listens = true;
                                    wake("reconnected");
                                }
                                Err(error) => {
                                    tracing::warn!(%error, "cannot listen for commits");
                                    break;
                                }
                            },
                            message = messages.next() => match message {
                                Some(Ok(AsyncMessage::Notification(_))) => wake("notified"),
                                Some(Ok(_)) => {}
                                Some(Err(error)) => {
                                    tracing::warn!(%error, "the connection that listens for commits broke");
                                    break;
                                }
                                None => break,
                            },
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot connect to listen for commits"),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    };
    // Whatever ends first: only the shutdown ends. No transaction is cut off; LISTEN is a statement of its own.
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = poll => {}
        () = listening => {}
    }
}
