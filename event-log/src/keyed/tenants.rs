//! Whether more than one tenant is about: only then does it help anyone to read past what one of them sends.

use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Tenants {
    last: Option<Arc<str>>,
    /// Records since another tenant's.
    alone: usize,
    /// So many of one tenant in a row, and there is only that one.
    enough: usize,
}

impl Tenants {
    /// With 0, there is never more than one.
    pub(super) fn new(enough: usize) -> Self {
        Self { last: None, alone: 0, enough }
    }

    /// A record of `tenant` came. Whether that changed the answer.
    pub(super) fn saw(&mut self, tenant: &Arc<str>) -> bool {
        let was = self.is_one();
        if self.last.as_deref() == Some(&**tenant) {
            self.alone = self.alone.saturating_add(1);
        } else {
            self.last = Some(Arc::clone(tenant));
            self.alone = 0;
        }
        self.is_one() != was
    }

    /// Whether one tenant sends all there is, as far as can be told.
    pub(super) fn is_one(&self) -> bool {
        self.alone >= self.enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_is_alone_until_another_is_seen() {
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        let mut tenants = Tenants::new(2);
        assert_eq!([&a, &a, &a].map(|tenant| tenants.saw(tenant)), [false, false, true]);
        assert!(tenants.is_one());
        assert!(tenants.saw(&b) && !tenants.is_one());
        assert!(Tenants::new(0).is_one());
    }
}
