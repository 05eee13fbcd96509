//! A keys file: for each tenant a key of every right but the operator's and one of that alone, and one that administers all.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Keys that were written.
#[derive(Clone, Debug)]
pub struct Keys {
    file: PathBuf,
    keys: Vec<(String, String)>,
}

impl Keys {
    /// Writes `keys.toml` into `dir`.
    ///
    /// # Errors
    /// The system's.
    pub fn write(tenants: &[String], dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join("keys.toml");
        let keys: Vec<(String, String)> =
            tenants.iter().map(|tenant| (tenant.clone(), format!("key-of-{tenant}-0123456789abcdef"))).collect();
        let entry = |tenant: &str, rights: &[&str], key: &str| {
            let hash = hex::encode(Sha256::digest(key.as_bytes()));
            format!("[[keys]]\ntenant = \"{tenant}\"\nrights = {rights:?}\nsha256 = \"{hash}\"\n\n")
        };
        let mut text: String = keys
            .iter()
            .map(|(tenant, key)| {
                entry(tenant, &["events", "recall", "erase"], key) + &entry(tenant, &["admin"], &Self::admin_of(tenant))
            })
            .collect();
        text.push_str(&entry("*", &["admin"], Self::OPERATOR));
        std::fs::write(&file, text)?;
        Ok(Self { file, keys })
    }

    /// The key that administers every tenant, and does nothing else.
    pub const OPERATOR: &str = "key-of-the-operator-0123456789abcdef";

    /// The key that administers a tenant, and does nothing else.
    #[must_use]
    pub fn admin_of(tenant: &str) -> String {
        format!("admin-key-of-{tenant}-0123456789abcdef")
    }

    /// Where they stand.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A tenant's key.
    ///
    /// # Panics
    /// Where the tenant has none.
    #[must_use]
    pub fn of(&self, tenant: &str) -> &str {
        self.keys.iter().find(|(owner, _)| owner == tenant).map(|(_, key)| key.as_str()).expect("a tenant with a key")
    }
}
