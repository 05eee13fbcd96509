//! The built-in model: Universal Sentence Encoder multilingual v3, run here.

pub mod convert;
pub mod forward;
pub(crate) mod matrix;
mod npy;
pub mod pieces;
mod shape;
mod steps;

use std::path::Path;
use std::sync::Arc;

use crate::file::{FileError, ModelFile};
use forward::Network;
use pieces::Tokenizer;

use crate::local::LocalModel;

/// The model's id and version.
pub const MODEL: &str = "use-multilingual@3";
/// Components of its vectors.
pub const DIMENSIONS: usize = shape::EMBEDDING;

/// Multiplications that the network cannot do without, for sentences of so many pieces in all.
#[must_use]
pub fn multiplications(pieces: usize, sentences: usize) -> usize {
    let of = |wanted: fn(&str) -> bool| {
        shape::MATRICES.into_iter().filter(|(name, ..)| wanted(name)).map(|(_, rows, columns)| rows * columns).sum::<usize>()
    };
    let per_piece: fn(&str) -> bool = |name| name.starts_with("proj") || name.starts_with('w');
    pieces * of(per_piece) + sentences * of(|name| !(name.starts_with("proj") || name.starts_with('w')))
}

/// The model, mapped and ready.
#[derive(Debug)]
pub struct Model {
    tokenizer: Tokenizer,
    network: Network,
}

/// Buffers of one thread's work.
#[derive(Debug, Default)]
pub struct Session {
    pieces: pieces::Scratch,
    pass: forward::Scratch,
    ids: Vec<u32>,
    lengths: Vec<usize>,
}

impl Model {
    /// Maps the converted file at `path`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = Arc::new(ModelFile::open(path)?);
        Ok(Self { tokenizer: Tokenizer::new(Arc::clone(&file))?, network: Network::new(file)? })
    }

    /// The same with floats throughout, as on a processor that has nothing better: three times the work, and nearer to the reference.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open_with_floats(path: &Path) -> Result<Self, FileError> {
        let file = Arc::new(ModelFile::open(path)?);
        Ok(Self { tokenizer: Tokenizer::new(Arc::clone(&file))?, network: Network::with(file, false)? })
    }

    /// The ids of the pieces of `text`.
    ///
    /// # Errors
    /// [`FileError`], which opening has ruled out.
    pub fn ids(&self, text: &str, session: &mut Session) -> Result<Vec<u32>, FileError> {
        let mut ids = Vec::new();
        self.tokenizer.encode(text, &mut session.pieces, &mut ids)?;
        Ok(ids)
    }

    /// One unit vector per text, handed to `each` in order. Of a text the first [`pieces::MAX_TEXT_BYTES`] bytes and of those the
    /// first [`pieces::MAX_TOKENS`] pieces count.
    ///
    /// # Errors
    /// [`FileError`], which opening has ruled out.
    pub fn run<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t str>,
        session: &mut Session,
        each: impl FnMut(&[f32]),
    ) -> Result<(), FileError> {
        let Session { pieces, pass, ids, lengths } = session;
        ids.clear();
        lengths.clear();
        for text in texts {
            let from = ids.len();
            self.tokenizer.encode(text, pieces, ids)?;
            lengths.push(ids.len() - from);
        }
        self.network.run(ids, lengths, pass, each)
    }
}

impl LocalModel for Model {
    type Session = Session;

    fn max_text_bytes(&self) -> usize {
        pieces::MAX_TEXT_BYTES
    }

    fn run(&self, texts: &[&str], session: &mut Session, each: &mut dyn FnMut(&[f32])) -> Result<(), String> {
        Self::run(self, texts.iter().copied(), session, each).map_err(|e| e.to_string())
    }
}
