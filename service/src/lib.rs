//! What every process shares: layered configuration, telemetry, the metrics endpoint, health and ordered shutdown.
//!
//! Knows nothing of events, facts or logs.

pub mod admin;
pub mod auth;
pub mod background;
pub mod generations;
pub mod health;
pub mod host;
pub mod metrics_endpoint;
#[cfg(feature = "objects")]
pub mod objects;
pub mod problem;
pub mod process;
pub mod scaffold;
pub mod secret;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod tokens;
pub mod trace_context;

pub use health::Health;
pub use problem::Problem;
pub use process::{ProcessError, run};
pub use scaffold::Scaffold;
pub use secret::Secret;
pub use settings::Settings;
pub use shutdown::Shutdown;
