//! Who may call: keys from a file and from the key store, each naming one tenant and its rights.
//!
//! Promises: a key is compared in constant time and never shown; without keys everything belongs to the tenant `default`, and then
//! only a loopback address is served.

pub mod grant;
pub mod key_cache;
pub mod stored_key;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use self::grant::{Binding, Denied, Grant};
pub use self::stored_key::{KeyId, NewKey, PresentedKey};
use crate::problem::{Answer, Problem};

/// The tenant of everything where no key is configured.
pub const DEFAULT_TENANT: &str = "default";

/// What stands in a tenant's place for who administers every tenant; no tenant is called so.
pub const EVERY_TENANT: &str = "*";

/// The header that carries a key where `Authorization` does not.
pub const API_KEY_HEADER: &str = "x-memori-api-key";

/// Why keys cannot be used; the text says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Post events, ask their status, wait for them.
    Events,
    /// Recall, every read, export.
    Recall,
    /// Delete facts and entities, read receipts.
    Erase,
    /// The gateway's routes.
    Gateway,
    /// Administration.
    Admin,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 5] = [Self::Events, Self::Recall, Self::Erase, Self::Gateway, Self::Admin];

    /// Its name in the keys file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Recall => "recall",
            Self::Erase => "erase",
            Self::Gateway => "gateway",
            Self::Admin => "admin",
        }
    }

    /// The right of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.as_str() == name)
    }
}

/// Whether a tenant may be called so: 1 to 128 printable ASCII characters without a space at either end.
#[must_use]
pub fn is_tenant_name(name: &str) -> bool {
    let printable = name.bytes().all(|b| (0x20..0x7f).contains(&b)) && name.trim() == name;
    printable && (1..=128).contains(&name.len())
}

/// On whose behalf a request comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant that owns all it sees.
    pub tenant: Arc<str>,
    /// Whom of it.
    pub binding: Binding,
    /// By which key of the key store; `None`: by one of the file, or without keys.
    pub key: Option<KeyId>,
    rights: u8,
}

impl Principal {
    /// May do these things for `tenant`.
    #[must_use]
    pub fn new(tenant: &str, rights: &[Right]) -> Self {
        let rights = rights.iter().fold(0, |bits, right| bits | (1 << *right as u8));
        Self { tenant: tenant.into(), binding: Binding::Any, key: None, rights }
    }

    /// The same, for these entities alone.
    #[must_use]
    pub fn bound_to(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// The same, by this key of the key store.
    #[must_use]
    pub fn with_key(self, key: KeyId) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Whether it administers every tenant.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        &*self.tenant == EVERY_TENANT
    }

    /// Whether it has a right.
    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights & (1 << right as u8) != 0
    }

    /// Passes where it has a right.
    ///
    /// # Errors
    /// 403.
    pub fn require(&self, right: Right) -> Answer<()> {
        if self.may(right) { Ok(()) } else { Err(Problem::forbidden(right.as_str())) }
    }
}

/// The keys that are known.
#[derive(Clone, Debug)]
pub struct KeyRing {
    /// `None`: no keys are configured.
    keys: Option<Arc<[Key]>>,
}

#[derive(Clone)]
struct Key {
    hash: [u8; 32],
    principal: Principal,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.principal)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    #[serde(default)]
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    tenant: String,
    rights: Vec<Right>,
    sha256: String,
}

impl KeyRing {
    /// No keys: everything belongs to the tenant `default`, credentials are ignored.
    #[must_use]
    pub fn open() -> Self {
        Self { keys: None }
    }

    /// The keys for a process that serves `listen`; with a key store there need be none in a file.
    ///
    /// # Errors
    /// A keys file that cannot be used, or none and an address that others can reach.
    pub fn for_listener(keys_file: Option<&Path>, key_store: bool, listen: SocketAddr) -> Result<Self, AuthError> {
        match keys_file {
            Some(path) => Self::load(path),
            None if key_store => Ok(Self { keys: Some(Arc::from([])) }),
            None if listen.ip().is_loopback() => Ok(Self::open()),
            None => Err(AuthError(format!(
                "{listen} can be reached by others, and no keys are configured: listen on a loopback address such as 127.0.0.1, \
                 or name a file of keys in auth.keys_file (MEMORI__AUTH__KEYS_FILE; `memori key hash` makes an entry)"
            ))),
        }
    }

    /// Reads a keys file.
    ///
    /// # Errors
    /// Where it cannot be read or holds no usable keys. The text names the entry, never a key.
    pub fn load(path: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| AuthError(format!("auth.keys_file {} cannot be read: {e}", path.display())))?;
        Self::parse(&text).map_err(|AuthError(why)| AuthError(format!("auth.keys_file {}: {why}", path.display())))
    }

    /// Reads the text of a keys file.
    ///
    /// # Errors
    /// As [`KeyRing::load`].
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let file: KeysFile = toml::from_str(text).map_err(|e| AuthError(e.message().to_owned()))?;
        if file.keys.is_empty() {
            return Err(AuthError("it holds no [[keys]]; `memori key hash` makes an entry".to_owned()));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(file.keys.len());
        for (number, entry) in file.keys.iter().enumerate() {
            let refuse = |why: &str| AuthError(format!("entry {} (tenant {:?}): {why}", number + 1, entry.tenant));
            if !is_tenant_name(&entry.tenant) {
                return Err(refuse("tenant must be 1 to 128 printable ASCII characters"));
            }
            if entry.rights.is_empty() {
                return Err(refuse("rights must name at least one of events, recall, erase, gateway, admin"));
            }
            if entry.tenant == EVERY_TENANT && entry.rights.iter().any(|right| *right != Right::Admin) {
                return Err(refuse("only the right admin can be bound to every tenant"));
            }
            let hash = hex::decode(&entry.sha256).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let hash = hash.ok_or_else(|| refuse("sha256 must be 64 hexadecimal digits"))?;
            if keys.iter().any(|key| key.hash == hash) {
                return Err(refuse("this key is there twice"));
            }
            keys.push(Key { hash, principal: Principal::new(&entry.tenant, &entry.rights) });
        }
        Ok(Self { keys: Some(keys.into()) })
    }

    /// Whether keys are configured.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Who calls, by `Authorization: Bearer` or [`API_KEY_HEADER`].
    ///
    /// # Errors
    /// 401 without a known key.
    pub fn authenticate(&self, headers: &HeaderMap) -> Answer<Principal> {
        let Some(keys) = &self.keys else { return Ok(Principal::new(DEFAULT_TENANT, &Right::ALL)) };
        let hash: [u8; 32] = Sha256::digest(presented(headers).ok_or_else(Problem::unauthorized)?).into();
        // Every key is compared, so that the time tells nothing of which one it is.
        let mut found = None;
        for known in keys.iter() {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Some(&known.principal);
            }
        }
        found.cloned().ok_or_else(Problem::unauthorized)
    }
}

