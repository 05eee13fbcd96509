//! One call to a model: what goes into it, and what is captured of it.
//!
//! Promises: the request that goes out is the one that came, or that with one block in it; a retry is the same turn, with the same
//! event id and the same block; one turn is one event, captured once; a call that failed is none.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use memori_ingest::wire::{Answer, Capture, Request, Stream, Surface, captured_event};
use memori_schemas::Micros;
use uuid::Uuid;

use crate::ahead;
use crate::engine::{Engine, lock};
use crate::member::Member;
use crate::recall::{patience, recalled_block};
use crate::stats::{PassedThrough, add};

/// A body larger than this is not read on the thread of the caller, who may be an event loop.
pub const LARGE_BODY_BYTES: usize = 256 << 10;
/// So much of either end of a large body tells it from others, with its length.
const HASHED_END_BYTES: usize = 64 << 10;

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
    /// Tries that may still be answered.
    under_way: AtomicUsize,
}

/// One try of a call.
pub struct Turn {
    member: Arc<Member>,
    scope: Scope,
    url_path: String,
    content_type: Option<String>,
    surface: Surface,
    body: Bytes,
    /// Once it is read. None: it is no conversation that we know.
    request: OnceLock<Option<Request>>,
    call: Arc<Call>,
    /// By what a retry is known.
    retry_key: [u8; 32],
    stream: Mutex<Option<Stream>>,
    /// Bytes of the streamed answer.
    fed_bytes: AtomicUsize,
    /// It failed.
    is_over: AtomicBool,
}

