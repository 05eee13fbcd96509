//! `memori dead-letters list|show|redrive`: what was given up, why, and putting it back.

use std::collections::BTreeMap;
use std::time::Duration;

use memori_service::ProcessError;
use serde_json::{Map, Value, json};

use crate::client::{Client, ClientFlags, segment};
use crate::output::{aside, say, table, text};

const PATH: &str = "/v1/admin/dead-letters";
/// Letters of one page; the contract allows 1,000.
const PAGE: u64 = 200;
/// Letters of one redrive; the contract allows 1,000. Few, so that progress is seen.
const REDRIVEN_AT_A_TIME: u64 = 200;
/// Refused letters that are shown; all are counted.
const SHOWN_REFUSALS: usize = 20;
/// How often a redrive is tried again that could not go on, and how long after.
const MOST_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(2);

#[derive(clap::Subcommand)]
pub(crate) enum DeadLetters {
    /// The newest first, without what was said.
    List(List),
    /// One letter with the record that it is about.
    Show(Show),
    /// Put events back on the log: by ids, or all that the filters find. Repeating it is harmless.
    Redrive(Redrive),
}

/// Which letters.
#[derive(clap::Args, Default)]
pub(crate) struct Filters {
    /// Of this tenant, with a key that is bound to all.
    #[arg(long)]
    tenant: Option<String>,
    /// Given up for this: poison, unknown_record, sealed, invalid_output, refused, too_large, quota, expired.
    #[arg(long)]
    class: Option<String>,
    /// Whose events stand so now: open (may be redriven), superseded, applied, erased, unreadable.
    #[arg(long)]
    state: Option<String>,
    /// About this entity.
    #[arg(long)]
    entity: Option<String>,
    /// In which this event ends.
    #[arg(long)]
    event: Option<String>,
    /// Given up then or later (RFC 3339).
    #[arg(long)]
    since: Option<String>,
    /// Given up before then (RFC 3339).
    #[arg(long)]
    until: Option<String>,
    /// Given up by this generation.
    #[arg(long)]
    generation: Option<i32>,
    /// Whose record stands in this lane: live or backfill.
    #[arg(long)]
    lane: Option<String>,
}

impl Filters {
    fn named(&self) -> Vec<(&'static str, Value)> {
        let texts = [
            ("tenant", &self.tenant),
            ("class", &self.class),
            ("state", &self.state),
            ("entity_id", &self.entity),
            ("event_id", &self.event),
            ("since", &self.since),
            ("until", &self.until),
            ("lane", &self.lane),
        ];
        let mut named: Vec<(&'static str, Value)> =
            texts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?.into()))).collect();
        named.extend(self.generation.map(|generation| ("generation", generation.into())));
        named
    }

    fn query(&self) -> String {
        let pair = |(name, value): (&str, Value)| match value {
            Value::String(text) => format!("&{name}={}", segment(&text)),
            other => format!("&{name}={other}"),
        };
        self.named().into_iter().map(pair).collect()
    }

    fn body(&self) -> Value {
        Value::Object(self.named().into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
    }
}

#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    filters: Filters,
    /// Letters at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// One letter a line, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Its id, as the list gives it.
    id: String,
    /// Key and payload in base64, byte for byte.
    #[arg(long)]
    raw: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(clap::Args)]
pub(crate) struct Redrive {
    /// Their ids, as the list gives them.
    ids: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// All that there are, where neither ids nor filters narrow it.
    #[arg(long)]
    all: bool,
    /// Letters looked at, at most.
    #[arg(long)]
    limit: Option<u64>,
    /// Into the backfill lane, whatever lane they were in; without it each goes where it was.
    #[arg(long = "to-lane", value_name = "LANE")]
    to_lane: Option<String>,
    /// Say what would go, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print what came of each letter as JSON, one a line, and then the counts.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(command: DeadLetters) -> Result<(), ProcessError> {
    match command {
        DeadLetters::List(flags) => list(flags).await,
        DeadLetters::Show(flags) => show(flags).await,
        DeadLetters::Redrive(flags) => redrive(flags).await,
    }
}

