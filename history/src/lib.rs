//! History: conversations that were had elsewhere, read from the files and databases they lie in and put on the log's backfill lane.
//!
//! Promises: constant memory, whatever the size; event ids that are functions of what is read, so that a repeated or overlapping import
//! adds nothing; the times are those of the history; a checkpoint from which an import goes on after whatever ended it; what cannot
//! be read is set aside with its place and reason, and stops nothing.

pub mod checkpoint;
pub mod cut;
pub mod feed;
pub mod frontier;
pub mod importer;
pub mod input;
pub mod options;
mod prepare;
mod rate;
pub mod record;
mod remote;
pub mod source;
pub mod survey;
mod tables;
pub mod time;
pub mod turns;

pub use importer::{Import, ImportError, Progress, Summary};
pub use options::{Mapping, Options};
pub use prepare::{Admit, Admitted};
pub use source::Format;