impl Member {
    /// The turn that this request makes; none where it is no conversation that we know, or nobody said whom it is about. What a large
    /// body is shows later: where it is no conversation, the turn passes it through.
    pub fn begin(
        self: &Arc<Self>,
        scope: Scope,
        url_path: &str,
        content_type: Option<&str>,
        body: Bytes,
        retry: u32,
    ) -> Option<Arc<Turn>> {
        let stats = &self.engine().stats;
        if scope.entity_id.is_empty() {
            stats.passed_through(PassedThrough::NoEntity);
            return None;
        }
        let surface = Surface::of_path(url_path);
        let request = OnceLock::new();
        if surface.is_some() && body.len() <= LARGE_BODY_BYTES {
            let _ = request.set(Request::parse(url_path, content_type, &body));
        }
        let Some(surface) = surface.filter(|_| !matches!(request.get(), Some(None))) else {
            stats.passed_through(PassedThrough::UnknownSurface);
            return None;
        };
        let member = self.number().to_le_bytes();
        let retry_key = if body.len() <= LARGE_BODY_BYTES {
            scope.hash(&[&member, url_path.as_bytes(), &body])
        } else {
            let (head, tail) = (&body[..HASHED_END_BYTES], &body[body.len() - HASHED_END_BYTES..]);
            scope.hash(&[&member, url_path.as_bytes(), &body.len().to_le_bytes(), head, tail])
        };
        let now = Instant::now();
        let mut unanswered = lock(&self.engine().unanswered);
        let is_over = |call: &Arc<Call>| call.under_way.load(Ordering::SeqCst) == 0;
        let repeated = if retry > 0 { unanswered.again(now, retry_key, retry, is_over) } else { None };
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
                    under_way: AtomicUsize::new(0),
                });
                unanswered.began(now, retry_key, Arc::clone(&call));
                call
            }
        };
        call.under_way.fetch_add(1, Ordering::SeqCst);
        drop(unanswered);
        Some(Arc::new(Turn {
            member: Arc::clone(self),
            scope,
            url_path: url_path.to_owned(),
            content_type: content_type.map(str::to_owned),
            surface,
            body,
            request,
            call,
            retry_key,
            stream: Mutex::default(),
            fed_bytes: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }))
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
        &self.body
    }

    /// The request, read where it was not yet.
    fn request(&self) -> Option<&Request> {
        let read = || {
            let request = Request::parse(&self.url_path, self.content_type.as_deref(), &self.body);
            if request.is_none() {
                self.engine().stats.passed_through(PassedThrough::UnknownSurface);
            }
            request
        };
        self.request.get_or_init(read).as_ref()
    }

    /// As [`Turn::request`], for whoever must not be kept.
    async fn read(self: &Arc<Self>) {
        if self.request.get().is_none() {
            let turn = Arc::clone(self);
            let _ = self.engine().beside(move || turn.request().is_some()).await;
        }
    }

    /// The body to send, where that is known without asking anybody.
    #[must_use]
    pub fn decided(&self) -> Option<Bytes> {
        let Some(request) = self.request() else { return Some(self.body.clone()) };
        if let Some(block) = self.call.block.get() {
            return Some(self.with(block.as_deref()));
        }
        let engine = self.engine();
        if request.query().is_empty() {
            engine.stats.passed_through(PassedThrough::NoQuery);
            return Some(self.decide(None));
        }
        let Some(key) = self.turn_key() else {
            engine.stats.passed_through(PassedThrough::NoPlace);
            return Some(self.decide(None));
        };
        // Let go of before the block is decided, which takes it again.
        let of_turn = if request.is_within_turn() { lock(&engine.blocks).get(Instant::now(), &key) } else { None };
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
        self.read().await;
        if let Some(body) = self.decided() {
            return body;
        }
        let Some(request) = self.request() else { return self.body.clone() };
        let engine = self.engine();
        let block = match recalled_block(engine, &self.scope.entity_id, request.query()).await {
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

    /// As [`Turn::inject`]; `done` is called exactly once. A large body is neither read nor written on the caller's thread.
    pub fn inject_then(self: &Arc<Self>, done: impl FnOnce(Bytes) + Send + 'static) {
        let is_large = self.body.len() > LARGE_BODY_BYTES;
        if let Some(body) = (!is_large).then(|| self.decided()).flatten() {
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
        if self.request.get().is_none() {
            // Still being read.
            self.call.block.get_or_init(|| None);
            return self.body.clone();
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
        let placed = block.and_then(|block| self.request()?.with_block(block));
        placed.unwrap_or_else(|| self.body.clone())
    }

    fn turn_key(&self) -> Option<[u8; 32]> {
        self.request()?.turn_key().map(|key| self.scope.hash(&[&key]))
    }

    /// A whole answer. Anything but success leaves the turn open for a retry. A large one is not read on the caller's thread.
    pub fn answer(self: &Arc<Self>, status: u16, body: Bytes, latency_ms: f64) {
        if (200..300).contains(&status) {
            let is_large = body.len() > LARGE_BODY_BYTES;
            self.captured(is_large, latency_ms, move |turn| Answer::read(turn.surface, &body));
        } else {
            self.failed();
        }
    }

    /// The next bytes of a streamed answer.
    pub fn feed(&self, piece: &[u8]) {
        self.fed_bytes.fetch_add(piece.len(), Ordering::Relaxed);
        let mut stream = lock(&self.stream);
        stream.get_or_insert_with(|| Stream::new(self.surface)).feed(piece);
    }

    /// The stream is over; `complete`: its last byte was seen.
    pub fn end(self: &Arc<Self>, status: u16, complete: bool, latency_ms: f64) {
        let stream = lock(&self.stream).take();
        if (200..300).contains(&status) {
            let stream = stream.unwrap_or_else(|| Stream::new(self.surface));
            let is_large = self.fed_bytes.load(Ordering::Relaxed) > LARGE_BODY_BYTES;
            self.captured(is_large, latency_ms, move |_| stream.finish(complete));
        } else {
            self.failed();
        }
    }

    /// This try gets no answer any more; a retry may take its place.
    fn failed(&self) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.call.under_way.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The event of this turn, made of the answer that `read` gives: here, or beside the caller's thread where request or answer is
    /// large. Its place among the captured ones is that of this call in both cases.
    fn captured(self: &Arc<Self>, is_large_answer: bool, latency_ms: f64, read: impl FnOnce(&Self) -> Answer + Send + 'static) {
        if !is_large_answer && self.body.len() <= LARGE_BODY_BYTES {
            let Some(event) = self.event(&read(self), latency_ms) else { return };
            if let Some(number) = self.engine().capture(self.member.number(), &self.call.event_id, event.into()) {
                self.read_ahead(number);
            }
            return;
        }
        let reserved = self.engine().reserve(self.member.number(), &self.call.event_id, self.body.len());
        let Some(reserved) = reserved else { return };
        let turn = Arc::clone(self);
        let engine = Arc::clone(self.engine());
        let write = move || {
            let event = turn.event(&read(&turn), latency_ms);
            let number = reserved.number();
            match event {
                Some(event) => {
                    reserved.fill(event.into());
                    turn.read_ahead(number);
                }
                None => reserved.give_up(),
            }
        };
        let writing = async move { engine.beside(write).await };
        self.engine().run(None, writing, |_| ());
    }

    /// The event, once for all tries; none where there is nothing to capture.
    fn event(&self, answer: &Answer, latency_ms: f64) -> Option<Vec<u8>> {
        let capture = Capture {
            event_id: &self.call.event_id,
            entity_id: &self.scope.entity_id,
            process_id: self.scope.process_id.as_deref(),
            session_id: self.scope.session_id.as_deref(),
            occurred_at: self.call.began_at,
            latency_ms,
            metadata: &[],
        };
        let event = captured_event(self.request()?, answer, &capture)?;
        if self.call.captured.swap(true, Ordering::SeqCst) {
            return None;
        }
        let (engine, call) = (self.engine(), &self.call);
        lock(&engine.unanswered).ended(Instant::now(), &self.retry_key, |kept| Arc::ptr_eq(kept, call));
        if answer.cut.is_some() {
            add(&engine.stats.cut, 1);
        }
        Some(event)
    }

    fn read_ahead(&self, number: u64) {
        if let (Some(request), Some(_)) = (self.request(), self.call.block.get()) {
            ahead::read(self.engine(), &self.scope.entity_id, request.query(), number, &self.call.event_id);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.failed();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_large_body_is_read_elsewhere_and_passes_through_where_it_is_no_conversation() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "mode": "sqlite", "path": folder.path().join("app.memori.db"), "data_dir": folder.path(), "recall_deadline_ms": 30_000,
            "embedding": {"kind": "none"},
        });
        let engine = Engine::open(&config.to_string()).unwrap();
        let alice = Arc::new(engine.member());
        let scope = || Scope { entity_id: "alice".to_owned(), ..Scope::default() };
        let begin = |body: &Bytes, retry| alice.begin(scope(), "/v1/chat/completions", None, body.clone(), retry);
        let padding = "x".repeat(LARGE_BODY_BYTES);
        let conversation =
            json!({"messages": [{"role": "system", "content": padding}, {"role": "user", "content": "I like tea."}]});
        let (conversation, other) = (Bytes::from(conversation.to_string()), Bytes::from(json!({"input": padding}).to_string()));
        for (body, captured) in [(conversation, 1), (other, 1)] {
            let turn = begin(&body, 0).unwrap();
            assert!(turn.request.get().is_none(), "not on this thread");
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            turn.inject_then(move |body| sender.send((body, std::thread::current().id())).unwrap());
            let (injected, on) = receiver.recv().unwrap();
            assert_eq!(
                (injected.as_ptr(), injected.len()),
                (body.as_ptr(), body.len()),
                "nothing is known yet: the very same bytes"
            );
            assert_ne!(on, std::thread::current().id());
            turn.answer(500, Bytes::from_static(b"{}"), 1.0);
            let again = begin(&body, 1).unwrap();
            assert_eq!(again.event_id(), turn.event_id());
            let noted = br#"{"choices":[{"message":{"role":"assistant","content":"Noted."}}]}"#;
            again.answer(200, Bytes::from_static(noted), 1.0);
            assert!(engine.flush(std::time::Duration::from_secs(30)));
            assert_eq!(crate::engine::read(&engine.stats.captured), captured);
        }
        assert!(alice.begin(scope(), "/v1/embeddings", None, padding.into(), 0).is_none());
        engine.close(std::time::Duration::from_secs(30));
    }
}
