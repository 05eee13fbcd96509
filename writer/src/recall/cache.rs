//! Images of the entities that are asked about, bounded by their bytes: the least recently used go first.
//!
//! It does not know whether an image is still true; whoever takes one compares its version first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use memori_schemas::EntityKey;

use super::image::EntityImage;
use super::messages::MessageImage;

/// Which entity's images.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey {
    /// The owner.
    pub tenant: String,
    /// The entity.
    pub entity_key: EntityKey,
}

/// What is cached of one entity.
#[derive(Clone, Default)]
pub struct Images {
    /// Its facts.
    pub facts: Option<Arc<EntityImage>>,
    /// What was said.
    pub messages: Option<Arc<MessageImage>>,
}

impl Images {
    fn bytes(&self) -> usize {
        self.facts.as_ref().map_or(0, |image| image.bytes) + self.messages.as_ref().map_or(0, |image| image.bytes)
    }
}

struct Slot {
    images: Images,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct State {
    slots: HashMap<ImageKey, Slot>,
    /// By when each was used last.
    order: BTreeMap<u64, ImageKey>,
    bytes: usize,
    clock: u64,
}

/// The cache. One short lock; nothing is computed under it.
pub struct ImageCache {
    state: Mutex<State>,
    bound_bytes: usize,
}

/// What a slot costs beside its images.
const SLOT_BYTES: usize = 256;

impl ImageCache {
    /// An empty one that holds at most so many bytes of images.
    #[must_use]
    pub fn new(bound_bytes: usize) -> Self {
        Self { state: Mutex::default(), bound_bytes }
    }

    /// What is cached of an entity.
    #[must_use]
    pub fn get(&self, key: &ImageKey) -> Images {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let State { slots, order, .. } = &mut *state;
        match slots.get_mut(key) {
            None => Images::default(),
            Some(slot) => {
                order.remove(&slot.used);
                order.insert(now, key.clone());
                slot.used = now;
                slot.images.clone()
            }
        }
    }

    /// Puts an entity's images in the place of what was there. Images over the bound by themselves are not kept.
    pub fn put(&self, key: ImageKey, images: Images) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove(&key);
        let bytes = images.bytes() + SLOT_BYTES + key.tenant.len();
        if bytes <= self.bound_bytes {
            state.clock += 1;
            let used = state.clock;
            state.bytes += bytes;
            state.order.insert(used, key.clone());
            state.slots.insert(key, Slot { images, bytes, used });
            while state.bytes > self.bound_bytes {
                let Some((_, oldest)) = state.order.pop_first() else { break };
                state.remove(&oldest);
            }
        }
        crate::metrics::cache_bytes(state.bytes);
    }

    /// Whether an image of so many bytes may be kept.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        bytes + SLOT_BYTES <= self.bound_bytes
    }

    /// Bytes held, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl State {
    fn remove(&mut self, key: &ImageKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> ImageKey {
        ImageKey { tenant: "t".into(), entity_key: EntityKey([n; 16]) }
    }

    fn images(bytes: usize) -> Images {
        let mut image = EntityImage::empty(1);
        image.bytes = bytes;
        Images { facts: Some(Arc::new(image)), messages: None }
    }

    #[test]
    fn tenants_do_not_share() {
        let cache = ImageCache::new(100_000);
        cache.put(key(1), images(10));
        assert!(cache.get(&ImageKey { tenant: "u".into(), entity_key: EntityKey([1; 16]) }).facts.is_none());
        assert!(cache.get(&key(1)).facts.is_some());
    }

    proptest! {
        /// Against a list, most recently used last.
        #[test]
        fn it_keeps_the_most_recently_used_that_fit(ops in prop::collection::vec((any::<bool>(), 0..8_u8, 0..2_000_usize), 0..60)) {
            const BOUND: usize = 4_000;
            let cache = ImageCache::new(BOUND);
            let mut naive: Vec<(u8, usize)> = Vec::new();
            for (put, n, bytes) in ops {
                if put {
                    naive.retain(|(k, _)| *k != n);
                    naive.push((n, bytes + SLOT_BYTES + 1));
                    while naive.iter().map(|(_, bytes)| bytes).sum::<usize>() > BOUND {
                        naive.remove(0);
                    }
                    cache.put(key(n), images(bytes));
                } else {
                    let there = naive.iter().position(|(k, _)| *k == n);
                    prop_assert_eq!(cache.get(&key(n)).facts.is_some(), there.is_some());
                    if let Some(at) = there {
                        let used = naive.remove(at);
                        naive.push(used);
                    }
                }
                prop_assert_eq!(cache.bytes(), naive.iter().map(|(_, bytes)| bytes).sum::<usize>());
            }
        }
    }
}
