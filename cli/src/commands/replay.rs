//! `memori replay start|list|show|pause|resume|cancel|diff|cut-over|roll-back|drop`: extract history again, look, switch, switch back.

use std::collections::BTreeMap;
use std::time::Duration;

use memori_service::ProcessError;
use serde_json::{Value, json};

use super::tenant::{listed, pages};
use crate::client::{Client, ClientFlags, segment};
use crate::output::{aside, say, table, text};

/// Entities of one page of a comparison.
const PAGE: usize = 200;
/// Between two looks of `--wait`.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The kinds that a comparison counts, as its heading.
const KINDS: [&str; 5] = ["fact", "instruction", "attribute", "summary", "timeline"];

#[derive(clap::Subcommand)]
pub(crate) enum Replay {
    /// Extract history again into a generation beside the one that is read.
    Start(Box<Start>),
    /// Replays, the latest first.
    List(List),
    /// One replay: how far it is, and who reads what it made.
    Show(Show),
    /// Stop for now.
    Pause(One),
    /// Go on where it stood.
    Resume(One),
    /// Stop for good; what it made is there until it is dropped.
    Cancel(One),
    /// What the generation knows that another does not: counts, and samples with their evidence.
    Diff(Diff),
    /// Let tenants read the generation.
    CutOver(CutOver),
    /// Let tenants read again what they read before.
    RollBack(OfTenants),
    /// Free what a generation holds that nobody reads.
    Drop(OfTenants),
}

