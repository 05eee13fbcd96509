//! Server-sent events out of bytes that may be split anywhere.
//!
//! Promises: the events are the same however the bytes come in; line ends are LF, CR LF or CR; comments and unknown fields are
//! skipped. One event holds at most [`MAX_EVENT_BYTES`]; of a larger one only its name is told. Cost is linear in the bytes.

/// The most bytes of one event's data.
pub(super) const MAX_EVENT_BYTES: usize = 8 << 20;
/// Buffers that an unusual event made larger are given back.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// An event's name (empty where it has none) and its data.
    Event(&'a str, &'a [u8]),
    /// An event that was too large.
    LeftOut(&'a str),
}

/// The state between two pieces.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    name: String,
    is_too_large: bool,
    /// An LF that comes next belongs to this CR.
    ends_with_cr: bool,
    is_started: bool,
}

impl Events {
    /// More bytes.
    pub(super) fn feed(&mut self, mut piece: &[u8], found: &mut impl FnMut(Found<'_>)) {
        if self.ends_with_cr
            && let Some((first, rest)) = piece.split_first()
        {
            self.ends_with_cr = false;
            if *first == b'\n' {
                piece = rest;
            }
        }
        while let Some(at) = piece.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let (line, rest) = (&piece[..at], &piece[at + 1..]);
            if self.line.is_empty() {
                self.line(line, found);
            } else {
                self.buffer(line);
                let line = std::mem::take(&mut self.line);
                self.line(&line, found);
                self.line = recycled(line);
            }
            piece = if piece[at] == b'\n' {
                rest
            } else if rest.is_empty() {
                self.ends_with_cr = true;
                rest
            } else {
                rest.strip_prefix(b"\n").unwrap_or(rest)
            };
        }
        self.buffer(piece);
    }

    /// The bytes have ended: what was begun is an event, too.
    pub(super) fn finish(&mut self, found: &mut impl FnMut(Found<'_>)) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.line(&line, found);
        }
        self.dispatch(found);
    }

    fn buffer(&mut self, bytes: &[u8]) {
        let room = (MAX_EVENT_BYTES + 64).saturating_sub(self.line.len());
        self.is_too_large |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, line: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let line = if self.is_started { line } else { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) };
        self.is_started = true;
        if line.is_empty() {
            return self.dispatch(found);
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.data.len() + value.len() >= MAX_EVENT_BYTES {
                    self.is_too_large = true;
                } else {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.data.extend_from_slice(value);
                }
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                let name = std::str::from_utf8(value).unwrap_or_default();
                self.name.push_str(&name[..name.floor_char_boundary(128)]);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, found: &mut impl FnMut(Found<'_>)) {
        if self.is_too_large {
            found(Found::LeftOut(&self.name));
        } else if self.has_data {
            found(Found::Event(&self.name, &self.data));
        }
        self.data = recycled(std::mem::take(&mut self.data));
        self.name.clear();
        self.has_data = false;
        self.is_too_large = false;
    }
}

fn recycled(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.shrink_to(KEPT_BUFFER_BYTES);
    buffer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = Events::default();
        let mut all = Vec::new();
        let mut found = |event: Found<'_>| match event {
            Found::Event(name, data) => all.push((name.to_owned(), String::from_utf8_lossy(data).into_owned())),
            Found::LeftOut(name) => all.push((name.to_owned(), "too large".into())),
        };
        for piece in pieces {
            parser.feed(piece, &mut found);
        }
        parser.finish(&mut found);
        all
    }

    #[test]
    fn lines_become_events() {
        let event = |name: &str, data: &str| (name.to_owned(), data.to_owned());
        for (stream, expected) in [
            ("data: a\n\ndata: b\n\n", vec![event("", "a"), event("", "b")]),
            ("\u{FEFF}event: x\r\ndata:a\r\ndata:  b\r\n\r\n", vec![event("x", "a\n b")]),
            ("event: x\rdata: a\r\rdata: b\r\r", vec![event("x", "a"), event("", "b")]),
            (": ping\n\nid: 3\nretry: 1\nother\ndata\n\n", vec![event("", "")]),
            ("event: x\n\ndata: a", vec![event("", "a")]),
            ("\n\n\r\n", vec![]),
        ] {
            assert_eq!(events(&[stream.as_bytes()]), expected, "{stream:?}");
        }
    }

    #[test]
    fn a_large_event_costs_no_more_than_its_bound() {
        let large = vec![b'x'; MAX_EVENT_BYTES + 100];
        let pieces: Vec<&[u8]> =
            [&b"event: big\ndata: "[..]].into_iter().chain(large.chunks(70_000)).chain([&b"\n\ndata: a\n\n"[..]]).collect();
        assert_eq!(events(&pieces), [("big".to_owned(), "too large".to_owned()), (String::new(), "a".to_owned())]);
        let mut parser = Events::default();
        for _ in 0..3 {
            parser.feed(&large, &mut |_| {});
        }
        assert!(parser.line.capacity() < 3 * MAX_EVENT_BYTES);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            lines in prop::collection::vec(prop::sample::select(vec!["data: ä{}", "event: x", ":c", "", "", "data:", "data: \u{2028}", "junk"]), 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            // A CR and an LF of two lines that meet are one line end.
            let stream: String = lines.iter().zip(&ends).map(|(line, end)| format!("{line}{end}")).collect();
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(events(&pieces), events(&[bytes]));
        }
    }
}
