//! Statements of one transaction, one after the other on one connection, without a wait in between.
//!
//! Promises: the server runs them in the order in which they were added; each is made ready (its rows encoded) while the server
//! works on the one before. Of several failures the first is told: after it, all that follow fail for its sake alone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{BufMut as _, Bytes, BytesMut};
use deadpool_postgres::Client;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, SinkExt as _};
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CopyInSink, Error as PgError};

use super::columns::{Arrays, encode};
use super::failed;
use crate::plan::EntityRef;
use crate::store::StoreError;
use crate::store::failpoint::{self, Side};
use crate::store::tables::Row;

/// Rows of a table with their owners.
pub(super) type Rows<'a, R> = Vec<(Option<&'a EntityRef>, &'a R)>;

/// How much of a COPY is encoded before it is sent: enough for the server to be busy while the next piece is made.
const PIECE_BYTES: usize = 128 << 10;

/// Statements that wait for their turn.
pub(super) struct Pipeline<'a> {
    client: &'a Client,
    statements: Vec<BoxFuture<'a, Result<(), PgError>>>,
    /// Passed on by the statement before.
    turn: Option<oneshot::Receiver<()>>,
}

/// A statement's place in the line.
struct Turn {
    mine: Option<oneshot::Receiver<()>>,
    next: oneshot::Sender<()>,
}

impl Turn {
    /// Returns the right to let the next one go. One that failed before it sent anything lets it go, too.
    async fn come(self) -> oneshot::Sender<()> {
        if let Some(mine) = self.mine {
            let _ = mine.await;
        }
        self.next
    }
}

/// Sends by polling once, lets the next one go, and waits for the answer.
async fn send<T>(mut statement: Pin<&mut impl Future<Output = T>>, next: oneshot::Sender<()>) -> T {
    let first = poll_fn(|context| Poll::Ready(statement.as_mut().poll(context))).await;
    let _ = next.send(());
    match first {
        Poll::Ready(answer) => answer,
        Poll::Pending => statement.await,
    }
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, statements: Vec::new(), turn: None }
    }

    fn line_up(&mut self) -> Turn {
        let (next, turn) = oneshot::channel();
        Turn { mine: self.turn.replace(turn), next }
    }

    /// A statement with arrays for parameters.
    pub(super) fn execute(&mut self, sql: String, arrays: impl FnOnce() -> Arrays + Send + 'a) {
        let (client, turn) = (self.client, self.line_up());
        let run = async move {
            let next = turn.come().await;
            let arrays = arrays();
            let statement = client.prepare_cached(&sql).await?;
            let params = arrays.params();
            let sent = async { send(pin!(client.execute(&statement, &params)), next).await };
            failpoint::around(&sql, sent).await.map(drop)
        };
        self.statements.push(run.boxed());
    }

    /// Rows straight into the indexed table; a key that is there fails the transaction.
    pub(super) fn copy<R: Row + Sync>(&mut self, rows: Rows<'a, R>) {
        let (client, turn) = (self.client, self.line_up());
        let run = async move {
            let next = turn.come().await;
            let table = R::TABLE;
            let sql = format!("COPY memori.{} ({}) FROM STDIN BINARY", table.name, table.column_list(""));
            let statement = client.prepare_cached(&sql).await?;
            let sent = async {
                let mut pieces = Pieces::new(&rows);
                let mut begun = pin!(client.copy_in(&statement));
                // The request is out before the first piece is made.
                let first = poll_fn(|context| Poll::Ready(begun.as_mut().poll(context))).await;
                let mut piece = pieces.next();
                let sink = match first {
                    Poll::Ready(sink) => sink?,
                    Poll::Pending => begun.await?,
                };
                let mut sink: Pin<&mut CopyInSink<Bytes>> = pin!(sink);
                while let Some(bytes) = piece {
                    sink.send(bytes).await?;
                    if pieces.at >= rows.len() / 2 && !pieces.past_half {
                        pieces.past_half = true;
                        failpoint::reach(Side::During, &sql);
                    }
                    piece = pieces.next();
                }
                send(pin!(sink.finish()), next).await
            };
            failpoint::around(&sql, sent).await.map(drop)
        };
        self.statements.push(run.boxed());
    }

    /// Runs them all.
    pub(super) async fn finish(self) -> Result<(), StoreError> {
        let mut errors: Vec<PgError> = join_all(self.statements).await.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            return Ok(());
        }
        let cause = errors.iter().position(|error| error.code() != Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
        Err(failed(errors.swap_remove(cause.unwrap_or(0))))
    }
}

/// A COPY's bytes, piece by piece.
struct Pieces<'r, 'a, R> {
    rows: &'r Rows<'a, R>,
    at: usize,
    past_half: bool,
    ended: bool,
    buffer: BytesMut,
}

impl<'r, 'a, R: Row> Pieces<'r, 'a, R> {
    fn new(rows: &'r Rows<'a, R>) -> Self {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2));
        // Signature, flags, and no extension.
        buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        Self { rows, at: 0, past_half: false, ended: false, buffer }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        while let Some((owner, row)) = self.rows.get(self.at) {
            if self.buffer.len() >= PIECE_BYTES {
                let piece = self.buffer.split().freeze();
                self.buffer.reserve(PIECE_BYTES + (PIECE_BYTES >> 2));
                return Some(piece);
            }
            encode(&row.cells(*owner), &mut self.buffer);
            self.at += 1;
        }
        self.ended = true;
        self.buffer.put_i16(-1);
        Some(self.buffer.split().freeze())
    }
}
