//! On whose account a call goes: lane, model, and the tenant where configuration names it.
//!
//! Promises: as many names as configuration has, [`MAX_TENANTS`] at most; everybody else is `other`. So labels stay bounded whatever
//! tenants come.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Tenants that are counted by name.
const MAX_TENANTS: usize = 100;
/// Everybody else.
const OTHER: &str = "other";

/// The tenants that are counted by name.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    named: BTreeSet<Arc<str>>,
    other: Arc<str>,
}

impl Accounts {
    /// Of the tenants that configuration names, the first in their order where there are too many.
    pub(crate) fn of<'a>(tenants: impl IntoIterator<Item = &'a String>) -> Self {
        let all: BTreeSet<&str> = tenants.into_iter().map(String::as_str).collect();
        if all.len() > MAX_TENANTS {
            tracing::warn!(named = all.len(), counted = MAX_TENANTS, "more tenants are configured than are counted by name");
        }
        Self { named: all.into_iter().take(MAX_TENANTS).map(Arc::from).collect(), other: Arc::from(OTHER) }
    }

    /// The name on which a tenant's calls are counted.
    pub(crate) fn of_tenant(&self, tenant: &str) -> Arc<str> {
        Arc::clone(self.named.get(tenant).unwrap_or(&self.other))
    }
}

#[cfg(test)]
mod tests {
    use super::{Accounts, MAX_TENANTS};

    #[test]
    fn only_named_tenants_have_an_account_and_their_number_is_bounded() {
        let named: Vec<String> = (0..MAX_TENANTS + 5).map(|n| format!("t{n:03}")).collect();
        let accounts = Accounts::of(&named);
        assert_eq!(&*accounts.of_tenant("t001"), "t001");
        for tenant in ["", "unknown", "t100", "t104"] {
            assert_eq!(&*accounts.of_tenant(tenant), "other", "{tenant}");
        }
    }
}
