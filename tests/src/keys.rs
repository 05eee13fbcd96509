//! A keys file with one key of every right but the operator's for each tenant.

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
        let text: String = keys
            .iter()
            .map(|(tenant, key)| {
                let hash = hex::encode(Sha256::digest(key.as_bytes()));
                format!("[[keys]]\ntenant = \"{tenant}\"\nrights = [\"events\", \"recall\", \"erase\"]\nsha256 = \"{hash}\"\n\n")
            })
            .collect();
        std::fs::write(&file, text)?;
        Ok(Self { file, keys })
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
