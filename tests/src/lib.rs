//! End to end, chaos and conformance, on real servers.
