//! Cutting an input into records, in memory that is bounded by one record.

mod elements;
mod groups;
mod lines;
mod tables;

use std::io;

pub use elements::Elements;
pub use groups::{Grouped, Grouping};
pub use lines::Lines;
pub use tables::CsvRows;

use crate::record::Raw;

/// The largest record that is read: a conversation with its whole tree.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

/// An input, record by record.
pub trait Cut {
    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// The input cannot be read on.
    fn next(&mut self) -> io::Result<Option<Raw>>;
}
