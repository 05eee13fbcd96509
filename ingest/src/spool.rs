//! The spool: accepted events on disk while the log is away.
//!
//! Promises: an event is fsynced before it is acknowledged; the spool is bounded, and full means refused; events of a key go to the
//! log in the order in which they came, and new ones queue behind them; what was delivered is deleted; a torn tail costs nobody else.

mod disk;
mod frame;
mod index;
mod replay;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memori_schemas::{ConversationEvent, LogRecordBody, Micros, framing, ids};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::metrics;
use disk::Disk;
use frame::Entry;
use index::Index;

pub use replay::replay;

/// The most bytes that one fsync covers.
const GROUP_BYTES: usize = 4 << 20;
/// The most commands that wait for the spool's thread.
const QUEUED_COMMANDS: usize = 1_024;

/// Why the spool did not take an event.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpoolError {
    /// It would go beyond its bound.
    #[error("the spool is full")]
    Full,
    /// The disk does not take it.
    #[error("the spool cannot be written: {0}")]
    Failed(String),
}

/// The spool.
pub struct Spool {
    shared: Arc<Shared>,
    to_thread: mpsc::Sender<Command>,
}

struct Shared {
    folder: PathBuf,
    index: Mutex<Index>,
    /// Something new waits.
    grown: Notify,
    /// The log did not confirm lately: new events come here without asking it first. Ends with the first one that it takes.
    log_away: AtomicBool,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_levels(&self) {
        let (entries, bytes) = {
            let index = self.index();
            (index.entries(), index.bytes())
        };
        metrics::level(metrics::SPOOL_EVENTS, entries);
        metrics::level(metrics::SPOOL_BYTES, usize::try_from(bytes).unwrap_or(usize::MAX));
    }
}

enum Command {
    /// Write these, whose bytes are set aside, and say so.
    Append { entries: Vec<Entry>, frames: Vec<u8>, done: oneshot::Sender<Result<(), SpoolError>> },
    /// More of a segment is in the log; the index says how much.
    Delivered { segment: u64 },
    /// The log refuses this one for good.
    SetAside { entry: Box<Entry>, done: oneshot::Sender<io::Result<()>> },
}

