//! One record a line.

use std::io::{self, BufRead, BufReader, Read};

use memchr::memchr;

use super::{Cut, MAX_RECORD_BYTES};
use crate::record::{Bad, Body, Raw};

/// Lines that are not blank. One that is too long is set aside without being held.
pub struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
    max_bytes: usize,
}

impl<R: Read> Lines<R> {
    /// All lines of `reader` after number `skip`.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn new(reader: R, skip: u64) -> io::Result<Self> {
        let mut lines = Self { reader: BufReader::with_capacity(256 << 10, reader), number: 0, max_bytes: MAX_RECORD_BYTES };
        while lines.number < skip && lines.pass()? {}
        Ok(lines)
    }

    /// Passes one line; false at the end.
    fn pass(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            let held = self.reader.fill_buf()?;
            if held.is_empty() {
                self.number += u64::from(any);
                return Ok(any);
            }
            any = true;
            if let Some(end) = memchr(b'\n', held) {
                self.reader.consume(end + 1);
                self.number += 1;
                return Ok(true);
            }
            let all = held.len();
            self.reader.consume(all);
        }
    }

    /// Reads one line into `line`; false at the end. What is over the bound is passed by, and said by `true` in the second place.
    fn read(&mut self, line: &mut Vec<u8>) -> io::Result<(bool, bool)> {
        let (mut any, mut over) = (false, false);
        loop {
            let held = self.reader.fill_buf()?;
            if held.is_empty() {
                self.number += u64::from(any);
                return Ok((any, over));
            }
            any = true;
            let end = memchr(b'\n', held);
            let piece = &held[..end.unwrap_or(held.len())];
            if line.len() + piece.len() > self.max_bytes {
                over = true;
            } else if !over {
                line.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                self.number += 1;
                return Ok((true, over));
            }
        }
    }
}

impl<R: Read> Cut for Lines<R> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            let mut line = Vec::with_capacity(512);
            let (any, over) = self.read(&mut line)?;
            if !any {
                return Ok(None);
            }
            if over {
                let reason = format!("the line is over {} bytes", self.max_bytes);
                return Ok(Some(Raw::at(self.number, Body::Bad(Bad::new(reason, &line)))));
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(Raw::at(self.number, Body::Json(line))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut lines: Lines<&[u8]>) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        while let Some(raw) = lines.next().unwrap() {
            let text = match raw.body {
                Body::Json(bytes) => String::from_utf8(bytes).unwrap(),
                Body::Bad(bad) => format!("bad: {}", bad.reason),
                Body::Rows(_) => unreachable!(),
            };
            found.push((raw.number, text));
        }
        found
    }

    #[test]
    fn numbers_are_those_of_the_file() {
        let text = b"\xef\xbb\xbfa\n\n  \r\nb\nc";
        let lines = |skip| all(Lines::new(&text[..], skip).unwrap());
        assert_eq!(lines(0), [(1, "a".into()), (4, "b".into()), (5, "c".into())]);
        assert_eq!(lines(4), [(5, "c".into())]);
        assert!(lines(5).is_empty() && lines(500).is_empty());
    }

    #[test]
    fn a_line_over_the_bound_costs_no_other() {
        let text = format!("a\n{}\nb\n", "x".repeat(1_000_000));
        let mut lines = Lines::new(text.as_bytes(), 0).unwrap();
        lines.max_bytes = 100;
        let found = all(lines);
        assert_eq!((found.len(), &found[2]), (3, &(3, "b".to_owned())));
        assert!(found[1].1.starts_with("bad: the line is over 100 bytes"));
    }
}
