//! Who waits for a commit is woken by it.
//!
//! Notifications are hints: a waiter reads the store before it waits and after every change, so that a lost or an extra one
//! costs time and never an answer.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts commits of this process's sink and, where the store tells of them, of other writers.
#[derive(Clone, Debug)]
pub struct Commits(Arc<watch::Sender<u64>>);

impl Default for Commits {
    fn default() -> Self {
        Self::new()
    }
}

impl Commits {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Something was committed: wakes every subscriber.
    pub fn bump(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A receiver that changes after each commit from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::Commits;

    #[tokio::test]
    async fn a_commit_wakes_every_subscriber() {
        let commits = Commits::new();
        let (mut one, mut two) = (commits.subscribe(), commits.clone().subscribe());
        assert!(!one.has_changed().unwrap());
        commits.bump();
        one.changed().await.unwrap();
        two.changed().await.unwrap();
        assert_eq!((*one.borrow(), *two.borrow()), (1, 1));
    }
}