/// The key of a request, in whichever header.
#[must_use]
pub fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers).or_else(|| headers.get(API_KEY_HEADER).map(http::HeaderValue::as_bytes))
}

/// The token of `Authorization: Bearer`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares secrets in a time that does not depend on where they differ.
#[must_use]
pub fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let (given, expected) = (Sha256::digest(given), Sha256::digest(expected));
    given.as_slice().ct_eq(expected.as_slice()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &str) -> String {
        hex::encode(Sha256::digest(key))
    }

    fn file() -> String {
        format!(
            "[[keys]]\ntenant = \"acme\"\nrights = [\"events\", \"recall\"]\nsha256 = \"{}\"\n\
             [[keys]]\ntenant = \"other\"\nrights = [\"erase\"]\nsha256 = \"{}\"\n",
            hash("one"),
            hash("two").to_uppercase()
        )
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(header::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_key_names_its_tenant_and_rights_in_either_header() {
        let ring = KeyRing::parse(&file()).unwrap();
        for headers in
            [headers("authorization", "Bearer one"), headers("authorization", "bearer  one "), headers(API_KEY_HEADER, "one")]
        {
            let principal = ring.authenticate(&headers).unwrap();
            assert_eq!(&*principal.tenant, "acme");
            assert!(principal.require(Right::Events).is_ok() && principal.require(Right::Recall).is_ok());
            assert_eq!(principal.require(Right::Erase).unwrap_err().status, 403);
        }
        assert_eq!(&*ring.authenticate(&headers(API_KEY_HEADER, "two")).unwrap().tenant, "other");
    }

    #[test]
    fn anything_else_is_401() {
        let ring = KeyRing::parse(&file()).unwrap();
        let cases = [
            HeaderMap::new(),
            headers("authorization", "Bearer three"),
            headers("authorization", "Bearer"),
            headers("authorization", "Basic one"),
            headers("authorization", "one"),
            headers(API_KEY_HEADER, ""),
            headers(API_KEY_HEADER, &hash("one")),
        ];
        for case in cases {
            assert_eq!(ring.authenticate(&case).unwrap_err().status, 401, "{case:?}");
        }
    }

    #[test]
    fn without_keys_only_loopback_is_served_and_all_is_the_default_tenants() {
        for (listen, fine) in
            [("127.0.0.1:7700", true), ("[::1]:0", true), ("0.0.0.0:7700", false), ("10.0.0.1:1", false), ("[::]:1", false)]
        {
            let ring = KeyRing::for_listener(None, false, listen.parse().unwrap());
            assert_eq!(ring.is_ok(), fine, "{listen}");
            let with_store = KeyRing::for_listener(None, true, listen.parse().unwrap()).unwrap();
            assert!(with_store.has_keys() && with_store.authenticate(&headers(API_KEY_HEADER, "any")).is_err());
        }
        let principal = KeyRing::open().authenticate(&headers("authorization", "Bearer whatever")).unwrap();
        assert_eq!(&*principal.tenant, DEFAULT_TENANT);
        assert!(Right::ALL.into_iter().all(|right| principal.may(right)));
    }

    #[test]
    fn unusable_files_are_refused_without_showing_a_hash() {
        let one = hash("one");
        let entry = |tenant: &str, rights: &str, sha256: &str| {
            format!("[[keys]]\ntenant = \"{tenant}\"\nrights = [{rights}]\nsha256 = \"{sha256}\"\n")
        };
        let cases = [
            String::new(),
            "keys = 7".to_owned(),
            "[[key]]\n".to_owned(),
            entry("", "\"events\"", &one),
            entry("a\u{1}b", "\"events\"", &one),
            entry("a", "", &one),
            entry("a", "\"everything\"", &one),
            entry("a", "\"events\"", &one[1..]),
            entry("*", "\"events\", \"admin\"", &one),
            entry("a", "\"events\"", &one) + &entry("b", "\"events\"", &one),
        ];
        for case in cases {
            let error = KeyRing::parse(&case).unwrap_err().to_string();
            assert!(!error.contains(&one[1..]), "{error}");
        }
        assert!(KeyRing::parse(&entry("*", "\"admin\"", &one)).is_ok());
    }

    #[test]
    fn secrets_compare_by_value() {
        assert!(same_secret(b"abc", b"abc"));
        assert!(!same_secret(b"abc", b"abd") && !same_secret(b"", b"a"));
    }
}
