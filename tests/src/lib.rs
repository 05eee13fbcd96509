//! What the end-to-end, chaos and conformance tests stand on: real servers, each test with a database and topics of its own; real
//! binaries, to be killed; a workload from a seed.

pub mod administration;
pub mod audit;
pub mod client;
pub mod distributed;
pub mod documents;
pub mod drive;
pub mod embedded;
pub mod faults;
pub mod flushes;
pub mod keys;
pub mod libraries;
pub mod model;
pub mod objects;
pub mod phrases;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod registry;
pub mod replay;
pub mod replays;
pub mod scenario;
pub mod servers;
pub mod service;
pub mod storm;
pub mod workload;

pub use servers::Servers;