impl Spool {
    /// Opens the spool in `folder`, bounded by `max_bytes`, and shows each event that waits in it, oldest first.
    ///
    /// # Errors
    /// Where the folder cannot be used, or another process uses it.
    pub fn open(folder: &Path, max_bytes: u64, mut show: impl FnMut(&ConversationEvent)) -> io::Result<Self> {
        let mut index = Index::new(max_bytes);
        let (disk, opened) = Disk::open(folder, &mut index, |entry| {
            if let Ok(LogRecordBody::Conversation(event)) = framing::decode(&entry.payload) {
                show(&event);
            }
        })?;
        if opened.torn_bytes > 0 {
            tracing::warn!(bytes = opened.torn_bytes, "the spool had a torn tail");
        }
        if opened.waiting > 0 {
            tracing::info!(events = opened.waiting, "the spool holds events from before");
        }
        metrics::count(metrics::SPOOL_TORN_BYTES, usize::try_from(opened.torn_bytes).unwrap_or(usize::MAX));
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            index: Mutex::new(index),
            grown: Notify::new(),
            log_away: AtomicBool::new(opened.waiting > 0),
        });
        shared.show_levels();
        let (to_thread, commands) = mpsc::channel(QUEUED_COMMANDS);
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("memori-spool".to_owned()).spawn(move || write_commands(disk, &of_thread, commands))?;
        Ok(Self { shared, to_thread })
    }

    /// Whether a new event of this key has to queue here: older ones of its key wait, or the log is known to be away.
    #[must_use]
    pub fn must_queue(&self, key: &[u8]) -> bool {
        let index = self.shared.index();
        index.has_key(key) || (index.entries() > 0 && self.shared.log_away.load(Ordering::Relaxed))
    }

    /// The log did not confirm an event in time.
    pub fn log_is_away(&self) {
        self.shared.log_away.store(true, Ordering::Relaxed);
    }

    /// The log answers again.
    pub fn log_is_back(&self) {
        self.shared.log_away.store(false, Ordering::Relaxed);
    }

    /// Whether the log is known to be away, so that events come here.
    #[must_use]
    pub fn stands_in(&self) -> bool {
        self.shared.log_away.load(Ordering::Relaxed)
    }

    /// When an event that waits here was accepted.
    #[must_use]
    pub fn accepted_at(&self, tenant: &str, event_id: &str) -> Option<Micros> {
        self.shared.index().accepted_at(tenant, event_id)
    }

    /// How many events wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.index().entries()
    }

    /// Bytes of a tenant's events that wait.
    #[must_use]
    pub fn bytes_of(&self, tenant: &str) -> u64 {
        self.shared.index().bytes_of(tenant)
    }

    /// Its bound.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.shared.index().max_bytes()
    }

    /// Whether an event of this key, or of any without one, waits here.
    #[must_use]
    pub fn holds(&self, key: Option<&[u8]>) -> bool {
        let index = self.shared.index();
        key.map_or(index.entries() > 0, |key| index.has_key(key))
    }

    /// As [`Spool::holds`], of the spools of other processes in `spools`, those of processes that are gone included. Blocking.
    ///
    /// # Errors
    /// The system's own.
    pub fn others_hold(&self, spools: &Path, key: Option<&[u8]>) -> io::Result<bool> {
        for spool in std::fs::read_dir(spools)? {
            let spool = spool?;
            if spool.path() != self.shared.folder && spool.file_type()?.is_dir() && disk::holds(&spool.path(), key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes events durable here, in order; answers one result each. Once one of a key is refused, later ones of it are, too.
    pub async fn append(&self, events: Vec<ConversationEvent>, traceparent: Option<&str>) -> Vec<Result<(), SpoolError>> {
        let mut results: Vec<Result<(), SpoolError>> = Vec::with_capacity(events.len());
        let mut entries = Vec::new();
        let mut frames = Vec::new();
        let mut places = Vec::new();
        let mut refused: HashMap<Bytes, SpoolError> = HashMap::new();
        for mut event in events {
            event.spooled = true;
            let key = Bytes::from(ids::log_key(&event.tenant, &event.entity_id));
            let event_id = event.event_id.clone();
            let accepted_at_us = event.accepted_at.0;
            if let Some(error) = refused.get(&key) {
                results.push(Err(error.clone()));
                continue;
            }
            let before = frames.len();
            let taken = match framing::encode(&LogRecordBody::Conversation(event)) {
                Err(error) => Err(SpoolError::Failed(error.to_string())),
                Ok(payload) => {
                    let traceparent = traceparent.map(str::to_owned);
                    let entry = Entry { accepted_at_us, key: key.clone(), event_id, traceparent, payload: payload.into() };
                    entry.write(&mut frames);
                    if self.shared.index().reserve((frames.len() - before) as u64) { Ok(entry) } else { Err(SpoolError::Full) }
                }
            };
            match taken {
                Ok(entry) => {
                    places.push(results.len());
                    entries.push(entry);
                    results.push(Ok(()));
                }
                Err(error) => {
                    frames.truncate(before);
                    refused.insert(key, error.clone());
                    results.push(Err(error));
                }
            }
        }
        if !entries.is_empty() {
            let reserved = frames.len() as u64;
            let (done, written) = oneshot::channel();
            let written = match self.to_thread.send(Command::Append { entries, frames, done }).await {
                Ok(()) => written.await.unwrap_or_else(|_| Err(SpoolError::Failed("the spool's thread ended".to_owned()))),
                Err(_) => {
                    self.shared.index().release(reserved);
                    Err(SpoolError::Failed("the spool's thread is gone".to_owned()))
                }
            };
            if let Err(error) = written {
                for place in places {
                    results[place] = Err(error.clone());
                }
            }
        }
        for result in &results {
            match result {
                Ok(()) => {}
                Err(SpoolError::Full) => metrics::count(metrics::SPOOL_FULL, 1),
                Err(SpoolError::Failed(_)) => metrics::count(metrics::SPOOL_FAILED, 1),
            }
        }
        results
    }
}

/// The spool's thread: owns the files, groups appends under one fsync, ends when nobody can send any more.
fn write_commands(mut disk: Disk, shared: &Shared, mut commands: mpsc::Receiver<Command>) {
    let mut next = None;
    while let Some(command) = next.take().or_else(|| commands.blocking_recv()) {
        match command {
            Command::Append { mut entries, mut frames, done } => {
                let mut answers = vec![done];
                while frames.len() < GROUP_BYTES {
                    match commands.try_recv() {
                        Ok(Command::Append { entries: more_entries, frames: more_frames, done }) => {
                            entries.extend(more_entries);
                            frames.extend_from_slice(&more_frames);
                            answers.push(done);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let appended = append_group(&mut disk, shared, &entries, &frames);
                shared.show_levels();
                for answer in answers {
                    let _ = answer.send(appended.clone());
                }
                shared.grown.notify_one();
            }
            Command::Delivered { segment: number } => {
                if let Err(error) = note_delivered(&mut disk, shared, number) {
                    tracing::warn!(%error, "the spool's folder does not take the note of what was delivered");
                }
                shared.show_levels();
            }
            Command::SetAside { entry, done } => {
                let _ = done.send(disk.set_aside(&entry));
            }
        }
    }
}

/// Notes how far a segment is delivered; deletes it where nothing of it waits. Only this thread makes a segment longer, so one that
/// is delivered whole stays so until it is gone.
fn note_delivered(disk: &mut Disk, shared: &Shared, number: u64) -> io::Result<()> {
    let Some(segment) = shared.index().segment(number) else { return Ok(()) };
    disk.mark(number, segment.delivered_bytes)?;
    if segment.delivered_bytes == segment.durable_bytes {
        disk.delete(number)?;
        shared.index().drop_segment(number);
    }
    Ok(())
}

fn append_group(disk: &mut Disk, shared: &Shared, entries: &[Entry], frames: &[u8]) -> Result<(), SpoolError> {
    let appended = disk.append(frames);
    let mut index = shared.index();
    index.release(frames.len() as u64);
    match appended {
        Ok(segment) => {
            index.grow(segment, frames.len() as u64);
            entries.iter().for_each(|entry| index.add(entry));
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "the spool cannot be written");
            Err(SpoolError::Failed(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests;
