//! What a key of the key store may do. Pure: whoever asks gives the time.
//!
//! Promises: a key is judged by its secret first, so nobody learns anything of a key whose secret he does not have; secrets are
//! compared in constant time; a key that is bound to an entity never reaches another.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::stored_key::{KeyId, PresentedKey};
use super::{Principal, Right};
use crate::problem::Problem;

/// Whom a key may be about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Every entity of its tenant.
    #[default]
    Any,
    /// This entity.
    Entity(Arc<str>),
    /// Entities whose ids begin so.
    Prefix(Arc<str>),
}

impl Binding {
    /// Whether an entity is among them.
    #[must_use]
    pub fn covers(&self, entity_id: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Entity(own) => **own == *entity_id,
            Self::Prefix(prefix) => entity_id.starts_with(&**prefix),
        }
    }
}

/// A key of the key store, as far as it decides what its holder may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which key.
    pub key_id: KeyId,
    /// Whose; `*` administers every tenant.
    pub tenant: Arc<str>,
    /// What for.
    pub rights: Vec<Right>,
    /// Bound to this entity.
    pub entity_id: Option<Arc<str>>,
    /// Bound to entities whose ids begin so.
    pub entity_prefix: Option<Arc<str>>,
    /// SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// Until when, in microseconds since 1970.
    pub expires_at_us: Option<i64>,
    /// Since when no more.
    pub revoked_at_us: Option<i64>,
    /// Its tenant is suspended.
    pub tenant_suspended: bool,
}

/// Why a key is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody's.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
    /// Its tenant is suspended.
    TenantSuspended,
}

impl Denied {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Expired, Self::Revoked, Self::TenantSuspended];

    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::TenantSuspended => "tenant_suspended",
        }
    }

    /// What the caller is told. Only who has the secret learns that there was such a key.
    #[must_use]
    pub fn to_problem(self) -> Problem {
        let mut problem = Problem::unauthorized();
        match self {
            Self::Unknown => {}
            Self::Expired => problem.detail = "the key has expired; a new one is needed".to_owned(),
            Self::Revoked => problem.detail = "the key was revoked; a new one is needed".to_owned(),
            Self::TenantSuspended => {
                let why = "the key's tenant is suspended; whoever operates the platform lifts that";
                problem = Problem::new(http::StatusCode::FORBIDDEN, why);
            }
        }
        problem
    }
}

impl Grant {
    /// Who calls with this key.
    ///
    /// # Errors
    /// Why nobody does.
    pub fn admit(&self, presented: &PresentedKey, now_us: i64) -> Result<Principal, Denied> {
        let hash = hex::decode(&self.sha256).unwrap_or_default();
        if !bool::from(hash.as_slice().ct_eq(presented.sha256.as_slice())) || self.key_id != presented.id {
            return Err(Denied::Unknown);
        }
        if self.revoked_at_us.is_some_and(|at| at <= now_us) {
            return Err(Denied::Revoked);
        }
        if self.expires_at_us.is_some_and(|at| at <= now_us) {
            return Err(Denied::Expired);
        }
        if self.tenant_suspended {
            return Err(Denied::TenantSuspended);
        }
        let principal = Principal::new(&self.tenant, &self.rights).with_key(self.key_id);
        Ok(match (&self.entity_id, &self.entity_prefix) {
            (Some(entity), _) => principal.bound_to(Binding::Entity(entity.clone())),
            (None, Some(prefix)) => principal.bound_to(Binding::Prefix(prefix.clone())),
            (None, None) => principal,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::stored_key::NewKey;
    use super::*;

    fn made(number: u8) -> (NewKey, PresentedKey) {
        let key = NewKey::of_random([number; 8], [number; 32]);
        let presented = PresentedKey::read(key.key.expose().as_bytes()).unwrap();
        (key, presented)
    }

    fn grant(key: &NewKey) -> Grant {
        Grant {
            key_id: key.id,
            tenant: "acme".into(),
            rights: vec![Right::Events],
            entity_id: None,
            entity_prefix: None,
            sha256: hex::encode(key.sha256),
            expires_at_us: None,
            revoked_at_us: None,
            tenant_suspended: false,
        }
    }

    #[test]
    fn a_key_lets_in_until_it_expires_or_is_revoked() {
        let (key, presented) = made(1);
        let grant = Grant { expires_at_us: Some(100), ..grant(&key) };
        assert!(grant.admit(&presented, 99).unwrap().may(Right::Events));
        assert_eq!(grant.admit(&presented, 100), Err(Denied::Expired));
        let grant = Grant { revoked_at_us: Some(50), ..grant };
        assert_eq!(grant.admit(&presented, 50), Err(Denied::Revoked));
        assert!(grant.admit(&presented, 49).is_ok());
        let suspended = Grant { tenant_suspended: true, ..self::grant(&key) };
        assert_eq!(suspended.admit(&presented, 0).unwrap_err().to_problem().status, 403);
    }

    #[test]
    fn who_has_not_the_secret_learns_nothing() {
        let (key, _) = made(1);
        let (_, other) = made(2);
        let forged = PresentedKey { id: key.id, sha256: other.sha256 };
        for grant in [
            grant(&key),
            Grant { revoked_at_us: Some(0), ..grant(&key) },
            Grant { expires_at_us: Some(0), ..grant(&key) },
            Grant { tenant_suspended: true, ..grant(&key) },
            Grant { sha256: String::new(), ..grant(&key) },
        ] {
            assert_eq!(grant.admit(&forged, 10), Err(Denied::Unknown));
            assert_eq!(grant.admit(&other, 10), Err(Denied::Unknown));
        }
        assert_eq!(Denied::Unknown.to_problem(), Problem::unauthorized());
    }

    #[test]
    fn a_binding_covers_its_entity_or_what_begins_so() {
        let (key, presented) = made(1);
        let of = |entity: Option<&str>, prefix: Option<&str>| {
            let grant = Grant { entity_id: entity.map(Into::into), entity_prefix: prefix.map(Into::into), ..grant(&key) };
            grant.admit(&presented, 0).unwrap().binding
        };
        assert!(of(None, None).covers("anybody"));
        let one = of(Some("alice"), None);
        assert!(one.covers("alice") && !one.covers("alice2") && !one.covers("Alice") && !one.covers(""));
        let many = of(None, Some("eu/"));
        assert!(many.covers("eu/alice") && many.covers("eu/") && !many.covers("eu") && !many.covers("us/eu/"));
    }

    proptest! {
        /// Against the plain sentence: a key works from its making until the first of expiry and revocation.
        #[test]
        fn times_are_judged_as_one_says_it(expires in proptest::option::of(0_i64..20), revoked in proptest::option::of(0_i64..20), now in 0_i64..20) {
            let (key, presented) = made(3);
            let grant = Grant { expires_at_us: expires, revoked_at_us: revoked, ..grant(&key) };
            let end = expires.unwrap_or(i64::MAX).min(revoked.unwrap_or(i64::MAX));
            prop_assert_eq!(grant.admit(&presented, now).is_ok(), now < end);
        }
    }
}