async fn list(flags: List) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let mut letters: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    let more = loop {
        let limit = PAGE.min((flags.limit - letters.len()).max(1) as u64);
        let after = cursor.as_deref().map(|cursor| format!("&cursor={}", segment(cursor))).unwrap_or_default();
        let page = client.get(&format!("{PATH}?limit={limit}{}{after}", flags.filters.query())).await?;
        letters.extend(page["dead_letters"].as_array().into_iter().flatten().cloned());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || letters.len() >= flags.limit {
            break cursor.is_some();
        }
    };
    if flags.json {
        for letter in &letters {
            say(letter.to_string());
        }
        return Ok(());
    }
    if letters.is_empty() {
        say("   no dead letters");
        return Ok(());
    }
    let row = |letter: &Value| {
        let events: Vec<&str> =
            letter["events"].as_array().into_iter().flatten().filter_map(|event| event["event_id"].as_str()).collect();
        let of = |name: &str| text(&letter[name]);
        vec![of("failed_at"), of("state"), of("class"), of("attempts"), of("entity_id"), events.join(" "), of("id"), of("reason")]
    };
    let rows: Vec<Vec<String>> = letters.iter().map(row).collect();
    say(table(&["given up", "state", "class", "tries", "entity", "event", "id", "reason"], &rows));
    if more {
        aside(format!("there are more than these {}: narrow it, or raise --limit", letters.len()));
    }
    Ok(())
}

