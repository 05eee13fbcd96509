//! Where a source lies: files, folders, patterns, stdin, object stores; compressed or not; entries of a zip.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memori_service::objects::Objects;
use object_store::{ObjectMeta, ObjectStore};
use serde::{Deserialize, Serialize};
use tempfile::TempPath;
use zip::ZipArchive;

use crate::remote::{self, ObjectReader};
pub use crate::remote::{plain, shown};

/// What names an input, and tells whether it is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its path or URL; of an entry of a zip both.
    pub name: String,
    /// Its length, where it is known.
    pub bytes: Option<u64>,
    /// When it was changed, or its tag.
    pub stamp: Option<String>,
}

/// One input.
#[derive(Clone, Debug)]
pub struct Input {
    /// What it is.
    pub identity: Identity,
    /// Where it is.
    pub place: InputPlace,
}

/// Where an input is.
#[derive(Clone, Debug)]
pub enum InputPlace {
    /// A file.
    File(PathBuf),
    /// An entry of a zip, by its number. A zip from an object store is a copy that goes with its last entry.
    ZipEntry(PathBuf, usize, Option<Arc<TempPath>>),
    /// An object of a store.
    Object(Arc<dyn ObjectStore>, ObjectMeta),
    /// What is piped in.
    Stdin,
    /// A database of the library Memori on Postgres.
    Postgres(String),
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nothing is there.
    #[error("{name}: {why}")]
    Missing {
        /// What was named.
        name: String,
        /// What to do.
        why: String,
    },
    /// It cannot be read.
    #[error("{name} cannot be read: {source}")]
    Unreadable {
        /// What.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl InputError {
    fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Unreadable { name: path.display().to_string(), source }
    }
}

/// Files that an import itself makes.
pub const CHECKPOINT_SUFFIX: &str = ".memori-backfill.json";
/// What was set aside.
pub const REJECTED_SUFFIX: &str = ".rejected.jsonl";

/// The inputs that a source names, in an order that does not change.
///
/// # Errors
/// Nothing is there, or it cannot be read.
pub fn expand(sources: &[String]) -> Result<Vec<Input>, InputError> {
    let mut inputs = Vec::new();
    for source in sources {
        if source == "-" {
            let identity = Identity { name: "-".to_owned(), bytes: None, stamp: None };
            inputs.push(Input { identity, place: InputPlace::Stdin });
            continue;
        }
        if source.starts_with("postgres://") || source.starts_with("postgresql://") {
            // What logs in is no part of what names it.
            let identity = Identity { name: remote::shown(source), bytes: None, stamp: None };
            inputs.push(Input { identity, place: InputPlace::Postgres(source.clone()) });
            continue;
        }
        let before = inputs.len();
        let source = source.strip_prefix("file://").unwrap_or(source);
        if source.contains("://") {
            objects(source, &mut inputs)?;
            continue;
        }
        let path = Path::new(source);
        if path.is_dir() {
            folder(path, &mut inputs)?;
        } else if path.exists() {
            file(path, &mut inputs)?;
        } else {
            let missing = |why: String| InputError::Missing { name: source.to_owned(), why };
            let pattern = glob::glob(source).map_err(|error| missing(format!("no such file, and no pattern: {error}")))?;
            let mut found: Vec<PathBuf> = Vec::new();
            for path in pattern {
                found.push(path.map_err(|error| InputError::Unreadable { name: source.to_owned(), source: error.into() })?);
            }
            found.sort_unstable();
            for path in found {
                if path.is_dir() {
                    folder(&path, &mut inputs)?
                } else if !ours(&path) {
                    file(&path, &mut inputs)?
                }
            }
        }
        if inputs.len() == before {
            return Err(InputError::Missing {
                name: source.to_owned(),
                why: "there is no such file, and nothing that it matches".to_owned(),
            });
        }
    }
    Ok(inputs)
}

/// One object, or all below a prefix. Blocks, on a thread of a runtime that may.
fn objects(url: &str, inputs: &mut Vec<Input>) -> Result<(), InputError> {
    let missing = |why: String| InputError::Missing { name: remote::shown(url), why };
    if remote::logs_in(url) {
        return Err(missing("a name and password are not sent to a server: use a signed URL, or fetch it first".to_owned()));
    }
    let place = Objects::open(url).map_err(|error| missing(error.to_string()))?;
    let base = remote::shown(url);
    let found = remote::found(&place).map_err(|error| missing(error.to_string()))?;
    if found.is_empty() {
        return Err(missing("there is no such object, and none below it".to_owned()));
    }
    for object in found {
        let name = match object
            .location
            .prefix_match(&place.prefix)
            .map(|rest| rest.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>())
        {
            Some(rest) if !rest.is_empty() => format!("{}/{}", base.trim_end_matches('/'), rest.join("/")),
            _ => base.clone(),
        };
        let stamp = object.e_tag.clone().or_else(|| Some(object.last_modified.to_rfc3339()));
        if name.to_ascii_lowercase().ends_with(".zip") {
            let unreadable = |source: io::Error| InputError::Unreadable { name: name.clone(), source };
            let copy = spooled(ObjectReader::open(&place.store, &object)).map_err(unreadable)?.into_temp_path();
            let entries = zip_entries(&copy).map_err(unreadable)?;
            let copy = Arc::new(copy);
            for (number, entry, bytes) in entries {
                let identity = Identity { name: format!("{name}!{entry}"), bytes: Some(bytes), stamp: stamp.clone() };
                inputs.push(Input { identity, place: InputPlace::ZipEntry(copy.to_path_buf(), number, Some(Arc::clone(&copy))) });
            }
            continue;
        }
        let identity = Identity { name, bytes: Some(object.size), stamp };
        inputs.push(Input { identity, place: InputPlace::Object(Arc::clone(&place.store), object) });
    }
    Ok(())
}

