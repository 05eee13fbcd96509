//! One call to a model: what goes into it, and what is captured of it.
//!
//! Promises: the request that goes out is the one that came, or that with one block in it; a retry is the same turn, with the same
//! event id and the same block; one turn is one event, captured once; a call that failed is none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use memori_ingest::wire::{Answer, Capture, Request, Stream, captured_event};
use memori_schemas::Micros;
use uuid::Uuid;

use crate::ahead;
use crate::engine::{Engine, Member, lock};
use crate::recall::{patience, recalled_block};
use crate::stats::{PassedThrough, add};

/// On whose behalf a call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Whom it is about.
    pub entity_id: String,
    /// The agent or program that talks.
    pub process_id: Option<String>,
    /// The conversation.
    pub session_id: Option<String>,
}

impl Scope {
    fn hash(&self, of: &[&[u8]]) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        let of_scope = [
            self.entity_id.as_bytes(),
            self.process_id.as_deref().unwrap_or_default().as_bytes(),
            self.session_id.as_deref().unwrap_or_default().as_bytes(),
        ];
        for part in of_scope.iter().chain(of) {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hash.finalize().as_bytes()
    }
}

/// What all tries of one call share.
#[derive(Debug)]
pub(crate) struct Call {
    event_id: String,
    began_at: Micros,
    /// The block, once that is decided. None: it goes out as it came.
    block: OnceLock<Option<Arc<str>>>,
    captured: AtomicBool,
}

/// One try of a call.
pub struct Turn {
    member: Arc<Member>,
    scope: Scope,
    request: Request,
    call: Arc<Call>,
    /// By what a retry is known.
    retry_key: [u8; 32],
    stream: Mutex<Option<Stream>>,
}

impl Member {
    /// The turn that this request makes; none where it is no conversation that we know, or nobody said whom it is about.
    pub fn begin(
        self: &Arc<Self>,
        scope: Scope,
        url_path: &str,
        content_type: Option<&str>,
        body: Bytes,
        retry: u32,
    ) -> Option<Turn> {
        let stats = &self.engine().stats;
        if scope.entity_id.is_empty() {
            stats.passed_through(PassedThrough::NoEntity);
            return None;
        }
        let Some(request) = Request::parse(url_path, content_type, &body) else {
            stats.passed_through(PassedThrough::UnknownSurface);
            return None;
        };
        let retry_key = scope.hash(&[&self.number().to_le_bytes(), url_path.as_bytes(), &body]);
        let now = Instant::now();
        let mut unanswered = lock(&self.engine().unanswered);
        let repeated = if retry > 0 { unanswered.get(now, &retry_key) } else { None };
        let call = match repeated {
            Some(call) => {
                add(&stats.retries, 1);
                call
            }
            None => {
                add(&stats.turns, 1);
                let call = Arc::new(Call {
                    event_id: Uuid::now_v7().to_string(),
                    began_at: Micros::now(),
                    block: OnceLock::new(),
                    captured: AtomicBool::new(false),
                });
                unanswered.keep(now, retry_key, Arc::clone(&call));
                call
            }
        };
        drop(unanswered);
        Some(Turn { member: Arc::clone(self), scope, request, call, retry_key, stream: Mutex::default() })
    }
}

impl Turn {
    /// The id of the event that will be captured.
    #[must_use]
    pub fn event_id(&self) -> &str {
        &self.call.event_id
    }

