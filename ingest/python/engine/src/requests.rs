//! What is asked of an engine and has an answer: routes of its front door, whether it is there, what became of events.
//!
//! Promises: an answer within the deadline, whatever it is; who is cut off because another handle closed the engine is asked for again
//! on the one that starts in its place, unless the process is about to end; a read waits for a database that is being opened, a
//! deletion for all that was captured before it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::engine::{Engine, lock};
use crate::member::Member;
use crate::process::is_exiting;
use crate::settle;
use crate::system::{ask_within, problem};

/// So long before a deadline it is said what was waited for.
const MARGIN: Duration = Duration::from_millis(25);

/// What a caller waits for, made anew for each try; given the time that is left.
type Work<T> = dyn Fn(Option<Duration>) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync;

/// Whether what came of a try is that of an engine which was closed beneath it.
type IsCut<T> = dyn Fn(Option<&T>) -> bool + Send + Sync;

/// A request to the front door.
struct Asked {
    method: Method,
    path: String,
    body: Option<Bytes>,
}

impl Asked {
    /// Whether it only puts events in, which the spool takes, too.
    fn posts_events(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.method == Method::POST && ["/v1/events", "/v1/events/batch"].contains(&path)
    }
}

impl Engine {
    /// Any route of the front door, on the caller's thread.
    pub fn request(self: &Arc<Self>, method: Method, path: String, body: Option<Bytes>, deadline: Duration) -> (u16, Bytes) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.request_then(method, path, body, deadline, move |answer| {
            let _ = sender.send(answer);
        });
        receiver.recv_timeout(deadline + Duration::from_millis(50)).unwrap_or_else(|_| self.too_late())
    }

    /// As [`Engine::request`]; `done` is called exactly once.
    pub fn request_then(
        self: &Arc<Self>,
        method: Method,
        path: String,
        body: Option<Bytes>,
        deadline: Duration,
        done: impl FnOnce((u16, Bytes)) + Send + 'static,
    ) {
        let asked = Arc::new(Asked { method, path, body });
        // Events without an id of their own would be two.
        let may_repeat = !asked.posts_events();
        let engine = Arc::clone(self);
        let work = move |left: Option<Duration>| -> Pin<Box<dyn Future<Output = (u16, Bytes)> + Send>> {
            Box::pin(Arc::clone(&engine).answered(Arc::clone(&asked), left.unwrap_or(Duration::MAX)))
        };
        let of_answer = Arc::clone(self);
        let done = Box::new(move |answer: Option<(u16, Bytes)>| done(answer.unwrap_or_else(|| of_answer.too_late())));
        let is_cut = move |answer: Option<&(u16, Bytes)>| may_repeat && answer.is_none_or(|(status, _)| *status == 503);
        self.run_whole(Some(Instant::now() + deadline), Arc::new(work), Arc::new(is_cut), done);
    }

    /// As [`Engine::build`], on the caller's thread; none where it takes longer than it should.
    pub fn build_here(self: &Arc<Self>, timeout: Duration) -> Option<Result<String, String>> {
        let patience = timeout + Duration::from_secs(1);
        let end = Instant::now() + timeout;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let engine = Arc::clone(self);
        let work = move |_: Option<Duration>| -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> {
            Box::pin(Arc::clone(&engine).build(end.saturating_duration_since(Instant::now())))
        };
        let done = Box::new(move |built| {
            let _ = sender.send(built);
        });
        let is_cut = |built: Option<&Result<String, String>>| built.is_none_or(Result::is_err);
        self.run_whole(Some(Instant::now() + patience), Arc::new(work), Arc::new(is_cut), done);
        receiver.recv_timeout(patience + Duration::from_millis(50)).ok().flatten()
    }

    /// [`Engine::run`], and again where the engine was closed meanwhile.
    fn run_whole<T: Send + 'static>(
        self: &Arc<Self>,
        end: Option<Instant>,
        work: Arc<Work<T>>,
        is_cut: Arc<IsCut<T>>,
        done: Box<dyn FnOnce(Option<T>) + Send>,
    ) {
        let running = self.running();
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let engine = Arc::clone(self);
        let working = work(left);
        self.run(left, working, move |result| {
            let was_closed = running.is_some_and(|running| running.stop.is_cancelled()) && !is_exiting();
            let has_time = end.is_none_or(|end| Instant::now() < end);
            if was_closed && has_time && is_cut(result.as_ref()) {
                engine.run_whole(end, work, is_cut, done);
            } else {
                done(result);
            }
        });
    }

    async fn answered(self: Arc<Self>, asked: Arc<Asked>, deadline: Duration) -> (u16, Bytes) {
        let began = Instant::now();
        let left = || deadline.saturating_sub(began.elapsed()).saturating_sub(MARGIN);
        if asked.method == Method::DELETE {
            // What a deletion removes is what came before it.
            let captured = lock(&self.queue).next_number();
            if tokio::time::timeout(left(), self.durable_up_to(captured)).await.is_err() {
                let why = "nothing is deleted yet: what was captured before is not durable, and would come back after the deletion; ask again";
                return (503, problem(503, why));
            }
        }
        let Some(system) = self.system().await else { return (503, problem(503, "memory is closed")) };
        if !asked.posts_events()
            && let Err(why) = system.open(left()).await
        {
            return (503, problem(503, &format!("memory cannot use {}: {why}", self.config.place())));
        }
        ask_within(system.router(), asked.method.clone(), &asked.path, asked.body.clone(), Some(left())).await
    }
}