#[derive(clap::Args)]
pub(crate) struct Start {
    /// Whose history; more than one by repeating it, everybody's by `*`. Without it, the key's own tenant.
    #[arg(long = "tenant")]
    tenants: Vec<String>,
    /// Only of these entities; what is of others is carried over as it is.
    #[arg(long = "entity")]
    entities: Vec<String>,
    /// Only what happened then or later (RFC 3339, or a day).
    #[arg(long)]
    from: Option<String>,
    /// Only what happened before (RFC 3339, or a day).
    #[arg(long)]
    until: Option<String>,
    /// `configured` (as the workers are), `builtin`, `llm`, or `keep`: carry all of it over, with vectors of the configured model.
    #[arg(long)]
    extractor: Option<String>,
    /// For `llm`: the model.
    #[arg(long)]
    model: Option<String>,
    /// For `llm`: the one of the workers' endpoints that is asked.
    #[arg(long)]
    endpoint: Option<String>,
    /// For `llm`: what is worth remembering, in words.
    #[arg(long)]
    instructions: Option<String>,
    /// For `llm`: a topic to look for, as NAME or NAME=DESCRIPTION.
    #[arg(long = "category")]
    categories: Vec<String>,
    /// For `llm`: events of one session in one call, at most.
    #[arg(long)]
    window_events: Option<u32>,
    /// Calls to the extractor at a time in each worker, at most.
    #[arg(long)]
    max_concurrency: Option<u32>,
    /// Tokens per minute, at most.
    #[arg(long)]
    tokens_per_minute: Option<u64>,
    /// Pause once so much was spent, in the currency of the workers' prices.
    #[arg(long)]
    cost_cap: Option<f64>,
    /// The generation that what is not selected is carried over from; without it, the one that is read.
    #[arg(long)]
    base: Option<i32>,
    /// Only say what it would come to.
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// Replays at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// One replay a line, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct One {
    /// Its number.
    generation: i32,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Its number.
    generation: i32,
    /// Wait until all of history is extracted, or it does not run any more.
    #[arg(long)]
    wait: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Diff {
    /// Its number.
    generation: i32,
    /// The generation to compare it with; without it, its base.
    #[arg(long)]
    against: Option<i32>,
    /// Whose; needed where the replay is of several tenants.
    #[arg(long)]
    tenant: Option<String>,
    /// Samples to show, at most.
    #[arg(long, default_value_t = 10)]
    samples: usize,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct CutOver {
    /// Its number.
    generation: i32,
    /// Whose; without it, all of the replay's.
    #[arg(long = "tenant")]
    tenants: Vec<String>,
    /// Even where something that is read now is not extracted there yet.
    #[arg(long)]
    force: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct OfTenants {
    /// Its number.
    generation: i32,
    /// Whose; without it, all of the replay's.
    #[arg(long = "tenant")]
    tenants: Vec<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(command: Replay) -> Result<(), ProcessError> {
    match command {
        Replay::Start(flags) => start(*flags).await,
        Replay::List(flags) => {
            let client = Client::new(&flags.client)?;
            let (replays, more) = pages(&client, "/v1/admin/replays", "replays", "", flags.limit).await?;
            let row = |one: &Value| {
                vec![
                    text(&one["generation"]),
                    text(&one["base"]),
                    text(&one["state"]),
                    extractor(one),
                    tenants(&one["tenants"]),
                    text(&one["created_at"]),
                    text(&one["reason"]),
                ]
            };
            let heading = ["generation", "base", "state", "extractor", "tenants", "started", "why"];
            listed(&replays, more, flags.json, "no replays", &heading, row);
            Ok(())
        }
        Replay::Show(flags) => show(flags).await,
        Replay::Pause(flags) => act(&flags.client, flags.generation, "pause", &json!({}), flags.json).await,
        Replay::Resume(flags) => act(&flags.client, flags.generation, "resume", &json!({}), flags.json).await,
        Replay::Cancel(flags) => act(&flags.client, flags.generation, "cancel", &json!({}), flags.json).await,
        Replay::Diff(flags) => diff(flags).await,
        Replay::CutOver(flags) => {
            let body = json!({"tenants": flags.tenants, "force": flags.force});
            act(&flags.client, flags.generation, "cut-over", &body, flags.json).await
        }
        Replay::RollBack(flags) => {
            let body = json!({"tenants": flags.tenants});
            act(&flags.client, flags.generation, "roll-back", &body, flags.json).await
        }
        Replay::Drop(flags) => {
            let body = json!({"tenants": flags.tenants});
            act(&flags.client, flags.generation, "drop", &body, flags.json).await
        }
    }
}

/// A day begins at midnight UTC.
fn time(text: Option<String>) -> Option<String> {
    text.map(|text| if text.len() == 10 { format!("{text}T00:00:00Z") } else { text })
}

async fn start(flags: Start) -> Result<(), ProcessError> {
    let category = |text: &String| match text.split_once('=') {
        Some((name, description)) => json!({"name": name, "description": description}),
        None => json!({"name": text}),
    };
    #[expect(clippy::cast_possible_truncation, reason = "what an operator may spend is far below 2^53 millionths")]
    let cost_micros = flags.cost_cap.map(|cap| (cap * 1e6).round() as i64);
    let mut body = json!({
        "tenants": flags.tenants,
        "entities": flags.entities,
        "categories": flags.categories.iter().map(category).collect::<Vec<_>>(),
    });
    let given = [
        ("from", json!(time(flags.from))),
        ("until", json!(time(flags.until))),
        ("extractor", json!(flags.extractor)),
        ("model", json!(flags.model)),
        ("endpoint", json!(flags.endpoint)),
        ("instructions", json!(flags.instructions)),
        ("window_events", json!(flags.window_events)),
        ("max_concurrency", json!(flags.max_concurrency)),
        ("tokens_per_minute", json!(flags.tokens_per_minute)),
        ("cost_micros", json!(cost_micros)),
        ("base", json!(flags.base)),
    ];
    for (name, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
        body[name] = value;
    }
    let answer = Client::new(&flags.client)?
        .post(if flags.dry_run { "/v1/admin/replays/estimate" } else { "/v1/admin/replays" }, &body)
        .await?;
    if flags.json {
        say(answer.to_string());
    } else if flags.dry_run {
        for name in [
            "tenants",
            "extractor",
            "events",
            "messages",
            "carried_events",
            "calls",
            "tokens_in",
            "tokens_out",
            "cost",
            "seconds",
        ] {
            say(format!("{:20} {}", name.replace('_', " "), text(&answer[name])));
        }
        let how = if answer["tokens_by"] == "average" { "what calls have taken so far" } else { "the words' lengths" };
        aside(format!("tokens are estimated by {how}; nothing was started"));
    } else {
        say(format!("replaying into generation {}; `memori replay show {0}` tells how far it is", text(&answer["generation"])));
    }
    Ok(())
}

fn extractor(replay: &Value) -> String {
    let of = &replay["extraction"];
    let name = of["extractor"].as_str().unwrap_or("configured");
    match of["model"].as_str() {
        Some(model) => format!("{name} {model}"),
        None => name.to_owned(),
    }
}

fn tenants(named: &Value) -> String {
    let named: Vec<&str> = named.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match &named[..] {
        ["*"] => "all".to_owned(),
        [first, second, _, ..] => format!("{first}, {second} and {} more", named.len() - 2),
        few => few.join(", "),
    }
}

fn money(micros: &Value) -> String {
    let micros = micros.as_i64().unwrap_or(0);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

async fn show(flags: Show) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let path = format!("/v1/admin/replays/{}", flags.generation);
    let shown = loop {
        let shown = client.get(&path).await?;
        let progress = &shown["progress"];
        let done = progress["done"].as_i64() >= progress["events"].as_i64();
        if !flags.wait || done || shown["state"] != "running" {
            break shown;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    if flags.json {
        say(shown.to_string());
        return Ok(());
    }
    let line = |name: &str, value: String| say(format!("{name:20} {value}"));
    line("generation", text(&shown["generation"]));
    line("base", text(&shown["base"]));
    line("state", format!("{} {}", text(&shown["state"]), text(&shown["reason"])).trim_end().to_owned());
    line("extractor", extractor(&shown));
    line("tenants", tenants(&shown["tenants"]));
    line("started", text(&shown["created_at"]));
    let progress = &shown["progress"];
    line("events", format!("{} of {}", text(&progress["done"]), text(&progress["events"])));
    line("dead-lettered", text(&progress["dead_lettered"]));
    line("events per second", text(&progress["events_per_second"]));
    line("seconds left", text(&progress["eta_seconds"]));
    line("tokens in, out", format!("{}, {}", text(&shown["spent"]["tokens_in"]), text(&shown["spent"]["tokens_out"])));
    line("cost", money(&shown["spent"]["cost_micros"]));
    let standings = shown["standings"].as_array().cloned().unwrap_or_default();
    if !standings.is_empty() {
        let row = |one: &Value| {
            let of = |name: &str| text(&one[name]);
            vec![of("tenant"), of("active"), of("before"), of("cut_over_at"), of("dropped_at"), of("freed_at")]
        };
        let rows: Vec<Vec<String>> = standings.iter().map(row).collect();
        say(table(&["tenant", "read", "before", "since", "dropped", "freed"], &rows));
    }
    Ok(())
}

async fn act(client: &ClientFlags, generation: i32, act: &str, body: &Value, as_json: bool) -> Result<(), ProcessError> {
    let done = Client::new(client)?.post(&format!("/v1/admin/replays/{generation}/{act}"), body).await?;
    if as_json {
        say(done.to_string());
    } else if let Some(state) = done["state"].as_str() {
        say(format!("generation {generation} is {state}"));
    } else {
        for one in done["tenants"].as_array().into_iter().flatten() {
            let tenant = text(&one["tenant"]);
            match one["active"].as_i64() {
                Some(active) => {
                    let trailing = match one["trailing_entities"].as_i64() {
                        Some(entities @ 1..) => format!(" ({entities} entities follow when what is on its way is there)"),
                        _ => String::new(),
                    };
                    let took_ms = one["took_ms"].as_f64().unwrap_or(0.0);
                    say(format!("{tenant} reads generation {active}, after {took_ms:.1} ms{trailing}"))
                }
                None => say(format!("generation {generation} is dropped of {tenant}")),
            }
        }
    }
    Ok(())
}

/// Adds up pages, so that a comparison of any size is held as its counts and a few samples.
async fn diff(flags: Diff) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let mut query = format!("limit={PAGE}");
    if let Some(against) = flags.against {
        query.push_str(&format!("&against={against}"));
    }
    if let Some(tenant) = &flags.tenant {
        query.push_str(&format!("&tenant={}", segment(tenant)));
    }
    let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
    let (mut samples, mut entities, mut after) = (Vec::new(), 0, String::new());
    let last = loop {
        let wanted = flags.samples.saturating_sub(samples.len()).min(100);
        let path = format!("/v1/admin/replays/{}/diff?{query}&samples={wanted}{after}", flags.generation);
        let mut page = client.get(&path).await?;
        for (difference, of) in page["counts"].as_object().into_iter().flatten() {
            for (kind, n) in of.as_object().into_iter().flatten() {
                *counts.entry((difference.clone(), kind.clone())).or_default() += n.as_i64().unwrap_or(0);
            }
        }
        entities += page["entities"].as_i64().unwrap_or(0);
        samples.extend(page["samples"].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(cursor) => after = format!("&cursor={cursor}"),
            None => break page,
        }
    };
    let of = |difference: &str, kind: &str| counts.get(&(difference.to_owned(), kind.to_owned())).copied().unwrap_or(0);
    let names = ["same", "gained", "lost", "changed"];
    if flags.json {
        let of_kinds = |name: &str| -> Value {
            KINDS.iter().map(|kind| ((*kind).to_owned(), json!(of(name, kind)))).collect::<serde_json::Map<_, _>>().into()
        };
        let counts: serde_json::Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), of_kinds(name))).collect();
        let answer = json!({
            "generation": last["generation"], "against": last["against"], "tenant": last["tenant"],
            "entities": entities, "counts": counts, "samples": samples,
        });
        say(answer.to_string());
        return Ok(());
    }
    say(format!(
        "generation {} of {} over generation {}, {entities} entities",
        text(&last["generation"]),
        text(&last["tenant"]),
        text(&last["against"])
    ));
    let row =
        |name: &&str| std::iter::once((*name).to_owned()).chain(KINDS.iter().map(|kind| of(name, kind).to_string())).collect();
    let heading: Vec<&str> = std::iter::once("").chain(KINDS).collect();
    say(table(&heading, &names.iter().map(row).collect::<Vec<_>>()));
    for sample in &samples {
        say(format!("\n{} {} of {}", text(&sample["difference"]), text(&sample["kind"]), text(&sample["entity_id"])));
        for (sign, side) in [("-", &sample["before"]), ("+", &sample["after"])] {
            if side.is_null() {
                continue;
            }
            say(format!("  {sign} {}", text(&side["content"])));
            for evidence in side["evidence"].as_array().into_iter().flatten() {
                say(format!("      {}: {}", text(&evidence["message_id"]), text(&evidence["content"])));
            }
        }
    }
    Ok(())
}