    /// Its engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        self.member.engine()
    }

    /// The request as it came.
    #[must_use]
    pub fn original(&self) -> &Bytes {
        self.request.body()
    }

    /// The body to send, where that is known without asking anybody.
    #[must_use]
    pub fn decided(&self) -> Option<Bytes> {
        if let Some(block) = self.call.block.get() {
            return Some(self.with(block.as_deref()));
        }
        let engine = self.engine();
        if self.request.query().is_empty() {
            engine.stats.passed_through(PassedThrough::NoQuery);
            return Some(self.decide(None));
        }
        let Some(key) = self.turn_key() else {
            engine.stats.passed_through(PassedThrough::NoPlace);
            return Some(self.decide(None));
        };
        // Let go of before the block is decided, which takes it again.
        let of_turn = if self.request.is_within_turn() { lock(&engine.blocks).get(Instant::now(), &key) } else { None };
        if let Some(block) = of_turn {
            if block.is_some() {
                add(&engine.stats.injected, 1);
            }
            return Some(self.decide(block));
        }
        None
    }

    /// The body to send, within the recall deadline.
    pub async fn inject(self: Arc<Self>) -> Bytes {
        if let Some(body) = self.decided() {
            return body;
        }
        let engine = self.engine();
        let block = match recalled_block(engine, &self.scope.entity_id, self.request.query()).await {
            Ok(block) => {
                add(&engine.stats.injected, 1);
                Some(block)
            }
            Err(why) => {
                engine.stats.passed_through(why);
                None
            }
        };
        self.decide(block)
    }

    /// As [`Turn::inject`], on the caller's thread.
    pub fn inject_here(self: &Arc<Self>) -> Bytes {
        if let Some(body) = self.decided() {
            return body;
        }
        let body = self.engine().block_on(patience(self.engine()), Arc::clone(self).inject());
        body.unwrap_or_else(|| self.too_late())
    }

    /// As [`Turn::inject`]; `done` is called exactly once.
    pub fn inject_then(self: &Arc<Self>, done: impl FnOnce(Bytes) + Send + 'static) {
        if let Some(body) = self.decided() {
            return done(body);
        }
        let turn = Arc::clone(self);
        let patience = patience(self.engine());
        self.engine().run(Some(patience), Arc::clone(self).inject(), move |body| {
            done(body.unwrap_or_else(|| turn.too_late()));
        });
    }

    /// The runtime did not get to it in time.
    fn too_late(&self) -> Bytes {
        if self.call.block.get().is_none() {
            self.engine().stats.passed_through(PassedThrough::Deadline);
        }
        self.decide(None)
    }

    /// Decides about the block, unless that was decided already; all tries and later calls of the turn follow.
    fn decide(&self, block: Option<Arc<str>>) -> Bytes {
        let block = self.call.block.get_or_init(|| block);
        if let Some(key) = self.turn_key() {
            lock(&self.engine().blocks).keep(Instant::now(), key, block.clone());
        }
        self.with(block.as_deref())
    }

    fn with(&self, block: Option<&str>) -> Bytes {
        let placed = block.and_then(|block| self.request.with_block(block));
        placed.unwrap_or_else(|| self.request.body().clone())
    }

    fn turn_key(&self) -> Option<[u8; 32]> {
        self.request.turn_key().map(|key| self.scope.hash(&[&key]))
    }

    /// A whole answer. Anything but success leaves the turn open for a retry.
    pub fn answer(&self, status: u16, body: &[u8], latency_ms: f64) {
        if (200..300).contains(&status) {
            self.captured(&Answer::read(self.request.surface(), body), latency_ms);
        }
    }

    /// The next bytes of a streamed answer.
    pub fn feed(&self, piece: &[u8]) {
        let mut stream = lock(&self.stream);
        stream.get_or_insert_with(|| Stream::new(self.request.surface())).feed(piece);
    }

    /// The stream is over; `complete`: its last byte was seen.
    pub fn end(&self, status: u16, complete: bool, latency_ms: f64) {
        let stream = lock(&self.stream).take();
        if (200..300).contains(&status) {
            let stream = stream.unwrap_or_else(|| Stream::new(self.request.surface()));
            self.captured(&stream.finish(complete), latency_ms);
        }
    }

    fn captured(&self, answer: &Answer, latency_ms: f64) {
        let engine = self.engine();
        let capture = Capture {
            event_id: &self.call.event_id,
            entity_id: &self.scope.entity_id,
            process_id: self.scope.process_id.as_deref(),
            session_id: self.scope.session_id.as_deref(),
            occurred_at: self.call.began_at,
            latency_ms,
            metadata: &[],
        };
        let Some(event) = captured_event(&self.request, answer, &capture) else { return };
        if self.call.captured.swap(true, Ordering::SeqCst) {
            return;
        }
        let call = &self.call;
        lock(&engine.unanswered).forget_if(&self.retry_key, |kept| Arc::ptr_eq(kept, call));
        if answer.cut.is_some() {
            add(&engine.stats.cut, 1);
        }
        let queued = engine.capture(self.member.number(), &self.call.event_id, event.into());
        if let (Some(number), Some(_)) = (queued, self.call.block.get()) {
            ahead::read(engine, &self.scope.entity_id, self.request.query(), number, &self.call.event_id);
        }
    }
}
