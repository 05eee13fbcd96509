//! The schema registry's wire format: a zero, the schema's id there, the datum. The datum is that of single-object encoding, so a payload
//! is turned from one framing into the other without being decoded.

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

use super::{FINGERPRINT_BYTES, HEADER_BYTES, MARKER, REGISTRY_MAGIC};

const ID_BYTES: usize = 4;

/// What tells schemas apart in single-object encoding.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// The fingerprint of a schema; `None` where the text is no schema.
#[must_use]
pub fn fingerprint_of_text(avsc: &str) -> Option<Fingerprint> {
    Schema::parse_str(avsc).ok()?.fingerprint::<Rabin>().bytes.try_into().ok()
}

/// The fingerprint of a payload in single-object encoding.
#[must_use]
pub fn fingerprint_of_payload(payload: &[u8]) -> Option<&Fingerprint> {
    payload.strip_prefix(&MARKER)?.first_chunk()
}

/// The registry's id of a payload in its wire format.
#[must_use]
pub fn registry_id_of_payload(payload: &[u8]) -> Option<u32> {
    let (magic, rest) = payload.split_first()?;
    rest.first_chunk::<ID_BYTES>().filter(|_| *magic == REGISTRY_MAGIC).map(|id| u32::from_be_bytes(*id))
}

/// A payload of single-object encoding in the registry's wire format; `None` where it is none.
#[must_use]
pub fn with_registry_id(payload: &[u8], id: u32) -> Option<Vec<u8>> {
    fingerprint_of_payload(payload)?;
    let datum = payload.get(HEADER_BYTES..)?;
    Some([&[REGISTRY_MAGIC], &id.to_be_bytes()[..], datum].concat())
}

/// A payload of the registry's wire format in single-object encoding; `None` where it is none.
#[must_use]
pub fn with_fingerprint(payload: &[u8], fingerprint: &Fingerprint) -> Option<Vec<u8>> {
    registry_id_of_payload(payload)?;
    let datum = payload.get(1 + ID_BYTES..)?;
    Some([&MARKER[..], fingerprint, datum].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::RELEASED;

    #[test]
    fn a_payload_goes_there_and_back_byte_for_byte() {
        for version in RELEASED {
            let fingerprint = fingerprint_of_text(version.avsc).unwrap();
            let payload = [&MARKER[..], &fingerprint, b"datum"].concat();
            assert_eq!(fingerprint_of_payload(&payload), Some(&fingerprint));
            let framed = with_registry_id(&payload, 0x0102_0304).unwrap();
            assert_eq!(framed, b"\0\x01\x02\x03\x04datum");
            assert_eq!(registry_id_of_payload(&framed), Some(0x0102_0304));
            assert_eq!(with_fingerprint(&framed, &fingerprint).unwrap(), payload);
        }
        assert_eq!(fingerprint_of_text("{}"), None);
    }

    #[test]
    fn what_is_of_neither_framing_stays_what_it_is() {
        for bytes in [&b""[..], b"\0", b"\0\0\0\0", b"\xC3\x01short", b"{\"json\": 1}", b"\xC3\x02fingerprint"] {
            assert_eq!(with_registry_id(bytes, 1), None);
            assert_eq!(with_fingerprint(bytes, &[0; 8]), None);
        }
    }
}
