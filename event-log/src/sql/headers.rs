//! A record's headers as one column: per header `u32(name) name u32(value) value`, big-endian.

use bytes::{Buf, BufMut, Bytes};

use crate::seam::Header;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its headers are damaged")]
pub(super) struct DamagedHeaders;

pub(super) fn encode(headers: &[Header]) -> Vec<u8> {
    let mut out = Vec::with_capacity(headers.iter().map(|h| 8 + h.name.len() + h.value.len()).sum());
    for header in headers {
        for part in [header.name.as_bytes(), &header.value] {
            out.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            out.put_slice(part);
        }
    }
    out
}

pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<Header>, DamagedHeaders> {
    let mut part = || -> Result<Option<&[u8]>, DamagedHeaders> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let len = bytes.try_get_u32().map_err(|_| DamagedHeaders)? as usize;
        let (head, rest) = bytes.split_at_checked(len).ok_or(DamagedHeaders)?;
        bytes = rest;
        Ok(Some(head))
    };
    let mut headers = Vec::new();
    while let Some(name) = part()? {
        let value = part()?.ok_or(DamagedHeaders)?;
        let name = std::str::from_utf8(name).map_err(|_| DamagedHeaders)?;
        headers.push(Header::read(name, Bytes::copy_from_slice(value)));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(parts in proptest::collection::vec((".{0,12}", proptest::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let headers: Vec<Header> = parts.into_iter().map(|(name, value)| Header { name: name.into(), value: value.into() }).collect();
            prop_assert_eq!(decode(&encode(&headers)), Ok(headers));
        }

        #[test]
        fn hostile_bytes_are_an_error_or_headers(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(headers) = decode(&bytes) {
                prop_assert_eq!(encode(&headers), bytes);
            }
        }
    }
}
