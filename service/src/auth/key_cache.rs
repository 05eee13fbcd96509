//! What is remembered of the key store: keys that are there, and ids that are not. Pure: it is given the time.
//!
//! Promises: both sides are bounded, apart from each other, so that guessing ids pushes no key out; a key that is older than
//! `fresh` is used only where the key store does not answer, and one that is older than `keep` never.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grant::Grant;
use super::stored_key::KeyId;

/// Bounds and ages.
#[derive(Clone, Copy, Debug)]
pub struct KeyCacheConfig {
    /// Keys, at most; and as many ids that are not there.
    pub max_keys: usize,
    /// A key is taken for true for so long. From half of it on it is asked for anew beside its use.
    pub fresh: Duration,
    /// While the key store does not answer, a key is used for so long.
    pub keep: Duration,
    /// An id that was not there is not asked for again for so long.
    pub absent_for: Duration,
}

/// What is remembered under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// True; `refresh`: the time has come to ask anew, beside using it. Said once.
    Fresh {
        /// The key.
        grant: Arc<Grant>,
        /// Whether to ask.
        refresh: bool,
    },
    /// Ask; where nobody answers, this was true not long ago.
    Stale(Arc<Grant>),
    /// There is none.
    Absent,
    /// Ask.
    Unknown,
}

#[derive(Debug)]
struct Kept {
    grant: Arc<Grant>,
    learned_at: Instant,
    refreshing: bool,
    /// Used since it was last passed over for removal.
    used: bool,
}

/// The cache.
#[derive(Debug)]
pub struct KeyCache {
    config: KeyCacheConfig,
    keys: HashMap<KeyId, Kept>,
    /// Each of `keys` once; the front goes first unless it was used.
    turn: VecDeque<KeyId>,
    absent: HashMap<KeyId, Instant>,
    /// Each of `absent` once, oldest first.
    absent_turn: VecDeque<KeyId>,
}

impl KeyCache {
    /// An empty one.
    #[must_use]
    pub fn new(config: KeyCacheConfig) -> Self {
        let config = KeyCacheConfig { max_keys: config.max_keys.max(1), ..config };
        Self { config, keys: HashMap::new(), turn: VecDeque::new(), absent: HashMap::new(), absent_turn: VecDeque::new() }
    }

    /// What is remembered under an id.
    pub fn look(&mut self, id: KeyId, now: Instant) -> Look {
        if let Some(kept) = self.keys.get_mut(&id) {
            let age = now.saturating_duration_since(kept.learned_at);
            kept.used = true;
            if age < self.config.fresh {
                let refresh = age * 2 >= self.config.fresh && !kept.refreshing;
                kept.refreshing |= refresh;
                return Look::Fresh { grant: kept.grant.clone(), refresh };
            }
            return if age < self.config.keep { Look::Stale(kept.grant.clone()) } else { Look::Unknown };
        }
        match self.absent.get(&id) {
            Some(at) if now.saturating_duration_since(*at) < self.config.absent_for => Look::Absent,
            _ => Look::Unknown,
        }
    }

    /// The key store has answered.
    pub fn learned(&mut self, id: KeyId, grant: Option<Arc<Grant>>, now: Instant) {
        match grant {
            Some(grant) => {
                self.forget_absent(id);
                let kept = Kept { grant, learned_at: now, refreshing: false, used: true };
                if self.keys.insert(id, kept).is_none() {
                    self.turn.push_back(id);
                }
                self.make_room();
            }
            None => {
                if self.keys.remove(&id).is_some() {
                    self.turn.retain(|other| *other != id);
                }
                if self.absent.insert(id, now).is_none() {
                    self.absent_turn.push_back(id);
                }
                while self.absent_turn.len() > self.config.max_keys {
                    if let Some(oldest) = self.absent_turn.pop_front() {
                        self.absent.remove(&oldest);
                    }
                }
            }
        }
    }

    /// Asking anew did not succeed: it may be tried again.
    pub fn not_refreshed(&mut self, id: KeyId) {
        if let Some(kept) = self.keys.get_mut(&id) {
            kept.refreshing = false;
        }
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// No key is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn forget_absent(&mut self, id: KeyId) {
        if self.absent.remove(&id).is_some() {
            self.absent_turn.retain(|other| *other != id);
        }
    }

