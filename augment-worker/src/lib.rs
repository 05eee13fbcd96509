//! Extraction: conversation events in, fact events out.
