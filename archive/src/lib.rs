//! The archive: what stands on the log, kept by tenant and day in a folder or object store, so that history outlives the log's retention.
//!
//! [`Archiver`] writes it: each record once, whoever else tries, as chains of manifests that are put where nothing is yet. Erasures are
//! applied to it. [`ArchivedLog`] reads it: a log whose partitions begin where the archive does.

mod consumer;
mod erase;
mod file;
mod log;
mod manifest;
pub mod metrics;
mod place;
#[cfg(feature = "process")]
pub mod process;
mod sink;
mod store;
pub mod verify;

pub use log::{ArchivedLog, behind};
pub use manifest::{DataFile, Manifest};
pub use place::Place;
pub use sink::{Archiver, ArchiverConfig, GROUP, run_archiver};
pub use store::{Archive, ArchiveError, Link};
