//! The Rust types and the schemas say the same, and released bytes never change.

mod common;

use memori_schemas::framing;

#[test]
fn every_record_comes_back_as_it_went() {
    for (name, record) in common::all() {
        let payload = framing::encode(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(framing::decode(&payload), Ok(record.clone()), "{name}");
        assert_eq!(hex::encode(&payload[2..10]), framing::fingerprint_hex(&record), "{name}");
    }
}
