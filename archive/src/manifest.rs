//! A manifest: which records one data range of a partition has, and in which files they lie. Its put is the commit.

use serde::{Deserialize, Serialize};

use crate::place::Place;

/// The version of the format.
pub(crate) const VERSION: u32 = 1;

/// One file of records of one tenant and one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its name in the archive.
    pub path: String,
    /// Whose records.
    pub tenant: String,
    /// The day on which the log took them, UTC.
    pub day: String,
    /// How many.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// The records of a partition from one offset to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the format.
    pub version: u32,
    /// Which partition.
    #[serde(flatten)]
    pub place: Place,
    /// The first offset.
    pub from: i64,
    /// One past the last; where the next manifest begins.
    pub to: i64,
    /// Counts rewritings after erasures, from 0. The highest one counts.
    pub revision: u32,
    /// Which archiver put it.
    pub writer: String,
    /// The controls of the partition's number below this offset were applied when it was put.
    pub controls_until: i64,
    /// When, microseconds since 1970.
    pub made_at_us: i64,
    /// In the order of tenants and days.
    pub files: Vec<DataFile>,
}

impl Manifest {
    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.files.iter().map(|file| file.records).sum()
    }

    /// How many bytes its files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}
