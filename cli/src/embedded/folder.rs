//! The data folder: one `memori up` at a time, and the address where others find it.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use memori_service::ProcessError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The database's file in the folder.
pub(crate) const DATABASE: &str = "memori.db";
const LOCK: &str = "lock";
const ADDRESS: &str = "server.json";
const INSTANCE: &str = "instance";
const SPOOL: &str = "spool";

/// A folder held exclusively by this process, until dropped (or killed: the system lets go of the lock).
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Server {
    address: String,
    pid: u32,
}

impl DataFolder {
    /// Makes the folder where it is missing, and locks it.
    pub(crate) fn hold(path: &Path) -> Result<Self, ProcessError> {
        let refused = |what: &str, e: std::io::Error| {
            ProcessError::Usage(format!("{what} {}: {e}; choose another folder with --data-dir", path.display()))
        };
        std::fs::create_dir_all(path).map_err(|e| refused("cannot make the data folder", e))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|e| refused("cannot write into the data folder", e))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let where_it_is = address_of(path).map(|a| format!(" at {a}")).unwrap_or_default();
            return Err(ProcessError::Usage(format!(
                "the data folder {} is in use by another process{where_it_is}: use that one, stop it, or choose another folder with --data-dir",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where events wait while a database elsewhere is away.
    pub(crate) fn spool(&self) -> PathBuf {
        self.path.join(SPOOL)
    }

    /// The folder's name among those that share a database: made once, and ours while the lock is.
    pub(crate) fn instance(&self) -> Result<String, ProcessError> {
        let file = self.path.join(INSTANCE);
        if let Some(name) = std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned()).filter(|name| !name.is_empty())
        {
            return Ok(name);
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        std::fs::write(&file, format!("{name}\n"))
            .map_err(|e| ProcessError::Failed(format!("cannot write {}: {e}", file.display())))?;
        Ok(name)
    }

    /// Tells others where this server listens.
    pub(crate) fn publish_address(&self, address: SocketAddr) -> Result<(), ProcessError> {
        let server = Server { address: format!("http://{address}"), pid: std::process::id() };
        let text = serde_json::to_string(&server).unwrap_or_default();
        let written = self.path.join(format!("{ADDRESS}.new"));
        std::fs::write(&written, text)
            .and_then(|()| std::fs::rename(&written, self.path.join(ADDRESS)))
            .map_err(|e| ProcessError::Failed(format!("cannot write {}: {e}", self.path.join(ADDRESS).display())))
    }

    /// Nobody listens any more.
    pub(crate) fn withdraw_address(&self) {
        let _ = std::fs::remove_file(self.path.join(ADDRESS));
    }
}

/// Where the process that holds a folder listens, where it said so.
pub(crate) fn address_of(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path.join(ADDRESS)).ok()?;
    serde_json::from_str::<Server>(&text).ok().map(|s| s.address)
}

/// `memori-stream` in the user's data folder.
pub(crate) fn default_path() -> PathBuf {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."));
    base.join("memori-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_where_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::hold(dir.path()).unwrap();
        first.publish_address(SocketAddr::from(([127, 0, 0, 1], 7700))).unwrap();
        let refused = DataFolder::hold(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("http://127.0.0.1:7700"), "{refused}");
        let name = first.instance().unwrap();
        drop(first);
        assert_eq!(DataFolder::hold(dir.path()).unwrap().instance().unwrap(), name, "a folder keeps its name");
    }
}
