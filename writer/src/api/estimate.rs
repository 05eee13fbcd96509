//! What a replay would come to, before it is begun: counts of what is selected, and an estimate of tokens, cost and time.
//!
//! Where calls to a model were made for the same tenants before, their averages tell; else the words' lengths do.

use memori_service::generations::Limits;
use memori_service::problem::{Answer, Problem};
use memori_service::settings::Settings;
use serde_json::{Value, json};

use super::replays::currency;
use super::unreadable;
use crate::generations::{GenerationStore, NewGeneration, Selected, Selection, Spent};

/// Characters of a token, about, in most tongues that are written with letters.
const CHARACTERS_OF_TOKEN: i64 = 4;
/// Tokens of what a model is told with each call beside what was said, about.
const TOKENS_OF_ORDERS: i64 = 1_800;
/// Tokens that a model writes about one event, about.
const TOKENS_OF_ANSWER: i64 = 120;
/// Seconds of one call, about.
const SECONDS_OF_CALL: f64 = 3.0;
/// Events that rules extract in a second beside live traffic, about.
const EVENTS_BY_RULES: f64 = 500.0;

/// What this process knows of extractors: the settings that the workers have too, where they are given to it.
#[derive(Clone, Debug, Default)]
pub struct Estimates(std::sync::Arc<Settings>);

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) new: &'a NewGeneration,
    pub(super) now_us: i64,
}

impl Estimates {
    /// By these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self(std::sync::Arc::new(settings.clone()))
    }

    /// Refuses what no worker could extract.
    pub(super) fn check(&self, new: &NewGeneration) -> Answer<()> {
        let limits = Limits { tokens_per_minute: None, ..new.limits };
        // Endpoints are the workers' to know.
        let spec = memori_service::generations::Spec { endpoint: None, ..new.spec.clone() };
        spec.settings(&self.0, &new.tenants, &limits).map(drop).map_err(|why| Problem::invalid_field("", why))
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) async fn estimate(&self, store: &dyn GenerationStore, asked: &Asked<'_>) -> Answer<Value> {
        let Asked { new, now_us } = asked;
        self.check(new)?;
        let all = new.tenants.iter().any(|tenant| tenant == memori_service::auth::EVERY_TENANT);
        let tenants = if all {
            store.tenants_with_data("", memori_service::generations::MAX_TENANTS).await.map_err(unreadable)?
        } else {
            new.tenants.clone()
        };
        let (mut total, mut selected, mut spent) = (Selected::default(), Selected::default(), Spent::default());
        for tenant in &tenants {
            total = plus(total, store.selected(tenant, &Selection::default(), *now_us).await.map_err(unreadable)?);
            if !new.spec.keep {
                selected = plus(selected, store.selected(tenant, &new.selection, *now_us).await.map_err(unreadable)?);
            }
            let of_base = store.spent(Some(tenant), new.base).await.map_err(unreadable)?;
            spent.events += of_base.events;
            spent.tokens_in += of_base.tokens_in;
            spent.tokens_out += of_base.tokens_out;
        }
        let extractor = &self.0.extractor;
        let kind = new.spec.extractor.as_deref().unwrap_or(&extractor.kind);
        let (mut calls, mut tokens_in, mut tokens_out) = (0, 0, 0);
        let mut seconds = total.events as f64 / EVENTS_BY_RULES;
        if kind == "llm" {
            let window = new.spec.window_events.unwrap_or(self.0.worker.window_events).max(1);
            calls = rounded_up(selected.events, i64::try_from(window).unwrap_or(i64::MAX));
            (tokens_in, tokens_out) = if spent.events > 0 {
                let of = |tokens: i64| tokens.saturating_mul(selected.events) / spent.events;
                (of(spent.tokens_in), of(spent.tokens_out))
            } else {
                let said = selected.characters / CHARACTERS_OF_TOKEN;
                (said + calls * TOKENS_OF_ORDERS, selected.events * TOKENS_OF_ANSWER)
            };
            seconds += calls as f64 * SECONDS_OF_CALL / new.limits.max_concurrency.max(1) as f64;
            if let Some(per_minute) = new.limits.tokens_per_minute {
                seconds = seconds.max((tokens_in + tokens_out) as f64 * 60.0 / per_minute as f64);
            }
        }
        let cost =
            (tokens_in as f64 * extractor.price_in_per_million + tokens_out as f64 * extractor.price_out_per_million) / 1e6;
        Ok(json!({
            "base": new.base,
            "tenants": tenants.len(),
            "extractor": kind,
            "events": selected.events,
            "messages": selected.messages,
            "carried_events": total.events - selected.events,
            "calls": calls,
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "tokens_by": if spent.events > 0 { "average" } else { "length" },
            "cost": cost,
            "cost_cap": new.limits.cost_micros.map(currency),
            "seconds": seconds.ceil(),
        }))
    }
}

fn plus(one: Selected, other: Selected) -> Selected {
    Selected {
        events: one.events + other.events,
        messages: one.messages + other.messages,
        characters: one.characters + other.characters,
    }
}

fn rounded_up(events: i64, by: i64) -> i64 {
    events / by + i64::from(events % by > 0)
}
