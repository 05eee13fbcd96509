//! Columns as arrays, for UNNEST, and cells as binary values, for COPY.

use bytes::{BufMut as _, BytesMut};
use postgres_types::ToSql;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::cells::{Cell, Fields, Kind};

/// Parameters of one statement, each an array of equal length.
#[derive(Default)]
pub(super) struct Arrays {
    columns: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Arrays {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with<T: ToSql + Sync + Send + 'static>(mut self, column: Vec<T>) -> Self {
        self.columns.push(Box::new(column));
        self
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect()
    }

    /// From rows of cells, column by column.
    pub(super) fn of_rows(kinds: &[Kind], rows: Vec<Vec<Cell<'_>>>) -> Self {
        let mut columns: Vec<Vec<Cell<'_>>> = kinds.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            for (column, cell) in columns.iter_mut().zip(row) {
                column.push(cell);
            }
        }
        let mut out = Self::new();
        for (kind, cells) in kinds.iter().zip(columns) {
            out = match kind {
                Kind::Text => out.with(cells.into_iter().map(text).collect()),
                Kind::Bytes => out.with(cells.into_iter().map(bytes).collect()),
                Kind::Uuid => out
                    .with(cells.into_iter().map(|c| if let Cell::Uuid(v) = c { v } else { None }).collect::<Vec<Option<Uuid>>>()),
                Kind::I64 => {
                    out.with(cells.into_iter().map(|c| if let Cell::I64(v) = c { v } else { None }).collect::<Vec<Option<i64>>>())
                }
                Kind::I32 => out.with(
                    cells.into_iter().map(|c| if let Cell::I32(v) = c { Some(v) } else { None }).collect::<Vec<Option<i32>>>(),
                ),
                Kind::I16 => {
                    out.with(cells.into_iter().map(|c| if let Cell::I16(v) = c { v } else { None }).collect::<Vec<Option<i16>>>())
                }
                Kind::Bool => out.with(
                    cells.into_iter().map(|c| if let Cell::Bool(v) = c { Some(v) } else { None }).collect::<Vec<Option<bool>>>(),
                ),
                Kind::F32 => {
                    out.with(cells.into_iter().map(|c| if let Cell::F32(v) = c { v } else { None }).collect::<Vec<Option<f32>>>())
                }
            };
        }
        out
    }
}

fn text(cell: Cell<'_>) -> Option<String> {
    match cell {
        Cell::Text(value) => value.map(str::to_owned),
        Cell::OwnedText(value) => Some(value),
        _ => None,
    }
}

fn bytes(cell: Cell<'_>) -> Option<Vec<u8>> {
    match cell {
        Cell::Bytes(value) => value.map(<[u8]>::to_vec),
        Cell::OwnedBytes(value) => Some(value),
        _ => None,
    }
}

impl Kind {
    pub(super) fn sql_type(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bytes => "bytea",
            Self::Uuid => "uuid",
            Self::I64 => "int8",
            Self::I32 => "int4",
            Self::I16 => "int2",
            Self::Bool => "bool",
            Self::F32 => "float4",
        }
    }
}

/// A row as COPY takes it in binary.
pub(super) fn encode(cells: &[Cell<'_>], out: &mut BytesMut) {
    // A table has a handful of columns, and a value at most the bytes of a record.
    out.put_i16(cells.len() as i16);
    for cell in cells {
        match cell {
            Cell::Text(value) => variable(value.map(str::as_bytes), out),
            Cell::OwnedText(value) => variable(Some(value.as_bytes()), out),
            Cell::Bytes(value) => variable(*value, out),
            Cell::OwnedBytes(value) => variable(Some(value), out),
            Cell::Uuid(value) => variable(value.as_ref().map(|v| v.as_bytes().as_slice()), out),
            Cell::I64(value) => variable(value.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice), out),
            Cell::I32(value) => variable(Some(&value.to_be_bytes()), out),
            Cell::I16(value) => variable(value.map(i16::to_be_bytes).as_ref().map(<[u8; 2]>::as_slice), out),
            Cell::Bool(value) => variable(Some(&[u8::from(*value)]), out),
            Cell::F32(value) => variable(value.map(f32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice), out),
        }
    }
}

fn variable(value: Option<&[u8]>, out: &mut BytesMut) {
    match value {
        Some(bytes) => {
            out.put_i32(bytes.len() as i32);
            out.put_slice(bytes);
        }
        None => out.put_i32(-1),
    }
}

impl Fields for tokio_postgres::Row {
    fn text(&self, at: usize) -> Result<Option<String>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn uuid(&self, at: usize) -> Result<Option<Uuid>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn i64(&self, at: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn i32(&self, at: usize) -> Result<Option<i32>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn i16(&self, at: usize) -> Result<Option<i16>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn bool(&self, at: usize) -> Result<bool, StoreError> {
        self.try_get(at).map_err(super::failed)
    }

    fn f32(&self, at: usize) -> Result<Option<f32>, StoreError> {
        self.try_get(at).map_err(super::failed)
    }
}
