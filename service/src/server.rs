//! Serving HTTP/1 on a listener.
//!
//! Promises: a connection that does not send the whole head of a request in time is closed, so an idle one is, too; so many are open
//! at once and no more, the others wait to be accepted; once it is to stop, nothing new is taken, idle connections close, and
//! requests under way are answered.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The pause after a connection could not be taken, for want of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections are never bounded below or above these.
const CONNECTIONS: std::ops::RangeInclusive<u64> = 64..=16_384;

/// What connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerBounds {
    /// Open at once.
    pub max_connections: usize,
    /// From the end of one answer (or the connection's begin) to the end of the next request's head.
    pub head_timeout: Duration,
}

impl Default for ServerBounds {
    /// Half of the file descriptors that this process may have are for connections: files and dependencies need theirs.
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = (descriptors / 2).clamp(*CONNECTIONS.start(), *CONNECTIONS.end());
        Self { max_connections: usize::try_from(connections).unwrap_or(usize::MAX), head_timeout: Duration::from_secs(30) }
    }
}

/// Takes as many file descriptors as the system grants: its default is far below what a server holds.
pub(crate) fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the bound of file descriptors stays as it is");
    }
}

/// Serves `router` until `stop`, then finishes the requests that are under way.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken, bounds: ServerBounds) {
    let places = Arc::new(Semaphore::new(bounds.max_connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { break };
        connections.spawn(converse(stream, place, router.clone(), stop.clone(), bounds.head_timeout));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    stop: CancellationToken,
    head_timeout: Duration,
) {
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
    drop(place);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    async fn started(bounds: ServerBounds) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        (address, stop.clone(), tokio::spawn(serve(listener, router, stop, bounds)))
    }

    /// Sends, and reads until the other side closes.
    async fn rest(mut stream: TcpStream, request: &[u8]) -> String {
        stream.write_all(request).await.unwrap();
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_and_an_idle_connection_are_closed() {
        let bounds = ServerBounds { max_connections: 8, head_timeout: Duration::from_millis(50) };
        let (address, _stop, _server) = started(bounds).await;
        for request in [&b""[..], b"GET / HTTP/1.1\r\nho"] {
            let text = rest(TcpStream::connect(address).await.unwrap(), request).await;
            assert!(!text.contains("200"), "{text}");
        }
        let text = rest(TcpStream::connect(address).await.unwrap(), REQUEST).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("here"), "{text}");
    }

    #[tokio::test]
    async fn one_more_than_the_bound_waits_for_a_place() {
        let bounds = ServerBounds { max_connections: 1, head_timeout: Duration::from_secs(60) };
        let (address, _stop, _server) = started(bounds).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        assert!(first.read(&mut [0; 1_000]).await.unwrap() > 0);
        let second = TcpStream::connect(address).await.unwrap();
        let second = tokio::spawn(rest(second, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"));
        // The first is served again while the second is not.
        first.write_all(REQUEST).await.unwrap();
        assert!(first.read(&mut [0; 1_000]).await.unwrap() > 0);
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap().starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_stop_waits_for_no_idle_connection() {
        let (address, stop, server) = started(ServerBounds { max_connections: 8, head_timeout: Duration::from_secs(600) }).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        assert!(idle.read(&mut [0; 1_000]).await.unwrap() > 0);
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        stop.cancel();
        server.await.unwrap();
        assert_eq!(idle.read(&mut [0; 10]).await.unwrap_or(0), 0);
    }

    #[test]
    fn the_bound_follows_the_systems() {
        let bound = ServerBounds::default().max_connections as u64;
        assert!(CONNECTIONS.contains(&bound), "{bound}");
    }
}