async fn show(flags: Show) -> Result<(), ProcessError> {
    let raw = if flags.raw { "?raw=true" } else { "" };
    let letter = Client::new(&flags.client)?.get(&format!("{PATH}/{}{raw}", segment(&flags.id))).await?;
    if flags.json {
        say(letter.to_string());
        return Ok(());
    }
    for name in ["id", "state", "class", "reason", "attempts", "failed_at", "tenant", "entity_id", "generation", "lane"] {
        if !letter[name].is_null() {
            say(format!("{name:12} {}", text(&letter[name])));
        }
    }
    let source = &letter["source"];
    say(format!(
        "{:12} {} partition {} offset {}",
        "record",
        text(&source["topic"]),
        text(&source["partition"]),
        text(&source["offset"])
    ));
    for event in letter["events"].as_array().into_iter().flatten() {
        say(format!("{:12} {} ({})", "event", text(&event["event_id"]), text(&event["state"])));
    }
    let payload = &letter["payload"];
    if payload.is_null() {
        say(format!("{:12} erased", "payload"));
        return Ok(());
    }
    say(format!("{:12} {} bytes, {}", "payload", text(&letter["payload_bytes"]), text(&payload["format"])));
    say(match &payload["value"] {
        Value::String(bytes) => bytes.clone(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    });
    Ok(())
}

/// What came of all calls so far.
#[derive(Default)]
struct Counts {
    redriven: u64,
    refused: u64,
    reasons: BTreeMap<String, u64>,
    shown: usize,
}

impl Counts {
    fn add(&mut self, answer: &Value) {
        self.redriven += answer["redriven"].as_u64().unwrap_or(0);
        self.refused += answer["refused"].as_u64().unwrap_or(0);
        for (reason, count) in answer["reasons"].as_object().into_iter().flatten() {
            *self.reasons.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }

    fn looked_at(&self) -> u64 {
        self.redriven + self.refused
    }

    fn show_refusals(&mut self, answer: &Value) {
        let refused = answer["results"].as_array().into_iter().flatten().filter(|result| result["result"] == "refused");
        for result in refused {
            self.shown += 1;
            match self.shown {
                n if n <= SHOWN_REFUSALS => aside(format!("{}: {}", text(&result["id"]), text(&result["detail"]))),
                n if n == SHOWN_REFUSALS + 1 => aside("more were refused; they are counted"),
                _ => {}
            }
        }
    }

    fn in_words(&self, dry_run: bool) -> String {
        let verb = if dry_run { "would be redriven" } else { "redriven" };
        let mut words = format!("{} {verb}, {} refused", self.redriven, self.refused);
        if !self.reasons.is_empty() {
            let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            words.push_str(&format!(" ({})", reasons.join(", ")));
        }
        words
    }
}

async fn redrive(flags: Redrive) -> Result<(), ProcessError> {
    let filter = flags.filters.body();
    let narrowed = filter.as_object().is_some_and(|filter| !filter.is_empty());
    match (flags.ids.is_empty(), narrowed, flags.all) {
        (true, false, false) => {
            return Err(ProcessError::Usage("name dead letters by their ids, narrow them by filters, or say --all".to_owned()));
        }
        (false, true, _) | (false, _, true) => {
            return Err(ProcessError::Usage("ids go without filters and without --all".to_owned()));
        }
        _ => {}
    }
    let client = Client::new(&flags.client)?;
    let mut counts = Counts::default();
    let (mut ids, mut cursor) = (flags.ids.clone(), None::<String>);
    let mut tries = 0;
    loop {
        let left =
            flags.limit.map_or(REDRIVEN_AT_A_TIME, |limit| limit.saturating_sub(counts.looked_at()).min(REDRIVEN_AT_A_TIME));
        if left == 0 {
            break;
        }
        let mut body = json!({"limit": left, "dry_run": flags.dry_run});
        if let Some(lane) = &flags.to_lane {
            body["to_lane"] = lane.as_str().into();
        }
        let now: Vec<String> = ids.iter().take(usize::try_from(left).unwrap_or(usize::MAX)).cloned().collect();
        if flags.ids.is_empty() {
            body["filter"] = filter.clone();
            if let Some(cursor) = &cursor {
                body["cursor"] = cursor.as_str().into();
            }
        } else {
            body["ids"] = json!(now);
        }
        let answer = match client.post(&format!("{PATH}/redrive"), &body).await {
            Ok(answer) => answer,
            // Nothing went: the log or the writer is away, or others redrive as fast as may be.
            Err(ProcessError::Unreachable(why)) if tries < MOST_TRIES => {
                tries += 1;
                aside(format!("{why}; trying again"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => {
                aside(counts.in_words(flags.dry_run));
                return Err(error);
            }
        };
        let before = counts.looked_at();
        counts.add(&answer);
        tries = if counts.looked_at() > before { 0 } else { tries + 1 };
        if flags.json {
            answer["results"].as_array().into_iter().flatten().for_each(|result| say(result.to_string()));
        } else {
            counts.show_refusals(&answer);
        }
        let stopped = !answer["stopped"].is_null();
        let done = if flags.ids.is_empty() {
            let next = answer["next_cursor"].as_str().map(str::to_owned);
            let done = next.is_none() && !stopped;
            cursor = next.or(cursor);
            done
        } else {
            let left: Vec<String> =
                answer["left"].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect();
            ids = left.into_iter().chain(ids.into_iter().skip(now.len())).collect();
            ids.is_empty()
        };
        if done {
            break;
        }
        if tries > MOST_TRIES {
            aside(counts.in_words(flags.dry_run));
            return Err(ProcessError::Unreachable(text(&answer["stopped"])));
        }
        aside(counts.in_words(flags.dry_run));
    }
    if flags.json {
        say(json!({"dry_run": flags.dry_run, "redriven": counts.redriven, "refused": counts.refused, "reasons": counts.reasons})
            .to_string());
    } else {
        say(counts.in_words(flags.dry_run));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_the_same_in_a_query_and_in_a_body() {
        let filters =
            Filters { class: Some("refused".into()), entity: Some("a&b".into()), generation: Some(2), ..Filters::default() };
        assert_eq!(filters.query(), "&class=refused&entity_id=a%26b&generation=2");
        assert_eq!(filters.body(), json!({"class": "refused", "entity_id": "a&b", "generation": 2}));
        assert_eq!((Filters::default().query(), Filters::default().body()), (String::new(), json!({})));
    }

    #[test]
    fn counts_add_up_and_say_why() {
        let mut counts = Counts::default();
        counts.add(&json!({"redriven": 3, "refused": 1, "reasons": {"applied": 1}}));
        counts.add(&json!({"redriven": 2, "refused": 2, "reasons": {"applied": 1, "erased": 1}}));
        assert_eq!(counts.in_words(false), "5 redriven, 3 refused (2 applied, 1 erased)");
        assert_eq!(counts.looked_at(), 8);
        assert_eq!(Counts::default().in_words(true), "0 would be redriven, 0 refused");
    }
}