impl Member {
    /// Waits until all that it captured is applied; what else ends a wait is in [`settle::wait`]. `done` is called exactly once.
    pub fn wait_then(&self, timeout: Option<Duration>, done: impl FnOnce(bool) + Send + 'static) {
        let (engine, number) = (Arc::clone(self.engine()), self.number());
        // It ends by itself, and looks at least once, also without any time.
        let end = timeout.map(|timeout| Instant::now() + timeout);
        let work = move |_: Option<Duration>| -> Pin<Box<dyn Future<Output = bool> + Send>> {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            Box::pin(settle::wait(Arc::clone(&engine), number, left))
        };
        let done = Box::new(move |applied: Option<bool>| done(applied.unwrap_or(false)));
        self.engine().run_whole(None, Arc::new(work), Arc::new(|applied: Option<&bool>| applied.is_none()), done);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_read_waits_for_the_database_and_a_deletion_takes_what_was_spooled_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "mode": "sqlite", "path": folder.path().join("app.memori.db"), "data_dir": folder.path().join("data"),
            "embedding": {"kind": "none"},
        });
        let engine = Engine::open(&config.to_string()).unwrap();
        engine.build_here(PATIENCE).unwrap().unwrap();
        let of_engine = Arc::clone(&engine);
        let system = engine.block_on(PATIENCE, async move { of_engine.system().await }).flatten().unwrap();
        let suspended = Arc::clone(&system);
        assert_eq!(engine.block_on(PATIENCE, async move { suspended.suspend(PATIENCE).await }), Some(true));

        let alice = engine.member();
        let (_, number) =
            alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#).unwrap();
        assert_eq!(engine.block_on(PATIENCE, alice.durable(number.unwrap())), Some(true));
        let stats: Value = serde_json::from_str(&engine.stats_json()).unwrap();
        assert_eq!(stats["spooled"], 1, "{stats}");
        let recall = || {
            let question = json!({"entity_id": "alice", "query": "What pet do I have?"}).to_string();
            (Method::POST, "/v1/recall".to_owned(), Some(Bytes::from(question)))
        };
        let (method, path, body) = recall();
        let (status, answer) = engine.request(method, path, body, Duration::from_millis(200));
        assert_eq!(status, 503);
        assert!(String::from_utf8_lossy(&answer).contains("app.memori.db"), "{answer:?}");

        let ask = |(method, path, body): (Method, String, Option<Bytes>)| {
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            engine.request_then(method, path, body, PATIENCE, move |(status, _)| sender.send(status).unwrap());
            receiver
        };
        let (read, deleted) = (ask(recall()), ask((Method::DELETE, "/v1/entities/alice".to_owned(), None)));
        system.resume();
        assert_eq!((read.recv_timeout(PATIENCE), deleted.recv_timeout(PATIENCE)), (Ok(200), Ok(202)));
        assert_eq!(engine.block_on(PATIENCE, alice.wait(Some(PATIENCE))), Some(true), "{:?}", alice.failures());
        let (method, path, body) = recall();
        let (status, answer) = engine.request(method, path, body, PATIENCE);
        assert_eq!(status, 200);
        assert!(!String::from_utf8_lossy(&answer).contains("cat"), "{answer:?}");
        engine.close(PATIENCE);
    }
}
