//! `memori tenant list|create|show|rename|suspend|resume|usage|audit`: who uses the platform, how much, and who changed what.

use memori_service::ProcessError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, ClientFlags, segment};
use crate::output::{aside, say, table, text};

/// Items of one page; the contract allows 1,000.
const PAGE: usize = 500;

#[derive(clap::Subcommand)]
pub(crate) enum Tenant {
    /// Tenants by name.
    List(List),
    /// Make a tenant.
    Create(Create),
    /// One tenant with its quotas.
    Show(One),
    /// Give a tenant another name for people.
    Rename(Rename),
    /// Let none of its keys in, until it is resumed; what it stored stays.
    Suspend(One),
    /// Let its keys in again.
    Resume(One),
    /// What was used, day by day: of one tenant, or of all.
    Usage(Usage),
    /// Who administered what, the newest first.
    Audit(Audit),
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// Tenants at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// One tenant a line, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// Its name, for good: 1 to 128 printable ASCII characters.
    tenant: String,
    /// Its name for people.
    #[arg(long)]
    name: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct One {
    /// Which.
    tenant: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Rename {
    /// Which.
    tenant: String,
    /// Its name for people.
    name: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Usage {
    /// Which; without one, all.
    tenant: Option<String>,
    /// The first day, such as 2026-03-01 (UTC); without it, 30 days.
    #[arg(long)]
    from: Option<String>,
    /// The last day; without it, today.
    #[arg(long)]
    to: Option<String>,
    /// As CSV, for a spreadsheet.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Audit {
    /// What was done to this tenant; without one, to all that the key administers.
    tenant: Option<String>,
    /// Then or later (RFC 3339).
    #[arg(long)]
    since: Option<String>,
    /// Before then (RFC 3339).
    #[arg(long)]
    until: Option<String>,
    /// Acts at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// One act a line, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(command: Tenant) -> Result<(), ProcessError> {
    match command {
        Tenant::List(flags) => {
            let client = Client::new(&flags.client)?;
            let (tenants, more) = pages(&client, "/v1/admin/tenants", "tenants", "", flags.limit).await?;
            let row = |one: &Value| vec![text(&one["tenant"]), text(&one["name"]), text(&one["created_at"]), state(one)];
            listed(&tenants, more, flags.json, "no tenants", &["tenant", "name", "created", "state"], row);
            Ok(())
        }
        Tenant::Create(flags) => {
            let body = json!({"tenant": flags.tenant, "name": flags.name});
            let made = Client::new(&flags.client)?.post("/v1/admin/tenants", &body).await?;
            say(if flags.json { made.to_string() } else { format!("made the tenant {}", text(&made["tenant"])) });
            Ok(())
        }
        Tenant::Show(flags) => {
            let client = Client::new(&flags.client)?;
            let path = format!("/v1/admin/tenants/{}", segment(&flags.tenant));
            let mut shown = client.get(&path).await?;
            let standing = client.get(&format!("{path}/quotas")).await?;
            shown["quotas"] = standing["quotas"].clone();
            shown["used"] = standing["used"].clone();
            if flags.json {
                say(shown.to_string());
                return Ok(());
            }
            say(format!("{:20} {}", "tenant", text(&shown["tenant"])));
            say(format!("{:20} {}", "name", text(&shown["name"])));
            say(format!("{:20} {}", "created", text(&shown["created_at"])));
            say(format!("{:20} {}", "state", state(&shown)));
            super::quota::say_quotas(&standing);
            Ok(())
        }
        Tenant::Rename(flags) => change(&flags.client, &flags.tenant, &json!({"name": flags.name}), flags.json).await,
        Tenant::Suspend(flags) => change(&flags.client, &flags.tenant, &json!({"suspended": true}), flags.json).await,
        Tenant::Resume(flags) => change(&flags.client, &flags.tenant, &json!({"suspended": false}), flags.json).await,
        Tenant::Usage(flags) => usage(flags).await,
        Tenant::Audit(flags) => {
            let client = Client::new(&flags.client)?;
            let query = query(&[("tenant", &flags.tenant), ("since", &flags.since), ("until", &flags.until)]);
            let (acts, more) = pages(&client, "/v1/admin/audit", "acts", &query, flags.limit).await?;
            let row = |act: &Value| {
                let of = |name: &str| text(&act[name]);
                vec![of("at"), of("actor"), of("act"), of("tenant"), of("subject"), of("detail")]
            };
            let heading = ["at", "by", "act", "tenant", "subject", "detail"];
            listed(&acts, more, flags.json, "nothing was administered", &heading, row);
            Ok(())
        }
    }
}

fn state(tenant: &Value) -> String {
    match tenant["suspended_at"].as_str() {
        Some(at) => format!("suspended since {at}"),
        None => "active".to_owned(),
    }
}

async fn change(client: &ClientFlags, tenant: &str, body: &Value, as_json: bool) -> Result<(), ProcessError> {
    let path = format!("/v1/admin/tenants/{}", segment(tenant));
    let shown = Client::new(client)?.call(Method::PATCH, &path, Some(body)).await?;
    say(if as_json { shown.to_string() } else { format!("{} is {}", text(&shown["tenant"]), state(&shown)) });
    Ok(())
}

async fn usage(flags: Usage) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let path = match &flags.tenant {
        Some(tenant) => format!("/v1/admin/tenants/{}/usage", segment(tenant)),
        None => "/v1/admin/usage".to_owned(),
    };
    let query = query(&[("from", &flags.from), ("to", &flags.to)]);
    if flags.csv {
        let csv = client.text(&format!("{path}?format=csv{query}")).await?;
        say(csv.trim_end());
        return Ok(());
    }
    let answer = client.get(&format!("{path}?format=json{query}")).await?;
    if flags.json {
        say(answer.to_string());
        return Ok(());
    }
    let lines: Vec<Value> = answer["usage"].as_array().cloned().unwrap_or_default();
    let row = |line: &Value| {
        let of = |name: &str| text(&line[name]);
        let cost = line["cost_micros"].as_i64().unwrap_or(0);
        let cost = format!("{}.{:06}", cost / 1_000_000, cost % 1_000_000);
        vec![of("day"), of("tenant"), of("events"), of("stored_facts"), of("tokens_in"), of("tokens_out"), cost]
    };
    let heading = ["day", "tenant", "events", "facts", "tokens in", "tokens out", "cost"];
    listed(&lines, false, false, "nothing was used", &heading, row);
    Ok(())
}

/// `&name=value` of those that are given.
pub(super) fn query(named: &[(&str, &Option<String>)]) -> String {
    let pair = |(name, value): &(&str, &Option<String>)| value.as_deref().map(|value| format!("&{name}={}", segment(value)));
    named.iter().filter_map(pair).collect()
}

/// Items of a listing, page by page, `limit` at most; and whether there are more.
pub(super) async fn pages(
    client: &Client,
    path: &str,
    field: &str,
    query: &str,
    limit: usize,
) -> Result<(Vec<Value>, bool), ProcessError> {
    let mut items: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let wanted = PAGE.min(limit.saturating_sub(items.len()).max(1));
        let page = client.get(&format!("{path}?limit={wanted}{query}{after}")).await?;
        items.extend(page[field].as_array().into_iter().flatten().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) if items.len() < limit => after = format!("&cursor={}", segment(cursor)),
            cursor => return Ok((items, cursor.is_some())),
        }
    }
}

/// A table, or one item a line.
pub(super) fn listed(
    items: &[Value],
    more: bool,
    as_json: bool,
    none: &str,
    heading: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) {
    if as_json {
        items.iter().for_each(|item| say(item.to_string()));
    } else if items.is_empty() {
        say(format!("   {none}"));
    } else {
        say(table(heading, &items.iter().map(row).collect::<Vec<_>>()));
    }
    if more {
        aside(format!("there are more than these {}: raise --limit", items.len()));
    }
}
