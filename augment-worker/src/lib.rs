//! Extraction: conversation events in, fact events out.

pub mod builtin;
