//! The front door: events API, deduplication, spool, forwarded reads, deletions.
//!
//! Promises: an event id that a caller holds is durable; nothing is accepted twice by one process; every bound pushes back instead of
//! growing; no caller names its own tenant.

pub mod accept;
pub mod app;
mod audit;
pub mod backend;
#[cfg(feature = "backfill")]
pub mod backfill;
pub mod context_block;
pub mod door;
pub mod events;
mod flush;
mod handlers;
pub mod injection;
pub mod limits;
pub mod metrics;
pub mod new_event;
#[cfg(feature = "kafka")]
pub mod process;
pub mod publish;
mod redrive;
pub mod remote;
pub mod routes;
pub mod shown_url;
pub mod spool;
pub mod state;
pub(crate) mod tenants;
pub mod wire;

pub use accept::Lookup;
pub use app::{OPENAPI, app};
pub use backend::WriterBackend;
pub use shown_url::without_credentials;
pub use state::{ExtractingProbe, IngestConfig, IngestParts, IngestState, Patience, SpoolConfig, StartError};
pub use tenants::TenantsConfig;
