//! Reads inputs one after the other, on a thread that may block, and hands their records on in chunks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::Sender;

use crate::cut::Cut;
use crate::frontier::Place;
use crate::input::{Input, InputPlace, with_text};
use crate::options::Options;
use crate::record::{Bad, Body, Raw};
use crate::source::{self, Format, HEAD_BYTES, Layout};

/// The most records of a chunk.
const CHUNK_RECORDS: usize = 256;
/// About the most bytes of a chunk.
const CHUNK_BYTES: usize = 1 << 20;

/// Records that follow each other in one input.
#[derive(Debug)]
pub struct Chunk {
    /// Which input.
    pub input: usize,
    /// What they are.
    pub format: Format,
    /// At least one, unless the input ends here.
    pub raws: Vec<Raw>,
    /// Bytes that were read until now, of all inputs.
    pub bytes: u64,
    /// Nothing follows in this input.
    pub ends: bool,
}

/// Why reading stopped before the end.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// An input cannot be read on; trying again may help.
    #[error("{name} cannot be read on: {source}")]
    Unreadable {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The source is of no format that is known.
    #[error("{name}: {why}")]
    Unknown {
        /// Which.
        name: String,
        /// What to do.
        why: String,
    },
}

/// Where the chunks go.
pub type Chunks = Sender<Result<Chunk, FeedError>>;

/// Nobody wants more.
struct Enough;

/// Reads `inputs` from behind `from` on. Ends when all are read, when one fails, or when nobody listens.
pub fn feed(inputs: &[Input], options: &Options, from: Place, chunks: &Chunks) {
    let before: u64 = inputs.iter().take(from.input).filter_map(|input| input.identity.bytes).sum();
    let bytes = Arc::new(AtomicU64::new(before));
    for (number, input) in inputs.iter().enumerate().skip(from.input) {
        let skip = if number == from.input { from.record } else { 0 };
        let mut run = Run { input: number, chunks, bytes: &bytes, format: options.format.unwrap_or(Format::Events) };
        let name = || input.identity.name.clone();
        match one(input, options, skip, inputs.len() == 1, &mut run) {
            Ok(()) => {}
            Err(Ended::Enough) => return,
            Err(Ended::Unknown(why)) => {
                let _ = chunks.blocking_send(Err(FeedError::Unknown { name: name(), why }));
                return;
            }
            Err(Ended::Io(source)) => {
                let _ = chunks.blocking_send(Err(FeedError::Unreadable { name: name(), source }));
                return;
            }
        }
    }
}

enum Ended {
    Enough,
    Unknown(String),
    Io(io::Error),
}

impl From<Enough> for Ended {
    fn from(_: Enough) -> Self {
        Self::Enough
    }
}

struct Run<'c> {
    input: usize,
    chunks: &'c Chunks,
    bytes: &'c Arc<AtomicU64>,
    format: Format,
}

impl Run<'_> {
    fn send(&self, raws: Vec<Raw>, ends: bool) -> Result<(), Enough> {
        let chunk = Chunk { input: self.input, format: self.format, raws, bytes: self.bytes.load(Ordering::Relaxed), ends };
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| Enough)
    }

    /// Everything of `cut`. What says that the input is broken is a bad record, and its end.
    fn all(&self, cut: &mut dyn Cut) -> Result<(), Ended> {
        let mut raws = Vec::new();
        let (mut size, mut last) = (0, 0);
        loop {
            let raw = match cut.next() {
                Ok(Some(raw)) => raw,
                Ok(None) => break,
                Err(error) if is_broken(&error) => {
                    raws.push(Raw::at(last + 1, Body::Bad(Bad::new(format!("the input is broken from here on: {error}"), b""))));
                    break;
                }
                Err(error) => return Err(Ended::Io(error)),
            };
            last = raw.last;
            size += match &raw.body {
                Body::Json(text) => text.len(),
                Body::Rows(rows) => rows.len() * 512,
                Body::Bad(bad) => bad.text.len(),
            };
            raws.push(raw);
            if raws.len() >= CHUNK_RECORDS || size >= CHUNK_BYTES {
                self.send(std::mem::take(&mut raws), false)?;
                size = 0;
            }
        }
        self.send(raws, true)?;
        Ok(())
    }
}

/// Whether an error is of the bytes that are there, so that reading again would end the same way.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

fn one(input: &Input, options: &Options, skip: u64, alone: bool, run: &mut Run<'_>) -> Result<(), Ended> {
    if let InputPlace::Postgres(url) = &input.place {
        run.format = Format::Memori;
        return crate::tables::postgres(url, options, skip, |cut| run.all(cut)).map_err(Ended::Io)?;
    }
    let bytes = Arc::clone(run.bytes);
    let read = with_text(input, HEAD_BYTES, &bytes, |opened| {
        let shape = match source::tell(&opened.head, options) {
            Ok(shape) => shape,
            Err(why) if alone => return Ok(Err(Ended::Unknown(why))),
            Err(why) => {
                let bad = Raw::at(skip + 1, Body::Bad(Bad::new(format!("the whole input is passed by: {why}"), &opened.head)));
                return Ok(run.send(vec![bad], true).map_err(Ended::from));
            }
        };
        run.format = shape.format;
        match shape.layout {
            Layout::Parquet | Layout::Sqlite => {
                crate::tables::binary(input, opened.reader, shape, options, skip, |cut| run.all(cut))
            }
            _ => {
                let mut cut = source::cut(opened.reader, shape, options, skip)?;
                Ok(run.all(&mut *cut))
            }
        }
    });
    match read {
        Ok(ended) => ended,
        Err(error) if is_broken(&error) => {
            let bad = Raw::at(skip + 1, Body::Bad(Bad::new(format!("the input is broken: {error}"), b"")));
            run.send(vec![bad], true).map_err(Ended::from)
        }
        Err(error) => Err(Ended::Io(error)),
    }
}
