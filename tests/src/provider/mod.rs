//! A double of a model's provider: a real HTTP server that speaks `chat/completions` and behaves like one, its failures included.
//!
//! What it answers with is decided per request, in this order: [`Provider::always`]; the queue that [`Provider::script`] fills; a
//! marker in what a person said, `[[provider:NAME]]` or, for the first N requests of that conversation, `[[provider:NAME*N]]`, where
//! NAME is that of a [`Behaviour`]; else it answers well. Before that it checks each request as a provider does ([`validate`]): key,
//! model, messages, `response_format`, against what this server is said to be able to ([`Abilities`]).
//!
//! What it answers is computed from the conversation by rules that a test can repeat ([`answers::facts_of`]). Every request is
//! recorded. It can be taken down and brought back on the same address, and it has a [`Capacity`] that nobody is told of.

pub mod answers;
pub mod behaviour;
pub mod capacity;
pub mod validate;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use behaviour::Behaviour;
pub use capacity::{Beyond, Capacity, PerMinute};
pub use validate::Abilities;

/// The most that a request may hold.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it was answered.
    pub at: Instant,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null where that is not JSON.
    pub body: Value,
    /// What it was answered with.
    pub behaviour: Behaviour,
    /// The status that it was answered with; of a connection that was cut, the status that was begun.
    pub status: u16,
}

impl Recorded {
    /// The texts of its messages, of all roles, one after the other.
    #[must_use]
    pub fn text(&self) -> String {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        messages.filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n")
    }

    /// The conversation that it shows, where it shows one.
    #[must_use]
    pub fn conversation(&self) -> Option<Value> {
        answers::conversation(&self.body)
    }
}

#[derive(Default)]
struct Shared {
    always: Option<Behaviour>,
    queue: VecDeque<Behaviour>,
    /// How often each marker with a count has been obeyed.
    obeyed: HashMap<String, u32>,
    recorded: Vec<Recorded>,
    latency: Duration,
    /// Of the latency, by how much each answer's may differ to either side.
    scatter: f64,
}

struct Server {
    abilities: Abilities,
    gate: capacity::Gate,
    shared: Mutex<Shared>,
}

impl Server {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running provider. Ends when dropped.
pub struct Provider {
    server: Arc<Server>,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts one that can do everything.
    ///
    /// # Errors
    /// No address is free.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(Abilities::default()).await
    }

    /// Starts one with these abilities.
    ///
    /// # Errors
    /// No address is free.
    pub async fn with(abilities: Abilities) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server { abilities, gate: capacity::Gate::default(), shared: Mutex::default() });
        let serving = Some(tokio::spawn(serve(listener, Arc::clone(&server))));
        Ok(Self { server, address, serving })
    }

    /// What a client puts before `/chat/completions`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// From now on every request is answered so, until this is called with `None`.
    pub fn always(&self, behaviour: Option<Behaviour>) {
        self.server.shared().always = behaviour;
    }

    /// The next requests are answered so, in order.
    pub fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.server.shared().queue.extend(behaviours);
    }

    /// How long each answer takes to begin.
    pub fn take_time(&self, latency: Duration) {
        self.server.shared().latency = latency;
    }

    /// The same, each different by up to this part of it.
    pub fn take_about(&self, latency: Duration, scatter: f64) {
        let mut shared = self.server.shared();
        (shared.latency, shared.scatter) = (latency, scatter);
    }

    /// From now on it takes no more than this.
    pub fn has(&self, capacity: Capacity) {
        self.server.gate.set(capacity);
    }

    /// Every request until now.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.server.shared().recorded.clone()
    }

    /// What `look` sees in every request until now, without a copy of them; nothing is answered meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&[Recorded]) -> T) -> T {
        look(&self.server.shared().recorded)
    }

    /// The requests whose conversation holds `text`.
    #[must_use]
    pub fn recorded_about(&self, text: &str) -> Vec<Recorded> {
        let about = |request: &Recorded| request.conversation().is_some_and(|data| data["messages"].to_string().contains(text));
        self.recorded().into_iter().filter(about).collect()
    }

    /// Closes the listener and every connection: whoever calls now is refused.
    pub async fn go_down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Serves again, on the same address.
    ///
    /// # Errors
    /// The address has been taken.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        if self.serving.is_none() {
            let listener = TcpListener::bind(self.address).await.context("the provider's address")?;
            self.serving = Some(tokio::spawn(serve(listener, Arc::clone(&self.server))));
        }
        Ok(())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Ends, with all its connections, when it is dropped.
async fn serve(listener: TcpListener, server: Arc<Server>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(converse(stream, Arc::clone(&server)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A second handle to a connection, by which it can be torn.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Wire {
    fn of(stream: &TcpStream) -> Self {
        use std::os::fd::AsFd as _;
        let second = stream.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).ok();
        Self(Arc::new(Mutex::new(second)))
    }

    /// From now on the connection's end is a reset.
    pub(crate) fn will_reset(&self) {
        let second = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(second) = second.and_then(|second| TcpStream::from_std(second).ok()) {
            let _ = second.set_zero_linger();
        }
    }
}

async fn converse(stream: TcpStream, server: Arc<Server>) {
    let _ = stream.set_nodelay(true);
    let wire = Wire::of(&stream);
    let app = Router::new().fallback(answer).layer(axum::Extension(wire)).with_state(server);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    // A torn connection is what some behaviours are for.
    let _ = connection.await;
}

async fn answer(State(server): State<Arc<Server>>, axum::Extension(wire): axum::Extension<Wire>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_REQUEST_BYTES).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let _place = match server.gate.enter().await {
        Ok(place) => place,
        Err(refusal) => {
            let (at, status) = (Instant::now(), refusal.status().as_u16());
            server.shared().recorded.push(Recorded {
                at,
                headers: parts.headers,
                body,
                behaviour: Behaviour::RateLimited,
                status,
            });
            return refusal;
        }
    };
    let (latency, scatter) = {
        let shared = server.shared();
        (shared.latency, shared.scatter)
    };
    if !latency.is_zero() {
        let factor = 1.0 + scatter * (2.0 * rand::random::<f64>() - 1.0);
        tokio::time::sleep(latency.mul_f64(factor)).await;
    }
    let (behaviour, mut response) = match validate::refusal(&server.abilities, &parts, &body) {
        Some(refusal) => (Behaviour::Well, refusal),
        None => {
            let behaviour = server.choose(&body);
            (behaviour, behaviour.respond(&server.abilities, &body, &wire))
        }
    };
    server.gate.tell(&mut response);
    let status = response.status().as_u16();
    server.shared().recorded.push(Recorded { at: Instant::now(), headers: parts.headers, body, behaviour, status });
    if behaviour == Behaviour::Hang && status == StatusCode::OK.as_u16() {
        std::future::pending::<()>().await;
    }
    response
}

impl Server {
    fn choose(&self, body: &Value) -> Behaviour {
        let mut shared = self.shared();
        if let Some(always) = shared.always {
            return always;
        }
        if let Some(next) = shared.queue.pop_front() {
            return next;
        }
        for marker in behaviour::markers(&answers::what_people_said(body)) {
            match marker.times {
                None => return marker.behaviour,
                Some(times) => {
                    let obeyed = shared.obeyed.entry(marker.key).or_default();
                    if *obeyed < times {
                        *obeyed += 1;
                        return marker.behaviour;
                    }
                }
            }
        }
        Behaviour::Well
    }
}

/// An answer with a JSON body.
pub(crate) fn json_response(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
