//! The memori command: everything in one process, and the operator's tools.
