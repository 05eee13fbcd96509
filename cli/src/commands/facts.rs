//! `memori facts list|withdraw|re-extract`: what extractors, models and prompts made, taking it back, having it made again.

use memori_service::ProcessError;
use serde_json::{Map, Value, json};

use crate::client::{Client, ClientFlags, segment};
use crate::output::{aside, say, table, text};

const PATH: &str = "/v1/admin/lineages";

#[derive(clap::Subcommand)]
pub(crate) enum Facts {
    /// How much each extractor, model and prompt made.
    List {
        /// Of this tenant, with a key that is bound to all.
        #[arg(long)]
        tenant: Option<String>,
        /// One lineage a line, as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Take back what a lineage made so far, in every place. The events stay; what is extracted later stands.
    Withdraw(Withdraw),
    /// Have events extracted again of which what counts was withdrawn.
    ReExtract(ReExtract),
}

/// Which lineages.
#[derive(clap::Args, Clone)]
pub(crate) struct Lineage {
    /// Of this tenant, with a key that is bound to all.
    #[arg(long)]
    tenant: Option<String>,
    /// The extractor's name, such as `llm`.
    #[arg(long)]
    extractor: Option<String>,
    /// The extractor's version.
    #[arg(long)]
    extractor_version: Option<String>,
    /// The model.
    #[arg(long)]
    model: Option<String>,
    /// The prompt's hash, as the list shows it.
    #[arg(long)]
    prompt: Option<String>,
    /// One generation; without it all.
    #[arg(long)]
    generation: Option<i32>,
}

impl Lineage {
    fn body(&self, dry_run: bool) -> Map<String, Value> {
        let mut body = Map::new();
        let texts = [
            ("tenant", &self.tenant),
            ("extractor", &self.extractor),
            ("version", &self.extractor_version),
            ("model", &self.model),
            ("prompt_hash", &self.prompt),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.as_str().into());
            }
        }
        if let Some(generation) = self.generation {
            body.insert("generation".to_owned(), generation.into());
        }
        body.insert("dry_run".to_owned(), dry_run.into());
        body
    }
}

#[derive(clap::Args)]
pub(crate) struct Withdraw {
    #[command(flatten)]
    lineage: Lineage,
    /// Say what it would concern, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Have the events extracted again, by whatever extracts now.
    #[arg(long = "re-extract")]
    re_extract: bool,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct ReExtract {
    #[command(flatten)]
    lineage: Lineage,
    /// Say how many would go, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(command: Facts) -> Result<(), ProcessError> {
    match command {
        Facts::List { tenant, json, client } => list(&Client::new(&client)?, tenant.as_deref(), json).await,
        Facts::Withdraw(flags) => withdraw(flags).await,
        Facts::ReExtract(flags) => {
            let client = Client::new(&flags.client)?;
            let done = again(&client, &flags.lineage, flags.dry_run).await?;
            say(if flags.json { done.to_string() } else { told(&done, flags.dry_run) });
            Ok(())
        }
    }
}

async fn list(client: &Client, tenant: Option<&str>, as_json: bool) -> Result<(), ProcessError> {
    let query = tenant.map(|tenant| format!("?tenant={}", segment(tenant))).unwrap_or_default();
    let answer = client.get(&format!("{PATH}{query}")).await?;
    let lineages: Vec<&Value> = answer["lineages"].as_array().into_iter().flatten().collect();
    if as_json {
        for lineage in lineages {
            say(lineage.to_string());
        }
        return Ok(());
    }
    if lineages.is_empty() {
        say("   nothing has been extracted");
        return Ok(());
    }
    let columns =
        ["generation", "extractor", "version", "model", "prompt_hash", "events", "withdrawn", "facts", "mentions", "last_at"];
    let rows: Vec<Vec<String>> =
        lineages.iter().map(|lineage| columns.iter().map(|name| text(&lineage[*name])).collect()).collect();
    say(table(&["gen", "extractor", "version", "model", "prompt", "events", "withdrawn", "facts", "mentions", "last"], &rows));
    Ok(())
}

async fn withdraw(flags: Withdraw) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let mut body = flags.lineage.body(flags.dry_run);
    let (mut entities, mut events, mut applied) = (0, 0, 0);
    let mut withdrawal_id = Value::Null;
    loop {
        let answer = client.post(&format!("{PATH}/withdraw"), &Value::Object(body.clone())).await?;
        let count = |name: &str| answer[name].as_u64().unwrap_or(0);
        entities += count("entities");
        events += count("events");
        applied += count("applied");
        if answer["withdrawal_id"].is_string() {
            withdrawal_id = answer["withdrawal_id"].clone();
            body.insert("withdrawal_id".to_owned(), withdrawal_id.clone());
        }
        if !answer["next_cursor"].is_string() {
            break;
        }
        body.insert("cursor".to_owned(), answer["next_cursor"].clone());
        aside(format!("   {events} events of {entities} entities"));
    }
    let again = match flags.re_extract {
        true if flags.dry_run => Some(json!({"events": events, "refused": 0, "reasons": {}})),
        true => Some(again(&client, &flags.lineage, false).await?),
        false => None,
    };
    if flags.json {
        let counts = json!({"dry_run": flags.dry_run, "withdrawal_id": withdrawal_id, "entities": entities, "events": events,
            "applied": applied, "re_extracted": again});
        say(counts.to_string());
        return Ok(());
    }
    if flags.dry_run {
        say(format!("would withdraw what was made of {events} events of {entities} entities"));
    } else {
        say(format!(
            "withdrawn is what was made of {events} events of {entities} entities (withdrawal {})",
            text(&withdrawal_id)
        ));
        if applied < entities {
            aside(format!("   of {} entities it is not applied yet; it stands on the log", entities - applied));
        }
    }
    if let Some(again) = again {
        say(told(&again, flags.dry_run));
    }
    Ok(())
}

/// Puts the events back, page after page.
async fn again(client: &Client, lineage: &Lineage, dry_run: bool) -> Result<Value, ProcessError> {
    let mut body = lineage.body(dry_run);
    let (mut events, mut refused) = (0, 0);
    let mut reasons: Map<String, Value> = Map::new();
    loop {
        let answer = client.post(&format!("{PATH}/re-extract"), &Value::Object(body.clone())).await?;
        events += answer["events"].as_u64().unwrap_or(0);
        refused += answer["refused"].as_u64().unwrap_or(0);
        for (reason, count) in answer["reasons"].as_object().into_iter().flatten() {
            let before = reasons.get(reason).and_then(Value::as_u64).unwrap_or(0);
            reasons.insert(reason.clone(), (before + count.as_u64().unwrap_or(0)).into());
        }
        if !answer["next_cursor"].is_string() {
            return Ok(json!({"dry_run": dry_run, "events": events, "refused": refused, "reasons": reasons}));
        }
        body.insert("cursor".to_owned(), answer["next_cursor"].clone());
    }
}

fn told(done: &Value, dry_run: bool) -> String {
    let verb = if dry_run { "would be extracted again" } else { "are extracted again" };
    let reasons: Vec<String> =
        done["reasons"].as_object().into_iter().flatten().map(|(reason, count)| format!("{count} {reason}")).collect();
    let not = if reasons.is_empty() { String::new() } else { format!("; not: {}", reasons.join(", ")) };
    format!("{} events {verb}{not}", text(&done["events"]))
}
