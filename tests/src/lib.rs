//! What the end-to-end, chaos and conformance tests stand on: real servers, each test with a database and topics of its own.

pub mod servers;

pub use servers::Servers;
