//! Rows that follow each other and belong together, as one record of a bounded number of them.

use std::io;

use serde_json::Value;

use super::Cut;
use crate::record::{Body, Raw, Row};

/// The most rows that are held together; a longer conversation is cut before what a person says.
const MAX_ROWS: usize = 400;
/// The most bytes that they may have, about.
const MAX_BYTES: usize = 4 << 20;

/// How rows belong together.
pub trait Grouping {
    /// What the rows of a group have in common; `None`: the row stands alone.
    fn key(&self, row: &Row) -> Option<String>;
    /// Whether a group that has grown too long may be cut before this row.
    fn may_cut_before(&self, row: &Row) -> bool;
}

/// Groups what `inner` cuts. A record that is JSON and no object stays as it is.
pub struct Grouped<C, G> {
    inner: C,
    grouping: G,
    skip: u64,
    group: Option<Group>,
    ahead: Option<Raw>,
}

struct Group {
    key: String,
    first: u64,
    last: u64,
    rows: Vec<Row>,
    bytes: usize,
}

impl Group {
    fn raw(self) -> Raw {
        Raw { number: self.first, last: self.last, body: Body::Rows(self.rows) }
    }
}

impl<C: Cut, G: Grouping> Grouped<C, G> {
    /// Groups all rows; those groups that end at or before row `skip` are not given out. Groups do not depend on `skip`.
    pub fn new(inner: C, grouping: G, skip: u64) -> Self {
        Self { inner, grouping, skip, group: None, ahead: None }
    }

    fn group(&mut self) -> io::Result<Option<Raw>> {
        loop {
            if let Some(raw) = self.ahead.take() {
                return Ok(Some(raw));
            }
            let Some(raw) = self.inner.next()? else { return Ok(self.group.take().map(Group::raw)) };
            let (row, bytes) = match raw.body {
                Body::Rows(mut rows) if rows.len() == 1 => (rows.pop().unwrap_or_default(), 256),
                Body::Json(text) => match serde_json::from_slice::<Value>(&text) {
                    Ok(Value::Object(row)) => (row, text.len()),
                    _ => return Ok(Some(self.alone(Raw { body: Body::Json(text), ..raw }))),
                },
                body => return Ok(Some(self.alone(Raw { body, ..raw }))),
            };
            let Some(key) = self.grouping.key(&row) else {
                return Ok(Some(self.alone(Raw { body: Body::Rows(vec![row]), ..raw })));
            };
            let joins = self.group.as_ref().is_some_and(|group| {
                let full = group.rows.len() >= MAX_ROWS || group.bytes + bytes > MAX_BYTES;
                // One who never lets it be cut does not make it grow without bound.
                let must = group.rows.len() >= 4 * MAX_ROWS || group.bytes + bytes > 4 * MAX_BYTES;
                group.key == key && !must && !(full && self.grouping.may_cut_before(&row))
            });
            let before = if joins { None } else { self.group.take() };
            let group =
                self.group.get_or_insert_with(|| Group { key, first: raw.number, last: raw.number, rows: Vec::new(), bytes: 0 });
            group.rows.push(row);
            group.bytes += bytes;
            group.last = raw.last;
            if let Some(before) = before {
                return Ok(Some(before.raw()));
            }
        }
    }

    /// A record that joins nothing ends the group before it.
    fn alone(&mut self, raw: Raw) -> Raw {
        match self.group.take() {
            Some(group) => {
                self.ahead = Some(raw);
                group.raw()
            }
            None => raw,
        }
    }
}

impl<C: Cut, G: Grouping> Cut for Grouped<C, G> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            match self.group()? {
                Some(raw) if raw.last <= self.skip => {}
                other => return Ok(other),
            }
        }
    }
}