    fn make_room(&mut self) {
        while self.keys.len() > self.config.max_keys {
            let Some(id) = self.turn.pop_front() else { return };
            match self.keys.get_mut(&id) {
                // A second chance, once around.
                Some(kept) if kept.used => {
                    kept.used = false;
                    self.turn.push_back(id);
                }
                _ => {
                    self.keys.remove(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::Right;
    use super::super::stored_key::NewKey;
    use super::*;

    const CONFIG: KeyCacheConfig = KeyCacheConfig {
        max_keys: 4,
        fresh: Duration::from_secs(10),
        keep: Duration::from_secs(100),
        absent_for: Duration::from_secs(5),
    };

    fn grant(number: u8) -> Arc<Grant> {
        let key = NewKey::of_random([number; 8], [number; 32]);
        Arc::new(Grant {
            key_id: key.id,
            tenant: "acme".into(),
            rights: vec![Right::Events],
            entity_id: None,
            entity_prefix: None,
            sha256: hex::encode(key.sha256),
            expires_at_us: None,
            revoked_at_us: None,
            tenant_suspended: false,
        })
    }

    #[test]
    fn a_key_ages_from_fresh_over_stale_to_unknown() {
        let (start, grant) = (Instant::now(), grant(1));
        let id = grant.key_id;
        let mut cache = KeyCache::new(CONFIG);
        assert_eq!(cache.look(id, start), Look::Unknown);
        cache.learned(id, Some(grant.clone()), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.look(id, at(4)), Look::Fresh { grant: grant.clone(), refresh: false });
        assert_eq!(cache.look(id, at(5)), Look::Fresh { grant: grant.clone(), refresh: true });
        assert_eq!(cache.look(id, at(6)), Look::Fresh { grant: grant.clone(), refresh: false }, "somebody asks already");
        cache.not_refreshed(id);
        assert_eq!(cache.look(id, at(7)), Look::Fresh { grant: grant.clone(), refresh: true });
        assert_eq!(cache.look(id, at(10)), Look::Stale(grant.clone()));
        assert_eq!(cache.look(id, at(99)), Look::Stale(grant.clone()));
        assert_eq!(cache.look(id, at(100)), Look::Unknown);
        cache.learned(id, None, at(100));
        assert_eq!((cache.look(id, at(104)), cache.look(id, at(105))), (Look::Absent, Look::Unknown));
    }

    #[test]
    fn guessing_ids_pushes_no_key_out() {
        let (start, known) = (Instant::now(), grant(1));
        let mut cache = KeyCache::new(CONFIG);
        cache.learned(known.key_id, Some(known.clone()), start);
        for number in 2..200 {
            cache.learned(grant(number).key_id, None, start);
        }
        assert!(matches!(cache.look(known.key_id, start), Look::Fresh { .. }));
        assert_eq!(cache.absent.len(), CONFIG.max_keys);
    }

    proptest! {
        /// Whatever is learned and asked, the bounds hold and nothing is answered that was not learned last.
        #[test]
        fn bounded_and_never_wrong(steps in proptest::collection::vec((0_u8..12, any::<bool>(), any::<bool>(), 0_u64..8), 0..200)) {
            let mut now = Instant::now();
            let mut cache = KeyCache::new(CONFIG);
            let mut told: HashMap<KeyId, (bool, Instant)> = HashMap::new();
            for (number, learn, there, passed) in steps {
                now += Duration::from_secs(passed);
                let grant = grant(number);
                let id = grant.key_id;
                if learn {
                    cache.learned(id, there.then_some(grant), now);
                    told.insert(id, (there, now));
                }
                let age = told.get(&id).map(|(_, at)| now - *at);
                match cache.look(id, now) {
                    Look::Fresh { .. } => prop_assert!(told[&id].0 && age.unwrap() < CONFIG.fresh),
                    Look::Stale(_) => prop_assert!(told[&id].0 && age.unwrap() >= CONFIG.fresh && age.unwrap() < CONFIG.keep),
                    Look::Absent => prop_assert!(!told[&id].0 && age.unwrap() < CONFIG.absent_for),
                    Look::Unknown => {}
                }
                prop_assert!(cache.keys.len() <= CONFIG.max_keys && cache.keys.len() == cache.turn.len());
                prop_assert!(cache.absent.len() <= CONFIG.max_keys && cache.absent.len() == cache.absent_turn.len());
            }
        }
    }
}
