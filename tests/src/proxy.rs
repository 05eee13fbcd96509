//! A connection that breaks where a test wants it: a TCP proxy before a Postgres without TLS.
//!
//! Promises: what it cuts, it cuts on both sides and at once; of what it was told to lose, not a byte arrives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// As a client says it, and as a server answers it.
const COMMIT: &[u8] = b"COMMIT\0";

/// What breaks a connection, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// COMMIT does not reach the server.
    LoseCommit,
    /// The server commits, and its answer does not reach the client.
    LoseAnswer,
    /// After so many more bytes of the client have been passed on.
    AfterSent(usize),
    /// After so many more bytes of the server have been passed on.
    AfterAnswered(usize),
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Option<Fault>>,
    met: AtomicUsize,
}

impl Shared {
    fn fault(&self) -> std::sync::MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proxy; it ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What a chunk means for the connection.
enum Pass {
    /// It goes on.
    On,
    /// So many of its bytes go on, and the connection ends.
    Cut(usize),
}

impl Shared {
    fn sent(&self, chunk: &[u8]) -> Pass {
        let mut fault = self.fault();
        match &mut *fault {
            Some(Fault::LoseCommit) if holds(chunk, COMMIT) => self.cut(&mut fault, 0),
            Some(Fault::AfterSent(left)) if *left < chunk.len() => {
                let left = *left;
                self.cut(&mut fault, left)
            }
            Some(Fault::AfterSent(left)) => {
                *left -= chunk.len();
                Pass::On
            }
            _ => Pass::On,
        }
    }

    fn answered(&self, chunk: &[u8]) -> Pass {
        let mut fault = self.fault();
        match &mut *fault {
            Some(Fault::LoseAnswer) if holds(chunk, COMMIT) => self.cut(&mut fault, 0),
            Some(Fault::AfterAnswered(left)) if *left < chunk.len() => {
                let left = *left;
                self.cut(&mut fault, left)
            }
            Some(Fault::AfterAnswered(left)) => {
                *left -= chunk.len();
                Pass::On
            }
            _ => Pass::On,
        }
    }

    fn cut(&self, fault: &mut Option<Fault>, passed: usize) -> Pass {
        *fault = None;
        self.met.fetch_add(1, Ordering::SeqCst);
        Pass::Cut(passed)
    }
}

/// A test's chunks are small enough that no word is torn in two.
fn holds(chunk: &[u8], word: &[u8]) -> bool {
    chunk.windows(word.len()).any(|window| window == word)
}

impl Proxy {
    /// Before the server of `postgres_url`.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(postgres_url: &str) -> anyhow::Result<Self> {
        let (_, rest) = postgres_url.split_once('@').context("a URL with a user")?;
        let upstream = rest.split('/').next().context("a URL with a host")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                    let (up, down) = (shared.clone(), shared.clone());
                    tokio::spawn(async move {
                        // The first of both that ends takes the other along, and with it both sockets.
                        tokio::select! {
                            () = pump(from_client, to_server, |chunk| up.sent(chunk)) => {}
                            () = pump(from_server, to_client, |chunk| down.answered(chunk)) => {}
                        }
                    });
                }
            }
        });
        Ok(Self { address, shared, accepting })
    }

    /// The same URL through the proxy.
    ///
    /// # Errors
    /// A URL without a user.
    pub fn url(&self, postgres_url: &str) -> anyhow::Result<String> {
        let (user, rest) = postgres_url.split_once('@').context("a URL with a user")?;
        let (_, database) = rest.split_once('/').context("a URL with a database")?;
        Ok(format!("{user}@{}/{database}", self.address))
    }

    /// Breaks a connection, once.
    pub fn arm(&self, fault: Fault) {
        *self.shared.fault() = Some(fault);
    }

    /// Breaks nothing any more.
    pub fn disarm(&self) {
        *self.shared.fault() = None;
    }

    /// How many connections it has broken.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.shared.met.load(Ordering::SeqCst)
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut pass: impl FnMut(&[u8]) -> Pass) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let (passed, ends) = match pass(&buffer[..read]) {
            Pass::On => (read, false),
            Pass::Cut(passed) => (passed, true),
        };
        if to.write_all(&buffer[..passed]).await.is_err() || ends {
            return;
        }
    }
}
