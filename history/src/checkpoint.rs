//! The file that says how far an import is, and the one with what was set aside.
//!
//! Promises: a checkpoint replaces the one before it as a whole, after what it speaks of is durable; what was set aside is written once,
//! whatever dies in between: behind a checkpoint's length the file is cut when the import goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::frontier::{Counts, Place, Rejected};
use crate::input::Identity;
use crate::options::Options;

const VERSION: u32 = 1;

/// How far an import is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// What is read, in order.
    pub inputs: Vec<Identity>,
    /// How.
    pub options: Options,
    /// Whose log it goes to: the tenant, where the importer names it.
    pub tenant: Option<String>,
    /// Everything before it is done.
    pub place: Place,
    /// What that came to.
    pub counts: Counts,
    /// The length of the file with what was set aside.
    pub rejected_bytes: u64,
    /// Nothing is left.
    pub done: bool,
}

/// Why an import cannot go on where it was.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("the checkpoint {path} cannot be used: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else was imported then.
    #[error(
        "the checkpoint {path} is of another import: {what}; begin anew with --restart (events that are there already are not added again), or name another file with --checkpoint"
    )]
    Other {
        /// Which.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

impl Checkpoint {
    /// At the beginning.
    #[must_use]
    pub fn new(inputs: Vec<Identity>, options: Options, tenant: Option<String>) -> Self {
        let (place, counts) = (Place::default(), Counts::default());
        Self { version: VERSION, inputs, options, tenant, place, counts, rejected_bytes: 0, done: false }
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, CheckpointError> {
        let failed = |source| CheckpointError::File { path: path.to_owned(), source };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let read: Self =
            serde_json::from_slice(&text).map_err(|error| failed(io::Error::other(format!("it is no checkpoint: {error}"))))?;
        if read.version != VERSION {
            return Err(failed(io::Error::other(format!("it is of version {}, this program writes {VERSION}", read.version))));
        }
        Ok(Some(read))
    }

    /// Whether `other` is the same import; what differs, else. Inputs that were added behind the others are no difference.
    ///
    /// # Errors
    /// In words.
    pub fn fits(&self, inputs: &[Identity], options: &Options, tenant: Option<&str>) -> Result<(), String> {
        if self.options != *options {
            return Err("other options were given then".to_owned());
        }
        if self.tenant.as_deref() != tenant {
            return Err("it went to another tenant".to_owned());
        }
        for (number, before) in self.inputs.iter().enumerate() {
            match inputs.get(number) {
                None => return Err(format!("{} is not there any more", before.name)),
                Some(now) if now.name != before.name => return Err(format!("{} was where {} is now", before.name, now.name)),
                Some(now) if now != before => return Err(format!("{} has changed", before.name)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Writes it durably over the one before.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let write = || -> io::Result<()> {
            let fresh = with_suffix(path, ".new");
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| CheckpointError::File { path: path.to_owned(), source })
    }
}

/// The path with something behind its name.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The file of what was set aside: made when the first record is.
#[derive(Debug)]
pub struct RejectedFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl RejectedFile {
    /// Goes on behind `bytes`; what lies after is cut off.
    ///
    /// # Errors
    /// The file is shorter, or cannot be opened.
    pub fn open(path: PathBuf, bytes: u64) -> io::Result<Self> {
        if bytes == 0 {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(Self { path, file: None, bytes }),
            }
        }
        let mut file = OpenOptions::new().write(true).open(&path)?;
        if file.metadata()?.len() < bytes {
            return Err(io::Error::other("it is shorter than the checkpoint says"));
        }
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path, file: Some(file), bytes })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends lines. Not durable before [`RejectedFile::sync`].
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, rejected: &[Rejected], inputs: &[Identity]) -> io::Result<()> {
        if rejected.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for Rejected { place, bad } in rejected {
            let input = inputs.get(place.input).map_or("", |input| &input.name);
            serde_json::to_writer(
                &mut lines,
                &json!({"input": input, "record": place.record, "reason": bad.reason, "text": bad.text}),
            )?;
            lines.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create(&self.path)?),
        };
        file.write_all(&lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Bad;

    fn inputs(names: &[&str]) -> Vec<Identity> {
        names.iter().map(|name| Identity { name: (*name).to_owned(), bytes: Some(7), stamp: None }).collect()
    }

    #[test]
    fn it_comes_back_and_knows_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        assert!(Checkpoint::read(&path).unwrap().is_none());
        let options = Options { entity: Some("ada".into()), ..Options::default() };
        let mut checkpoint = Checkpoint::new(inputs(&["a", "b"]), options.clone(), Some("t".into()));
        checkpoint.place = Place { input: 1, record: 17 };
        checkpoint.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), Some(checkpoint.clone()));
        let fits = |inputs: &[Identity], options: &Options, tenant| checkpoint.fits(inputs, options, tenant);
        assert_eq!(fits(&inputs(&["a", "b"]), &options, Some("t")), Ok(()));
        assert_eq!(fits(&inputs(&["a", "b", "c"]), &options, Some("t")), Ok(()), "more behind the others");
        let mut grown = inputs(&["a", "b"]);
        grown[0].bytes = Some(8);
        for (inputs, options, tenant, part) in [
            (inputs(&["a"]), &options, Some("t"), "not there"),
            (inputs(&["b", "a"]), &options, Some("t"), "was where"),
            (grown, &options, Some("t"), "has changed"),
            (inputs(&["a", "b"]), &Options::default(), Some("t"), "options"),
            (inputs(&["a", "b"]), &options, Some("u"), "tenant"),
        ] {
            let error = fits(&inputs, options, tenant).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(&path, "{").unwrap();
        assert!(Checkpoint::read(&path).unwrap_err().to_string().contains("no checkpoint"));
    }

    #[test]
    fn what_was_set_aside_after_the_checkpoint_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let rejected = |record| Rejected { place: Place { input: 0, record }, bad: Bad::new("why", b"text") };
        let mut file = RejectedFile::open(path.clone(), 0).unwrap();
        file.append(&[rejected(1)], &inputs(&["a"])).unwrap();
        let kept = file.bytes();
        file.append(&[rejected(2), rejected(3)], &inputs(&["a"])).unwrap();
        drop(file);
        let mut file = RejectedFile::open(path.clone(), kept).unwrap();
        file.append(&[rejected(2)], &inputs(&["a"])).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["record"].as_u64().unwrap())
            .collect();
        assert_eq!(records, [1, 2]);
        assert!(RejectedFile::open(path.clone(), 1 << 20).is_err());
        drop(RejectedFile::open(path.clone(), 0).unwrap());
        assert!(!path.exists());
    }
}
