//! `memori event ID`: what became of an event.

use memori_service::ProcessError;
use serde_json::Value;

use crate::client::{Client, ClientFlags, segment};
use crate::output::say;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Its id.
    id: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let answer = Client::new(&flags.client)?.get(&format!("/v1/events/{}", segment(&flags.id))).await?;
    if flags.json {
        say(answer.to_string());
        return Ok(());
    }
    for name in ["event_id", "status", "accepted_at", "applied_at", "facts", "class", "reason"] {
        match answer.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => say(format!("{name:12} {text}")),
            Some(other) => say(format!("{name:12} {other}")),
        }
    }
    Ok(())
}
