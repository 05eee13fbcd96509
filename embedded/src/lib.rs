//! The whole system in one process, over one SQLite file or one Postgres database.
//!
//! [`Embedded`] is what `memori up` runs: it has its folder to itself and listens. [`System`] is the same inside somebody's program:
//! no listener, no signal handler, no subscriber of logs; several processes may open the same database and share the work; a
//! database that is away is waited for in the background, while the front door's spool takes events.

mod adopt;
mod config;
pub mod folder;
mod keeper;
mod kept;
mod known;
mod late;
mod rebuild;
mod rooms;
mod server;
mod slot;
mod storage;
mod system;

pub use adopt::{adopt, remove};
pub use config::{Database, LibraryConfig};
pub use rebuild::Rebuild;
pub use server::Embedded;
pub use slot::Slot;
pub use system::{Knobs, Start, State, System, SystemLevels};
