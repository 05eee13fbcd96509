//! The spools of one machine's processes: numbered folders, each with a lock beside it.
//!
//! Promises: a number is one process's for as long as it lives, however it ends; lock files stay, so that nobody holds the lock of a
//! file that is no longer there. A child that was forked while a slot was held holds it too, until both are gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The most processes that share a data folder.
const MOST: u32 = 4_096;
/// What the names of lock files end with.
const LOCK: &str = ".lock";

/// A number that is ours, with its folder (which whoever opens the spool makes).
#[derive(Debug)]
pub struct Slot {
    /// Which.
    pub number: u32,
    /// Its folder.
    pub folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// Takes the lowest number that is free.
    ///
    /// # Errors
    /// Where the folder cannot be used, or every number is taken.
    pub fn lowest_free(spools: &Path) -> io::Result<Self> {
        fs::create_dir_all(spools)?;
        for number in 0..MOST {
            if let Some(slot) = Self::take(spools, number)? {
                return Ok(slot);
            }
        }
        Err(io::Error::other(format!("{MOST} processes hold a spool in {}", spools.display())))
    }

    /// Takes the slots of processes that are gone and left a folder behind.
    pub(crate) fn orphans(spools: &Path) -> io::Result<Vec<Self>> {
        let mut orphans = Vec::new();
        for entry in fs::read_dir(spools)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if let Some(number) = number.filter(|number| *number < MOST)
                && entry.file_type()?.is_dir()
                && let Some(slot) = Self::take(spools, number)?
                // Whoever had it may have removed it since it was listed.
                && slot.folder.is_dir()
            {
                orphans.push(slot);
            }
        }
        Ok(orphans)
    }

    /// `None` where somebody has it.
    fn take(spools: &Path, number: u32) -> io::Result<Option<Self>> {
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(spools.join(format!("{number}{LOCK}")))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { number, folder: spools.join(number.to_string()), _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken_and_what_the_dead_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let spools = dir.path().join("spool");
        let slots: Vec<Slot> = (0..3).map(|_| Slot::lowest_free(&spools).unwrap()).collect();
        assert_eq!(slots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 1, 2]);
        for slot in &slots {
            fs::create_dir(&slot.folder).unwrap();
        }
        assert!(Slot::orphans(&spools).unwrap().is_empty(), "all of them live");
        let [first, second, third] = <[Slot; 3]>::try_from(slots).unwrap();
        drop(second);
        let orphans = Slot::orphans(&spools).unwrap();
        assert_eq!(orphans.iter().map(|slot| slot.number).collect::<Vec<_>>(), [1]);
        assert_eq!(Slot::lowest_free(&spools).unwrap().number, 3, "an adopted one is held");
        drop(orphans);
        drop(first);
        assert_eq!(Slot::lowest_free(&spools).unwrap().number, 0);
        drop(third);
    }
}
