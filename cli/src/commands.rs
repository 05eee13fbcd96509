//! One module per command.

pub(crate) mod archive;
pub(crate) mod backfill;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod facts;
pub(crate) mod health;
pub(crate) mod ingest;
pub(crate) mod key;
pub(crate) mod migrate;
pub(crate) mod model;
pub(crate) mod quality;
pub(crate) mod quota;
pub(crate) mod rebuild;
pub(crate) mod recall;
pub(crate) mod replay;
pub(crate) mod tenant;
pub(crate) mod top;
pub(crate) mod topics;
pub(crate) mod up;
