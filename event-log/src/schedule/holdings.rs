//! What is held of whom: items and bytes per partition and tenant, waiting and out.
//!
//! Promises: exact after every step; nothing is kept of whom nothing is held.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Scheduled;
use crate::topic::TopicPartition;

/// Items and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// How many.
    pub items: usize,
    /// As [`Scheduled::bytes`] has it.
    pub bytes: usize,
}

impl Holding {
    pub(super) fn of<T: Scheduled>(items: &[T]) -> Self {
        Self { items: items.len(), bytes: items.iter().map(Scheduled::bytes).sum() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Holdings(BTreeMap<TopicPartition, BTreeMap<Arc<str>, Holding>>);

impl Holdings {
    pub(super) fn take(&mut self, partition: TopicPartition, tenant: &Arc<str>, more: Holding) {
        let held = self.0.entry(partition).or_default().entry(Arc::clone(tenant)).or_default();
        *held = Holding { items: held.items + more.items, bytes: held.bytes + more.bytes };
    }

    pub(super) fn give(&mut self, partition: TopicPartition, tenant: &str, less: Holding) {
        let Some(tenants) = self.0.get_mut(&partition) else { return };
        let Some(held) = tenants.get_mut(tenant) else { return };
        debug_assert!(less.items <= held.items && less.bytes <= held.bytes, "more was given back than taken");
        *held = Holding { items: held.items.saturating_sub(less.items), bytes: held.bytes.saturating_sub(less.bytes) };
        if held.items == 0 {
            tenants.remove(tenant);
        }
        if tenants.is_empty() {
            self.0.remove(&partition);
        }
    }

    pub(super) fn of(&self, partition: TopicPartition, tenant: &str) -> Holding {
        self.0.get(&partition).and_then(|tenants| tenants.get(tenant)).copied().unwrap_or_default()
    }

    pub(super) fn tenants_in(&self, partition: TopicPartition) -> usize {
        self.0.get(&partition).map_or(0, BTreeMap::len)
    }

    pub(super) fn all_in(&self, partition: TopicPartition) -> impl Iterator<Item = (&Arc<str>, Holding)> {
        self.0.get(&partition).into_iter().flatten().map(|(tenant, held)| (tenant, *held))
    }
}
