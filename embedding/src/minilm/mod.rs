//! all-MiniLM-L6-v2, English: a BERT of six layers, run here. Behind the feature `minilm`; the built-in model is the default, because
//! it is several times cheaper and knows other languages.

pub(crate) mod convert;
mod forward;
pub(crate) mod shape;
mod wordpiece;

use std::path::Path;
use std::sync::Arc;

use crate::file::{FileError, ModelFile};
use crate::local::LocalModel;
use forward::Network;
pub use shape::MAX_TOKENS;
use wordpiece::Tokenizer;
pub use wordpiece::{BEGIN, END, MAX_TEXT_BYTES};

/// The model's id and version.
pub const MODEL: &str = "minilm-l6@2";
/// Components of its vectors.
pub const DIMENSIONS: usize = shape::WIDTH;

/// The model, mapped and ready.
#[derive(Debug)]
pub struct Model {
    tokenizer: Tokenizer,
    network: Network,
}

/// Buffers of one thread's work.
#[derive(Debug, Default)]
pub struct Session {
    plain: String,
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

    /// The ids of the tokens of `text`.
    ///
    /// # Errors
    /// [`FileError`], which opening has ruled out.
    pub fn ids(&self, text: &str, session: &mut Session) -> Result<Vec<u32>, FileError> {
        let mut ids = Vec::new();
        self.tokenizer.encode(text, &mut session.plain, &mut ids)?;
        Ok(ids)
    }

    /// One unit vector per text, handed to `each` in order. Of a text the first [`MAX_TEXT_BYTES`] bytes and of those the first
    /// [`MAX_TOKENS`] tokens count.
    ///
    /// # Errors
    /// [`FileError`], which opening has ruled out.
    pub fn run<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t str>,
        session: &mut Session,
        each: impl FnMut(&[f32]),
    ) -> Result<(), FileError> {
        let Session { plain, pass, ids, lengths } = session;
        ids.clear();
        lengths.clear();
        for text in texts {
            let from = ids.len();
            self.tokenizer.encode(text, plain, ids)?;
            lengths.push(ids.len() - from);
        }
        self.network.run(ids, lengths, pass, each)
    }
}

impl LocalModel for Model {
    type Session = Session;

    fn max_text_bytes(&self) -> usize {
        MAX_TEXT_BYTES
    }

    fn run(&self, texts: &[&str], session: &mut Session, each: &mut dyn FnMut(&[f32])) -> Result<(), String> {
        Self::run(self, texts.iter().copied(), session, each).map_err(|e| e.to_string())
    }
}
