//! What is cut out of an input, before anybody knows what it says.

use serde_json::{Map, Value};

/// The most bytes of a bad record that are kept to be looked at.
pub const EXCERPT_BYTES: usize = 4096;

/// Columns of a row, or members of a flat object.
pub type Row = Map<String, Value>;

/// One record of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// Its line where the input has lines, else its place in the list; from 1. Of a group of rows the first's.
    pub number: u64,
    /// The last row's number of a group; else the same.
    pub last: u64,
    /// What it holds.
    pub body: Body,
}

impl Raw {
    /// A record that stands at one place.
    #[must_use]
    pub fn at(number: u64, body: Body) -> Self {
        Self { number, last: number, body }
    }
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// JSON text, not parsed yet.
    Json(Vec<u8>),
    /// Rows that belong together.
    Rows(Vec<Row>),
    /// It could not be cut out whole.
    Bad(Bad),
}

/// A record that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Why, for a person.
    pub reason: String,
    /// The record's beginning.
    pub text: String,
}

impl Bad {
    /// With as much of `record` as is kept.
    #[must_use]
    pub fn new(reason: impl Into<String>, record: &[u8]) -> Self {
        let kept = &record[..record.len().min(EXCERPT_BYTES)];
        let mut text = String::from_utf8_lossy(kept).into_owned();
        if kept.len() < record.len() {
            text.push('…');
        }
        Self { reason: reason.into(), text }
    }
}
