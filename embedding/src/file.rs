//! The flat file of a converted model: named sections behind a checked header, memory-mapped and shared by every process.
//!
//! Promises: what opens is whole (one BLAKE3 covers every byte) and of this layout's version; a file that is not is an error, never
//! a wrong number. A file appears under its name by rename only, so a reader never sees half of one.
//!
//! ```text
//! 0   magic "MEMORIEM" · u32 layout · u32 sections · u64 length of the file
//! 24  BLAKE3 of all other bytes
//! 56  per section: name (16 bytes, zero-padded) · u64 offset · u64 length · f32 step · u32 zero
//! …   sections, each at a multiple of 64
//! ```
//! Integers and floats are little-endian. `step` is what a unit of an int8 section is worth, 0 elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use bytemuck::Pod;
use memmap2::Mmap;

const MAGIC: &[u8; 8] = b"MEMORIEM";
const LAYOUT: u32 = 1;
const HASH: Range<usize> = 24..56;
const ENTRY_BYTES: usize = 40;
const NAME_BYTES: usize = 16;
const ALIGN: usize = 64;
const MAX_SECTIONS: usize = 256;

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{what}")]
    Io {
        /// Which step.
        what: &'static str,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the model file is damaged or of another version: {0}")]
    Damaged(&'static str),
    /// A section is missing or has another size.
    #[error("the model file has no usable section {0}")]
    Section(&'static str),
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> FileError {
    move |source| FileError::Io { what, source }
}

#[derive(Clone, Debug)]
struct Section {
    range: Range<usize>,
    step: f32,
}

/// A mapped and checked model file.
#[derive(Debug)]
pub struct ModelFile {
    map: Mmap,
    sections: BTreeMap<[u8; NAME_BYTES], Section>,
}

fn padded(name: &str) -> [u8; NAME_BYTES] {
    let mut out = [0; NAME_BYTES];
    let bytes = &name.as_bytes()[..name.len().min(NAME_BYTES)];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], FileError> {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or(FileError::Damaged("it ends in its header"))
}

fn index(value: u64) -> Result<usize, FileError> {
    usize::try_from(value).map_err(|_| FileError::Damaged("a length does not fit this machine"))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..HASH.start]);
    hasher.update(&bytes[HASH.end..]);
    *hasher.finalize().as_bytes()
}

impl ModelFile {
    /// Maps the file at `path` and checks all of it.
    ///
    /// # Errors
    /// [`FileError`]: it is not there, damaged, or of another layout.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        if cfg!(target_endian = "big") {
            return Err(FileError::Damaged("this machine is big-endian, the file is not"));
        }
        let file = File::open(path).map_err(io("the model file cannot be opened"))?;
        // SAFETY: a model file is made beside its name and renamed onto it, and never written again; nobody truncates it in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io("the model file cannot be mapped"))?;
        if map.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(FileError::Damaged("it does not begin as one"));
        }
        if u32::from_le_bytes(word(&map, 8)?) != LAYOUT {
            return Err(FileError::Damaged("its layout is another"));
        }
        let count = u32::from_le_bytes(word(&map, 12)?) as usize;
        if index(u64::from_le_bytes(word(&map, 16)?))? != map.len() || count > MAX_SECTIONS {
            return Err(FileError::Damaged("its length is another"));
        }
        let wanted: [u8; 32] = word(&map, HASH.start)?;
        if digest(&map) != wanted {
            return Err(FileError::Damaged("its checksum is another"));
        }
        let mut sections = BTreeMap::new();
        for n in 0..count {
            let at = HASH.end + n * ENTRY_BYTES;
            let name: [u8; NAME_BYTES] = word(&map, at)?;
            let offset = index(u64::from_le_bytes(word(&map, at + 16)?))?;
            let length = index(u64::from_le_bytes(word(&map, at + 24)?))?;
            let step = f32::from_le_bytes(word(&map, at + 32)?);
            let end = offset.checked_add(length).filter(|end| *end <= map.len());
            let Some(end) = end.filter(|_| offset % ALIGN == 0) else {
                return Err(FileError::Damaged("a section lies outside"));
            };
            sections.insert(name, Section { range: offset..end, step });
        }
        Ok(Self { map, sections })
    }

    /// The section `name` as `T`s, with its step.
    ///
    /// # Errors
    /// [`FileError::Section`] where there is none, or it is not whole `T`s.
    pub fn section<T: Pod>(&self, name: &'static str) -> Result<(&[T], f32), FileError> {
        let section = self.sections.get(&padded(name)).ok_or(FileError::Section(name))?;
        let values = bytemuck::try_cast_slice(&self.map[section.range.clone()]).map_err(|_| FileError::Section(name))?;
        Ok((values, section.step))
    }

    /// The section `name`, which must have `count` values.
    ///
    /// # Errors
    /// [`FileError::Section`] where it has not.
    pub fn exactly<T: Pod>(&self, name: &'static str, count: usize) -> Result<(&[T], f32), FileError> {
        let (values, step) = self.section(name)?;
        if values.len() == count { Ok((values, step)) } else { Err(FileError::Section(name)) }
    }
}

