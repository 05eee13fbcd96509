//! `memori key hash|create|list|show|rotate|revoke`: keys for the keys file, and those of the key store.

use std::io::{IsTerminal as _, Read as _};

use clap::{Subcommand, ValueEnum};
use memori_service::ProcessError;
use rand::Rng as _;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tenant::{listed, pages};
use crate::client::{Client, ClientFlags, segment};
use crate::output::{aside, say, text};

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
    /// Make a key in the key store. It is shown once.
    Create(Create),
    /// A tenant's keys, without their secrets.
    List(List),
    /// One key.
    Show(One),
    /// Put a new key with the same rights beside one, which goes on for the overlap. The new one is shown once.
    Rotate(Rotate),
    /// Take a key back. Again is harmless.
    Revoke(One),
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// Whose; `*` for a key that administers every tenant.
    tenant: String,
    /// What it may do.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Right::Events, Right::Recall])]
    rights: Vec<Right>,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// For this entity alone.
    #[arg(long, conflicts_with = "entity_prefix")]
    entity: Option<String>,
    /// For entities whose ids begin so.
    #[arg(long)]
    entity_prefix: Option<String>,
    /// Until then (RFC 3339).
    #[arg(long)]
    expires_at: Option<String>,
    /// Print the answer, the key with it, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// Whose.
    tenant: String,
    /// Keys at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// One key a line, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct One {
    /// Whose.
    tenant: String,
    /// Its id, as the list gives it.
    key_id: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// Whose.
    tenant: String,
    /// Its id, as the list gives it.
    key_id: String,
    /// How long both keys work, in seconds; without it, a day.
    #[arg(long)]
    overlap_seconds: Option<u64>,
    /// Until when the new one works (RFC 3339).
    #[arg(long)]
    expires_at: Option<String>,
    /// Print the answer, the key with it, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Right {
    Events,
    Recall,
    Erase,
    Gateway,
    Admin,
}

pub(crate) async fn run(key: Key) -> Result<(), ProcessError> {
    match key {
        Key::Hash { tenant, rights } => hash(&tenant, &rights),
        Key::Create(flags) => {
            let body = json!({
                "name": flags.name,
                "rights": names(&flags.rights),
                "entity_id": flags.entity,
                "entity_prefix": flags.entity_prefix,
                "expires_at": flags.expires_at,
            });
            let made = Client::new(&flags.client)?.post(&keys_of(&flags.tenant), &body).await?;
            say_new(&made, flags.json);
            Ok(())
        }
        Key::List(flags) => {
            let client = Client::new(&flags.client)?;
            let (keys, more) = pages(&client, &keys_of(&flags.tenant), "keys", "", flags.limit).await?;
            let row = |key: &Value| {
                let of = |name: &str| text(&key[name]);
                vec![of("key_id"), of("name"), of("state"), rights_of(key), bound_to(key), of("expires_at"), of("last_used_at")]
            };
            let heading = ["key", "name", "state", "rights", "bound to", "expires", "last used"];
            listed(&keys, more, flags.json, "no keys", &heading, row);
            Ok(())
        }
        Key::Show(flags) => {
            let key = Client::new(&flags.client)?.get(&key_path(&flags.tenant, &flags.key_id)).await?;
            if flags.json {
                say(key.to_string());
                return Ok(());
            }
            for name in
                ["key_id", "tenant", "name", "state", "created_at", "expires_at", "revoked_at", "replaced_by", "last_used_at"]
            {
                if !key[name].is_null() {
                    say(format!("{name:14} {}", text(&key[name])));
                }
            }
            say(format!("{:14} {}", "rights", rights_of(&key)));
            say(format!("{:14} {}", "bound to", bound_to(&key)));
            Ok(())
        }
        Key::Rotate(flags) => {
            let body = json!({"overlap_seconds": flags.overlap_seconds, "expires_at": flags.expires_at});
            let path = format!("{}/rotate", key_path(&flags.tenant, &flags.key_id));
            let made = Client::new(&flags.client)?.post(&path, &body).await?;
            say_new(&made, flags.json);
            Ok(())
        }
        Key::Revoke(flags) => {
            Client::new(&flags.client)?.call(Method::DELETE, &key_path(&flags.tenant, &flags.key_id), None).await?;
            let done = json!({"key_id": flags.key_id, "state": "revoked"});
            say(if flags.json { done.to_string() } else { format!("revoked {}", flags.key_id) });
            Ok(())
        }
    }
}

fn keys_of(tenant: &str) -> String {
    format!("/v1/admin/tenants/{}/keys", segment(tenant))
}

fn key_path(tenant: &str, key_id: &str) -> String {
    format!("{}/{}", keys_of(tenant), segment(key_id))
}

fn rights_of(key: &Value) -> String {
    let rights: Vec<&str> = key["rights"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    rights.join(",")
}

fn bound_to(key: &Value) -> String {
    match (key["entity_id"].as_str(), key["entity_prefix"].as_str()) {
        (Some(entity), _) => entity.to_owned(),
        (None, Some(prefix)) => format!("{prefix}…"),
        (None, None) => "every entity".to_owned(),
    }
}

/// The key alone on stdout, so that a script can keep it; what a person should know beside it.
fn say_new(made: &Value, as_json: bool) {
    if as_json {
        say(made.to_string());
        return;
    }
    aside(format!("new key {} of {}, shown once:", text(&made["key_id"]), text(&made["tenant"])));
    say(text(&made["key"]));
}

fn hash(tenant: &str, rights: &[Right]) -> Result<(), ProcessError> {
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
    say(block(tenant, rights, &secret));
    Ok(())
}

fn names(rights: &[Right]) -> Vec<String> {
    rights.iter().filter_map(|right| right.to_possible_value()).map(|value| value.get_name().to_owned()).collect()
}

/// One `[[keys]]` block.
fn block(tenant: &str, rights: &[Right], secret: &str) -> String {
    let names: Vec<String> = names(rights).into_iter().map(|name| toml::Value::from(name).to_string()).collect();
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
