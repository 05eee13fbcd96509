//! How a key of the key store is written: `mk_`, its id, `_`, its secret. The id says where to look and may be shown; the secret, 256
//! random bits, is shown once, and only its hash is kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

const PREFIX: &str = "mk_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;

/// Which key: the part of it that may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_DIGITS / 2]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bytes = hex::decode(text).ok().filter(|_| lower).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(())
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("not a key's id"))
    }
}

/// A key as somebody presents it: its id, and the hash that its secret must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentedKey {
    /// Which key it says it is.
    pub id: KeyId,
    /// SHA-256 of all of it.
    pub sha256: [u8; 32],
}

impl PresentedKey {
    /// Reads a key; `None` where it cannot be one of the key store's.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX.as_bytes())?;
        let (id, secret) = rest.split_at_checked(ID_DIGITS)?;
        let secret = secret.strip_prefix(b"_")?;
        let whole = secret.len() == SECRET_DIGITS && secret.iter().all(u8::is_ascii_hexdigit);
        let id = std::str::from_utf8(id).ok().filter(|_| whole)?.parse().ok()?;
        Some(Self { id, sha256: Sha256::digest(text).into() })
    }
}

/// A new key.
#[derive(Debug)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// All of it, to be shown once.
    pub key: Secret,
    /// What is kept of it.
    pub sha256: [u8; 32],
}

impl NewKey {
    /// From random bytes that nobody else has.
    #[must_use]
    pub fn of_random(id: [u8; ID_DIGITS / 2], secret: [u8; SECRET_DIGITS / 2]) -> Self {
        let id = KeyId(id);
        let key = format!("{PREFIX}{id}_{}", hex::encode(secret));
        let sha256 = Sha256::digest(key.as_bytes()).into();
        Self { id, key: Secret::new(key), sha256 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let made = NewKey::of_random([0xab; 8], [7; 32]);
        assert_eq!(made.key.expose().len(), 3 + 16 + 1 + 64);
        let read = PresentedKey::read(made.key.expose().as_bytes()).unwrap();
        assert_eq!((read.id, read.sha256), (made.id, made.sha256));
        assert_eq!(made.id.to_string(), "abababababababab");
        assert!(!format!("{made:?}").contains("0707"), "a secret in a debug text");
    }

    #[test]
    fn what_cannot_be_a_key_is_none() {
        let made = NewKey::of_random([1; 8], [2; 32]);
        let text = made.key.expose();
        for bad in
            ["", "mk_", &text[1..], &text[..text.len() - 1], &text.replace("mk_01", "mk_0G"), &text.replace("mk_01", "mk_0A")]
        {
            assert!(PresentedKey::read(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = PresentedKey::read(&bytes);
        }
    }
}
