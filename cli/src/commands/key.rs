//! `memori key hash`: makes a block for the keys file.

use std::io::{IsTerminal as _, Read as _};

use clap::{Subcommand, ValueEnum};
use memori_service::ProcessError;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use crate::output::{aside, say};

#[derive(Subcommand)]
pub(crate) enum Key {
    /// Print a block for the keys file. The key is read from stdin; without one a new key is made and shown once on stderr.
    Hash {
        /// The tenant that the key names.
        #[arg(long)]
        tenant: String,
        /// What it may do.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Right::Events, Right::Recall])]
        rights: Vec<Right>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Right {
    Events,
    Recall,
    Erase,
    Gateway,
    Admin,
}

pub(crate) fn run(key: Key) -> Result<(), ProcessError> {
    let Key::Hash { tenant, rights } = key;
    let mut secret = String::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_string(&mut secret).map_err(|e| ProcessError::Usage(format!("stdin is not UTF-8 text: {e}")))?;
    }
    let mut secret = secret.trim_end_matches(['\r', '\n']).to_owned();
    if secret.is_empty() {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        secret = format!("mk_{}", hex::encode(bytes));
        aside(format!("new key, shown once: {secret}"));
    } else if secret.len() < 16 {
        return Err(ProcessError::Usage(
            "the key has fewer than 16 characters; leave stdin empty to get a new one of 256 bits".into(),
        ));
    }
    say(block(&tenant, &rights, &secret));
    Ok(())
}

/// One `[[keys]]` block.
fn block(tenant: &str, rights: &[Right], secret: &str) -> String {
    let names: Vec<String> =
        rights.iter().filter_map(|r| r.to_possible_value()).map(|v| toml::Value::from(v.get_name()).to_string()).collect();
    let hash = hex::encode(Sha256::digest(secret.as_bytes()));
    format!("[[keys]]\ntenant = {}\nrights = [{}]\nsha256 = \"{hash}\"", toml::Value::from(tenant), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_toml_and_holds_no_secret() {
        let text = block("a \"b\"", &[Right::Events, Right::Erase], "0123456789abcdef");
        let read: toml::Table = text.parse().unwrap();
        let entry = &read["keys"][0];
        assert_eq!(entry["tenant"].as_str(), Some("a \"b\""));
        assert_eq!(entry["rights"].as_array().unwrap().len(), 2);
        assert_eq!(entry["sha256"].as_str(), Some("9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"));
        assert!(!text.contains("0123456789abcdef"));
    }
}
