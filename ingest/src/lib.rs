//! The front door: events API, spool, and forwarded reads.