/// Gathers the sections of a file.
#[derive(Debug, Default)]
pub struct FileBuilder {
    sections: Vec<(String, Vec<u8>, f32)>,
}

impl FileBuilder {
    /// Adds a section; `step` is 0 where its values are what they are.
    pub fn add<T: Pod>(&mut self, name: &str, values: &[T], step: f32) {
        debug_assert!(name.len() <= NAME_BYTES, "a name too long");
        self.sections.push((name.to_owned(), bytemuck::cast_slice(values).to_vec(), step));
    }

    /// Writes the file beside `path` and renames it onto it; safe beside others that do the same.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn write(self, path: &Path) -> Result<(), FileError> {
        let mut bytes = vec![0; HASH.end + self.sections.len() * ENTRY_BYTES];
        for (n, (name, values, step)) in self.sections.iter().enumerate() {
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let (offset, length) = (bytes.len() as u64, values.len() as u64);
            bytes.extend_from_slice(values);
            let entry = &mut bytes[HASH.end + n * ENTRY_BYTES..][..ENTRY_BYTES];
            entry[..16].copy_from_slice(&padded(name));
            entry[16..24].copy_from_slice(&offset.to_le_bytes());
            entry[24..32].copy_from_slice(&length.to_le_bytes());
            entry[32..36].copy_from_slice(&step.to_le_bytes());
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        let count = u32::try_from(self.sections.len()).unwrap_or(u32::MAX);
        bytes[12..16].copy_from_slice(&count.to_le_bytes());
        let length = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let hash = digest(&bytes);
        bytes[HASH].copy_from_slice(&hash);

        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(io("the model's folder cannot be made"))?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io("the model's folder cannot be written"))?;
        file.write_all(&bytes).map_err(io("the model file cannot be written"))?;
        file.as_file().sync_all().map_err(io("the model file cannot be written"))?;
        readable_by_all(file.as_file()).map_err(io("the model file cannot be written"))?;
        file.persist(path).map_err(|e| FileError::Io { what: "the model file cannot be put in place", source: e.error })?;
        Ok(())
    }
}

/// A temporary file is its owner's alone; the cache is for every process of the machine that may enter the folder.
#[cfg(unix)]
pub(crate) fn readable_by_all(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
pub(crate) fn readable_by_all(_file: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("deeper").join("model.bin");
        let mut builder = FileBuilder::default();
        builder.add("floats", &[1.5_f32, -2.0], 0.0);
        builder.add("steps", &[1_i8, -128, 127], 0.25);
        builder.add("none", &[0_u8; 0], 0.0);
        builder.write(&path).unwrap();
        path
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = ModelFile::open(&written(folder.path())).unwrap();
        assert_eq!(file.exactly::<f32>("floats", 2).unwrap(), (&[1.5, -2.0][..], 0.0));
        assert_eq!(file.section::<i8>("steps").unwrap(), (&[1, -128, 127][..], 0.25));
        assert!(file.section::<u8>("none").unwrap().0.is_empty());
        assert!(matches!(file.section::<u8>("missing"), Err(FileError::Section("missing"))));
        assert!(matches!(file.exactly::<f32>("floats", 3), Err(FileError::Section("floats"))));
        assert!(matches!(file.section::<u32>("steps"), Err(FileError::Section("steps"))));
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let damaged = folder.path().join("damaged.bin");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            std::fs::write(&damaged, &bytes).unwrap();
            assert!(ModelFile::open(&damaged).is_err(), "byte {at}");
            std::fs::write(&damaged, &whole[..at]).unwrap();
            assert!(ModelFile::open(&damaged).is_err(), "cut at {at}");
        }
        assert!(matches!(ModelFile::open(&folder.path().join("none")), Err(FileError::Io { .. })));
    }

    #[test]
    fn writers_beside_each_other_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| written(folder.path()));
            }
        });
        assert!(ModelFile::open(&folder.path().join("deeper/model.bin")).is_ok());
        assert_eq!(std::fs::read_dir(folder.path().join("deeper")).unwrap().count(), 1);
    }
}
