//! An answer as its bytes come.

use super::Surface;
use super::answer::{Answer, Assembly, Cut};
use super::sse::{Events, Found};

/// The most bytes of an answer that is one JSON.
const MAX_JSON_BYTES: usize = 16 << 20;

/// Puts an answer together while it passes: a stream of events, or one JSON.
///
/// Bounded: an answer's words and arguments are kept up to 1 MiB and 512 parts, one event up to 8 MiB, one JSON up to 16 MiB; what
/// is larger is captured as cut. The answer is the same however the bytes were split.
#[derive(Debug)]
pub struct Stream {
    assembly: Assembly,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Nothing but white space so far.
    Unknown,
    Json {
        bytes: Vec<u8>,
        is_too_large: bool,
    },
    Events(Events),
}

impl Stream {
    /// For an answer to a call of that surface.
    #[must_use]
    pub fn new(surface: Surface) -> Self {
        Self { assembly: Assembly::new(surface), body: Body::Unknown }
    }

    /// The next bytes, decoded (of no content encoding).
    pub fn feed(&mut self, mut piece: &[u8]) {
        if matches!(self.body, Body::Unknown) {
            // A stream of events may begin with blank lines, too: they are no events.
            piece = piece.trim_ascii_start();
            match piece.first() {
                None => return,
                Some(b'{' | b'[') => self.body = Body::Json { bytes: Vec::new(), is_too_large: false },
                Some(_) => self.body = Body::Events(Events::default()),
            }
        }
        let assembly = &mut self.assembly;
        match &mut self.body {
            Body::Unknown => {}
            Body::Json { is_too_large: true, .. } => {}
            Body::Json { bytes, is_too_large } => {
                if bytes.len() + piece.len() > MAX_JSON_BYTES {
                    *is_too_large = true;
                    *bytes = Vec::new();
                } else {
                    bytes.extend_from_slice(piece);
                }
            }
            Body::Events(events) => events.feed(piece, &mut |found| take(assembly, &found)),
        }
    }

    /// Whether the provider said that this was all: nothing of the answer can follow.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.assembly.is_done()
    }

    /// The answer, as far as it came. `complete`: the bytes ended because there were no more, not because somebody went.
    #[must_use]
    pub fn finish(mut self, complete: bool) -> Answer {
        let failed = |error: &str| Answer { error: Some(error.to_owned()), cut: Some(Cut::Failed), ..Answer::default() };
        match self.body {
            Body::Unknown if complete => return failed("empty"),
            Body::Unknown => {}
            Body::Json { is_too_large: true, .. } => {
                return Answer { cut: Some(Cut::TooLong), ..Answer::default() };
            }
            Body::Json { bytes, .. } => {
                self.assembly.whole(&bytes);
            }
            Body::Events(mut events) => {
                let assembly = &mut self.assembly;
                events.finish(&mut |found| take(assembly, &found));
            }
        }
        let answer = self.assembly.finish();
        let says_nothing = answer.parts.is_empty() && answer.finish_reason.is_none() && answer.response_id.is_none();
        if complete && says_nothing && answer.error.is_none() {
            return failed("unreadable");
        }
        answer
    }
}

fn take(assembly: &mut Assembly, found: &Found<'_>) {
    match found {
        Found::Event(name, data) => assembly.event(name, data),
        Found::LeftOut(name) => assembly.event_left_out(name),
    }
}
