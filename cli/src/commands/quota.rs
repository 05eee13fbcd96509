//! `memori quota show|set`: what a tenant may use.

use memori_service::ProcessError;
use reqwest::Method;
use serde_json::Value;

use crate::client::{Client, ClientFlags, segment};
use crate::output::{say, text};

#[derive(clap::Subcommand)]
pub(crate) enum Quota {
    /// What a tenant may use, and how it stands.
    Show(Show),
    /// Change some of them; those that are not named stay.
    Set(Set),
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Whose.
    tenant: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

/// Each takes a number, or `none` for no bound.
#[derive(clap::Args)]
pub(crate) struct Set {
    /// Whose.
    tenant: String,
    /// Events taken in a second, by all front doors together.
    #[arg(long)]
    events_per_second: Option<Bound>,
    /// Queries answered in a second.
    #[arg(long)]
    recalls_per_second: Option<Bound>,
    /// Facts that it may store.
    #[arg(long)]
    stored_facts: Option<Bound>,
    /// Tokens of calls to a model on one day.
    #[arg(long)]
    llm_tokens_per_day: Option<Bound>,
    /// Its share of a front door's spool, in percent.
    #[arg(long)]
    spool_percent: Option<Bound>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound(Option<u64>);

impl std::str::FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|number| Self(Some(number))).map_err(|_| format!("{text:?} is neither a whole number nor `none`"))
    }
}

const QUOTAS: [&str; 5] = ["events_per_second", "recalls_per_second", "stored_facts", "llm_tokens_per_day", "spool_percent"];

pub(crate) async fn run(command: Quota) -> Result<(), ProcessError> {
    match command {
        Quota::Show(flags) => {
            let standing = Client::new(&flags.client)?.get(&path(&flags.tenant)).await?;
            if flags.json { say(standing.to_string()) } else { say_quotas(&standing) }
        }
        Quota::Set(flags) => {
            let wanted = [
                flags.events_per_second,
                flags.recalls_per_second,
                flags.stored_facts,
                flags.llm_tokens_per_day,
                flags.spool_percent,
            ];
            if wanted.iter().all(Option::is_none) {
                return Err(ProcessError::Usage("name at least one quota, such as --events-per-second 100".to_owned()));
            }
            let client = Client::new(&flags.client)?;
            let mut quotas = client.get(&path(&flags.tenant)).await?["quotas"].take();
            for (name, wanted) in QUOTAS.into_iter().zip(wanted) {
                if let Some(Bound(bound)) = wanted {
                    quotas[name] = bound.map_or(Value::Null, Value::from);
                }
            }
            let standing = client.call(Method::PUT, &path(&flags.tenant), Some(&quotas)).await?;
            if flags.json { say(standing.to_string()) } else { say_quotas(&standing) }
        }
    }
    Ok(())
}

fn path(tenant: &str) -> String {
    format!("/v1/admin/tenants/{}/quotas", segment(tenant))
}

/// Quotas one a line, with what is used of those that add up.
pub(super) fn say_quotas(standing: &Value) {
    for name in QUOTAS {
        let bound = &standing["quotas"][name];
        let bound = if bound.is_null() { "none".to_owned() } else { text(bound) };
        let used = match name {
            "stored_facts" => format!(" ({} stored)", text(&standing["used"]["stored_facts"])),
            "llm_tokens_per_day" => format!(" ({} today)", text(&standing["used"]["llm_tokens_today"])),
            _ => String::new(),
        };
        say(format!("{name:20} {bound}{used}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_number_or_none() {
        assert_eq!("7".parse(), Ok(Bound(Some(7))));
        assert_eq!("none".parse(), Ok(Bound(None)));
        assert!("-1".parse::<Bound>().is_err() && "".parse::<Bound>().is_err() && "all".parse::<Bound>().is_err());
    }
}
