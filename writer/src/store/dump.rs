//! Every base table as text, to compare two stores: versions and times of application, which depend on arrival, are left out.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::cells::Cell;
use super::tables::Row;
use crate::plan::EntityRef;

/// Columns that depend on when or by how many flushes something arrived.
const ARRIVAL: [&str; 2] = ["applied_at_us", "version"];

/// Tables by name; each row is an object of its columns, and rows stand in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump(pub BTreeMap<String, Vec<Map<String, Value>>>);

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, rows) in &self.0 {
            for row in rows {
                writeln!(f, "{table} {}", Value::Object(row.clone()))?;
            }
        }
        Ok(())
    }
}

impl Dump {
    /// Adds a table.
    pub(crate) fn add<R: Row>(&mut self, rows: &[(Option<EntityRef>, R)]) {
        let mut out: Vec<Map<String, Value>> = rows
            .iter()
            .map(|(owner, row)| {
                let names = R::TABLE.columns.iter().map(|(name, _)| *name);
                names
                    .zip(row.cells(owner.as_ref()))
                    .filter(|(name, _)| !ARRIVAL.contains(name))
                    .map(|(name, cell)| (name.to_owned(), json(&cell)))
                    .collect()
            })
            .collect();
        out.sort_by_cached_key(|row| {
            let key: Vec<String> =
                R::TABLE.key.iter().map(|name| row.get(*name).map(Value::to_string).unwrap_or_default()).collect();
            key
        });
        self.0.insert(R::TABLE.name.to_owned(), out);
    }

    /// Adds the entities' ids.
    pub(crate) fn add_entities(&mut self, rows: Vec<(EntityRef, Option<String>)>) {
        let mut rows = rows;
        rows.sort();
        let out = rows.into_iter().map(|(entity, id)| {
            let mut row = Map::new();
            row.insert("tenant".to_owned(), entity.tenant.into());
            row.insert("entity_key".to_owned(), entity.key.to_string().into());
            row.insert("entity_id".to_owned(), id.into());
            row
        });
        self.0.insert("entities".to_owned(), out.collect());
    }

    /// The first lines that only one of two dumps has, for a test's message.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let lines = |dump: &Self| dump.to_string().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        let (ours, theirs) = (lines(self), lines(other));
        let only = |sign: &str, a: &std::collections::BTreeSet<String>, b: &std::collections::BTreeSet<String>| {
            a.difference(b).take(5).map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
        };
        [only("-", &ours, &theirs), only("+", &theirs, &ours)].concat()
    }
}

fn json(cell: &Cell<'_>) -> Value {
    match cell {
        Cell::Text(text) => (*text).into(),
        Cell::OwnedText(text) => text.as_str().into(),
        Cell::Bytes(bytes) => bytes.map(hex::encode).into(),
        Cell::OwnedBytes(bytes) => hex::encode(bytes).into(),
        Cell::Uuid(uuid) => uuid.map(|u| u.to_string()).into(),
        Cell::I64(n) => (*n).into(),
        Cell::I32(n) => (*n).into(),
        Cell::I16(n) => (*n).into(),
        Cell::Bool(b) => (*b).into(),
        Cell::F32(x) => (*x).into(),
    }
}