fn ours(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with('.')
        || [CHECKPOINT_SUFFIX, REJECTED_SUFFIX, ".memori-backfill.json.new"].iter().any(|suffix| name.ends_with(suffix))
}

fn folder(path: &Path, inputs: &mut Vec<Input>) -> Result<(), InputError> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(InputError::unreadable(path))?;
    entries.sort_unstable();
    for entry in entries.into_iter().filter(|entry| !ours(entry)) {
        // A link may lead back to where it stands.
        if entry.is_dir() && !entry.is_symlink() {
            folder(&entry, inputs)?;
        } else if entry.is_file() {
            file(&entry, inputs)?;
        }
    }
    Ok(())
}

fn file(path: &Path, inputs: &mut Vec<Input>) -> Result<(), InputError> {
    let unreadable = InputError::unreadable;
    let metadata = std::fs::metadata(path).map_err(unreadable(path))?;
    let changed = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let stamp = changed.map(|at| format!("{}.{:09}", at.as_secs(), at.subsec_nanos()));
    let name = path.display().to_string();
    let mut magic = [0_u8; 4];
    let read = File::open(path).and_then(|mut file| read_up_to(&mut file, &mut magic)).map_err(unreadable(path))?;
    if magic[..read] != *b"PK\x03\x04" {
        let identity = Identity { name, bytes: Some(metadata.len()), stamp };
        inputs.push(Input { identity, place: InputPlace::File(path.to_owned()) });
        return Ok(());
    }
    for (number, entry, bytes) in zip_entries(path).map_err(unreadable(path))? {
        let identity = Identity { name: format!("{name}!{entry}"), bytes: Some(bytes), stamp: stamp.clone() };
        inputs.push(Input { identity, place: InputPlace::ZipEntry(path.to_owned(), number, None) });
    }
    Ok(())
}

/// The entries of a zip that hold conversations: in the exports of chat programs one is called so, beside others that are about the
/// account; in another zip all that have a format's ending.
fn zip_entries(path: &Path) -> io::Result<Vec<(usize, String, u64)>> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?)).map_err(io::Error::other)?;
    let mut all = Vec::new();
    for number in 0..archive.len() {
        let entry = archive.by_index(number).map_err(io::Error::other)?;
        if entry.is_file() {
            let name = entry.name().map_err(io::Error::other)?.into_owned();
            all.push((number, name, entry.size()));
        }
    }
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let conversations = |name: &str| base(name).starts_with("conversations") && base(name).ends_with(".json");
    let known = |name: &str| [".json", ".jsonl", ".ndjson", ".csv", ".tsv"].iter().any(|ending| base(name).ends_with(ending));
    let wanted: Vec<_> = if all.iter().any(|(_, name, _)| conversations(name)) {
        all.into_iter().filter(|(_, name, _)| conversations(name)).collect()
    } else {
        all.into_iter().filter(|(_, name, _)| known(name)).collect()
    };
    Ok(wanted)
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match reader.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// An opened input: its beginning, and all of it.
pub struct Opened<'r> {
    /// As much of its beginning as is looked at, uncompressed.
    pub head: Vec<u8>,
    /// All of it, the beginning included, uncompressed.
    pub reader: Box<dyn Read + 'r>,
}

/// Opens the text of an input and hands it to `work`. `bytes` counts what is read of it as it lies there.
///
/// # Errors
/// It cannot be opened, and what `work` says.
pub fn with_text<T>(
    input: &Input,
    head_bytes: usize,
    bytes: &Arc<AtomicU64>,
    work: impl FnOnce(Opened<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let counted = |inner| Counted { inner, bytes: Arc::clone(bytes) };
    match &input.place {
        InputPlace::File(path) => work(uncompressed(counted(File::open(path)?), head_bytes)?),
        InputPlace::Stdin => work(uncompressed(Counted { inner: io::stdin().lock(), bytes: Arc::clone(bytes) }, head_bytes)?),
        InputPlace::ZipEntry(path, number, _) => {
            let mut archive = ZipArchive::new(BufReader::new(File::open(path)?)).map_err(io::Error::other)?;
            let entry = archive.by_index(*number).map_err(io::Error::other)?;
            work(uncompressed(Counted { inner: entry, bytes: Arc::clone(bytes) }, head_bytes)?)
        }
        InputPlace::Object(store, object) => {
            let inner = ObjectReader::open(store, object);
            work(uncompressed(Counted { inner, bytes: Arc::clone(bytes) }, head_bytes)?)
        }
        InputPlace::Postgres(_) => Err(io::Error::other("a database has no text")),
    }
}

/// Undoes gzip and zstd, by content.
fn uncompressed<'r>(mut reader: impl Read + 'r, head_bytes: usize) -> io::Result<Opened<'r>> {
    let mut magic = [0_u8; 4];
    let read = read_up_to(&mut reader, &mut magic)?;
    let whole = io::Cursor::new(magic[..read].to_vec()).chain(reader);
    let mut reader: Box<dyn Read + 'r> = match &magic[..read] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    };
    let mut head = vec![0; head_bytes];
    let read = read_up_to(&mut reader, &mut head)?;
    head.truncate(read);
    let reader = Box::new(io::Cursor::new(head.clone()).chain(reader));
    Ok(Opened { head, reader })
}

/// A file of what `reader` gives, to be read at any place.
///
/// # Errors
/// The system's.
pub fn spooled(mut reader: impl Read) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    io::copy(&mut reader, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}
