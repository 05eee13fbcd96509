//! From records as they were cut to events that are ready for the log: on several threads, in order.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use memori_event_log::NewRecord;
use serde_json::Value;

use crate::feed::{self, Chunk};
use crate::frontier::{Counts, Place};
use crate::importer::{Import, ImportError};
use crate::options::Options;
use crate::record::{Bad, Body, EXCERPT_BYTES};
use crate::source::{self, Converted, Format};
use crate::survey::Survey;

/// Chunks that wait to be converted.
const MAX_CHUNKS: usize = 4;

/// An event, ready for the log.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Its record.
    pub record: NewRecord,
    /// How many messages it has.
    pub messages: u64,
    /// It has no time of its own.
    pub timeless: bool,
}

/// Judges events as the front door does, and makes their records. Called on any thread.
pub trait Admit: Send + Sync + 'static {
    /// A record of the backfill lane.
    ///
    /// # Errors
    /// Why the event can never be taken.
    fn admit(&self, body: Value) -> Result<Admitted, String>;

    /// The same for the text of a body, without a value in between. `None` where it is not plain enough: then its value is judged.
    ///
    /// # Errors
    /// Why the event can never be taken.
    fn admit_text(&self, text: &[u8]) -> Option<Result<Admitted, String>>;
}

/// One record, converted.
pub(crate) struct Ready {
    pub(crate) place: Place,
    pub(crate) events: Vec<(NewRecord, Sent)>,
    pub(crate) bad: Vec<Bad>,
    pub(crate) counts: Counts,
}

/// What is remembered of an event that is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) timeless: bool,
}

/// A chunk, converted.
pub(crate) struct Prepared {
    pub(crate) records: Vec<Ready>,
    pub(crate) bytes: u64,
    pub(crate) survey: Survey,
}

fn prepare(chunk: Chunk, options: &Options, admit: &dyn Admit, surveyed: bool) -> Prepared {
    let Chunk { input, format, raws, bytes, ends: _ } = chunk;
    let mut prepared = Prepared { records: Vec::with_capacity(raws.len()), bytes, survey: Survey::default() };
    let as_it_is = format == Format::Events && options.leave_events_as_they_are() && !surveyed;
    for raw in raws {
        let place = Place { input, record: raw.last };
        if as_it_is
            && let Body::Json(text) = &raw.body
            && let Some(Ok(Admitted { record, messages, timeless })) = admit.admit_text(text)
        {
            let counts = Counts { records: 1, ..Counts::default() };
            let events = vec![(record, Sent { messages, timeless })];
            prepared.records.push(Ready { place, events, bad: Vec::new(), counts });
            continue;
        }
        let excerpt = excerpt(&raw.body);
        let Converted { events, mut bad, passed } = source::convert(format, raw.body, options);
        let mut admitted = Vec::with_capacity(events.len());
        for event in events {
            let seen = surveyed.then(|| Survey::of(&event));
            match admit.admit(event) {
                Ok(Admitted { record, messages, timeless }) => {
                    if let Some(seen) = seen {
                        prepared.survey.add(&seen);
                    }
                    admitted.push((record, Sent { messages, timeless }));
                }
                Err(reason) => bad.push(Bad::new(reason, b"")),
            }
        }
        for bad in bad.iter_mut().filter(|bad| bad.text.is_empty()) {
            *bad = Bad::new(std::mem::take(&mut bad.reason), &excerpt);
        }
        let counts = Counts { records: 1, passed, ..Counts::default() };
        prepared.records.push(Ready { place, events: admitted, bad, counts });
    }
    prepared
}

/// What is shown of a record that is set aside.
fn excerpt(body: &Body) -> Vec<u8> {
    match body {
        Body::Json(text) => text[..text.len().min(EXCERPT_BYTES + 1)].to_vec(),
        Body::Rows(rows) => rows.first().and_then(|row| serde_json::to_vec(row).ok()).unwrap_or_default(),
        Body::Bad(_) => Vec::new(),
    }
}

/// Chunks as they are read, converted on several threads, in order.
pub(crate) fn prepared(import: &Import, from: Place) -> BoxStream<'static, Result<Prepared, ImportError>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(MAX_CHUNKS);
    let (inputs, options) = (import.inputs.clone(), import.options.clone());
    let reading = tokio::task::spawn_blocking(move || feed::feed(&inputs, &options, from, &sender));
    let (options, admit) = (Arc::new(import.options.clone()), Arc::clone(&import.admit));
    let surveyed = import.producer.is_none();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    futures::stream::unfold((receiver, Some(reading)), async |(mut receiver, reading)| match receiver.recv().await {
        Some(chunk) => Some((chunk.map_err(ImportError::from), (receiver, reading))),
        // The channel is closed by whoever reads: by its end, or by a panic.
        None => match reading?.await {
            Ok(()) => None,
            Err(error) => Some((Err(ImportError::Broken(error.to_string())), (receiver, None))),
        },
    })
    .map(move |chunk| {
        let (options, admit) = (Arc::clone(&options), Arc::clone(&admit));
        async move {
            let chunk = chunk?;
            let preparing = tokio::task::spawn_blocking(move || prepare(chunk, &options, &*admit, surveyed));
            preparing.await.map_err(|error| ImportError::Broken(error.to_string()))
        }
    })
    .buffered(threads)
    .boxed()
}
