//! The data folder: one `memori up` at a time, or any number of library processes; and the address where others find the server.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use memori_service::ProcessError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The database's file in the folder.
pub const DATABASE: &str = "memori.db";
const LOCK: &str = "lock";
const ADDRESS: &str = "server.json";
const INSTANCE: &str = "instance";
const SPOOL: &str = "spool";

/// A folder held by this process, until dropped (or killed: the system lets go of the lock).
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Server {
    address: String,
    pid: u32,
}

impl DataFolder {
    /// Makes the folder where it is missing, and locks it for this process alone.
    ///
    /// # Errors
    /// Somebody else holds it, or it cannot be used: the text says what to do.
    pub fn hold(path: &Path) -> Result<Self, ProcessError> {
        let lock = open_lock(path).map_err(|e| {
            ProcessError::Usage(format!(
                "the data folder {} cannot be used: {e}; choose another folder with --data-dir",
                path.display()
            ))
        })?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
                return Err(ProcessError::Usage(format!(
                    "the data folder {} is in use by programs that have opened it as a library: stop them first, or choose another folder with --data-dir",
                    path.display()
                )));
            }
            let where_it_is = address_of(path).map(|a| format!(" at {a}")).unwrap_or_default();
            return Err(ProcessError::Usage(format!(
                "the data folder {} is in use by another process{where_it_is}: use that one, stop it, or choose another folder with --data-dir",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Makes the folder where it is missing, and holds it together with other library processes; `None` where a server has it to
    /// itself: [`address_of`] says where that listens, once it does.
    ///
    /// # Errors
    /// The folder cannot be made, or not be written to.
    pub fn share(path: &Path) -> std::io::Result<Option<Self>> {
        let lock = open_lock(path)?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database of a server that has the folder to itself.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where a server's events wait while a database elsewhere is away; and, one folder each, those of library processes.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.path.join(SPOOL)
    }

    /// The folder's name among those that share a database: made once, whoever makes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn instance(&self) -> Result<String, ProcessError> {
        let file = self.path.join(INSTANCE);
        let read = || std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned()).filter(|name| !name.is_empty());
        if let Some(name) = read() {
            return Ok(name);
        }
        // Of two that make it at once, the first one's stays.
        let name = uuid::Uuid::new_v4().simple().to_string();
        let fresh = self.path.join(format!("{INSTANCE}.{name}"));
        let made = std::fs::write(&fresh, format!("{name}\n")).and_then(|()| match std::fs::hard_link(&fresh, &file) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => std::fs::rename(&fresh, &file),
            _ => std::fs::remove_file(&fresh),
        });
        made.map_err(|e| ProcessError::Failed(format!("cannot write {}: {e}", file.display())))?;
        Ok(read().unwrap_or(name))
    }

    /// Tells others where this server listens.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn publish_address(&self, address: SocketAddr) -> Result<(), ProcessError> {
        let server = Server { address: format!("http://{address}"), pid: std::process::id() };
        let text = serde_json::to_string(&server).unwrap_or_default();
        let written = self.path.join(format!("{ADDRESS}.new"));
        std::fs::write(&written, text)
            .and_then(|()| std::fs::rename(&written, self.path.join(ADDRESS)))
            .map_err(|e| ProcessError::Failed(format!("cannot write {}: {e}", self.path.join(ADDRESS).display())))
    }

    /// Nobody listens any more.
    pub fn withdraw_address(&self) {
        let _ = std::fs::remove_file(self.path.join(ADDRESS));
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(path)?;
    OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK))
}

/// Whether library processes hold a folder now.
#[must_use]
pub fn held_by_libraries(path: &Path) -> bool {
    let Ok(lock) = open_lock(path) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() && flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
}

/// Where the process that holds a folder listens, where it said so.
#[must_use]
pub fn address_of(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path.join(ADDRESS)).ok()?;
    serde_json::from_str::<Server>(&text).ok().map(|s| s.address)
}

/// `memori-stream` in the user's data folder.
#[must_use]
pub fn default_path() -> PathBuf {
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

    #[test]
    fn libraries_share_a_folder_that_a_server_wants_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let server = DataFolder::hold(dir.path()).unwrap();
        assert!(DataFolder::share(dir.path()).unwrap().is_none());
        assert!(!held_by_libraries(dir.path()), "a server holds it");
        drop(server);
        let libraries = [DataFolder::share(dir.path()).unwrap().unwrap(), DataFolder::share(dir.path()).unwrap().unwrap()];
        assert_eq!(libraries[0].instance().unwrap(), libraries[1].instance().unwrap());
        assert!(held_by_libraries(dir.path()));
        let refused = DataFolder::hold(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("as a library"), "{refused}");
        drop(libraries);
        assert!(!held_by_libraries(dir.path()));
        DataFolder::hold(dir.path()).unwrap();
    }
}
