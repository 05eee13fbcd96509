//! A platform's front door, as the log and the writer of a front door in somebody's program.
//!
//! Promises: events go there in order, in bounded requests with a bounded time; what the platform refuses for good is set aside with
//! its reason and shown as a dead letter; whatever else goes wrong leaves them in the spool. A platform that asks for a pause gets it.
//! Reads, waits and deletions are passed on with the platform's key; the caller's own credentials are never.

mod events;
mod log;
mod platform;
mod reads;

pub use log::RemoteLog;
pub use platform::Platform;
