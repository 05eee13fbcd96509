//! Rows of CSV. The first line names the columns.

use std::io::{self, Read};

use csv::{ReaderBuilder, StringRecord};

use super::Cut;
use crate::record::{Bad, Body, Raw, Row};

/// The rows of a CSV input, each with its line.
pub struct CsvRows<R> {
    reader: csv::Reader<R>,
    names: StringRecord,
    record: StringRecord,
    number: u64,
}

impl<R: Read> CsvRows<R> {
    /// With `delimiter` between the columns.
    ///
    /// # Errors
    /// There is no first line.
    pub fn new(reader: R, delimiter: u8) -> io::Result<Self> {
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).buffer_capacity(256 << 10).from_reader(reader);
        let mut names = reader.headers().map_err(into_io)?.clone();
        if let Some(first) = names.get(0).filter(|name| name.starts_with('\u{feff}')) {
            let cleaned = first.trim_start_matches('\u{feff}').to_owned();
            names = std::iter::once(cleaned.as_str()).chain(names.iter().skip(1)).collect();
        }
        Ok(Self { reader, names, record: StringRecord::new(), number: 0 })
    }
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

impl<R: Read> Cut for CsvRows<R> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        let line = |reader: &csv::Reader<R>| reader.position().line();
        let at = line(&self.reader).max(self.number + 1);
        match self.reader.read_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                self.number = self.record.position().map_or(at, csv::Position::line);
                let shown = || self.record.iter().collect::<Vec<_>>().join(",");
                if self.record.len() != self.names.len() {
                    let reason = format!("the row has {} columns, the first line names {}", self.record.len(), self.names.len());
                    return Ok(Some(Raw::at(self.number, Body::Bad(Bad::new(reason, shown().as_bytes())))));
                }
                let row: Row = self.names.iter().zip(&self.record).map(|(name, cell)| (name.to_owned(), cell.into())).collect();
                Ok(Some(Raw::at(self.number, Body::Rows(vec![row]))))
            }
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { pos, .. } => {
                    self.number = pos.as_ref().map_or(at, csv::Position::line);
                    Ok(Some(Raw::at(self.number, Body::Bad(Bad::new("the row is not UTF-8", b"")))))
                }
                _ => Err(into_io(error)),
            },
        }
    }
}
