//! The native core of the Python SDK, without Python.
//!
//! Promises: one engine per process and target, whatever forks; nothing here is in the way of a call to a model for longer than the
//! recall deadline; what is captured is bounded, followed to its end, and counted wherever it is lost; the same front door as
//! everywhere else is spoken to, in this process.

mod ahead;
mod breaker;
mod capture;
pub mod config;
pub mod engine;
mod feeder;
mod fork;
pub mod ledger;
pub mod member;
pub mod notices;
pub mod process;
pub mod queue;
pub mod reach;
mod recall;
mod report;
mod requests;
mod settle;
pub mod stats;
pub mod system;
mod systems;
pub mod turn;
mod unanswered;

pub use config::{Config, ConfigError};
pub use engine::Engine;
pub use http::Method;
pub use member::Member;
pub use turn::Turn;
