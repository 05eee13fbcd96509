//! The `llm` extractor: any endpoint that speaks `chat/completions`.
//!
//! A window of one entity's events is one call. Promises: what it yields rests on messages that the model was shown, and one about a person on a person's; whose memory it is never
//! depends on what a model says; an answer that cannot be used is repaired once and then given up; an endpoint that does not work for
//! anybody costs no event. Nothing that was said, and no key, is logged.
//!
//! Pure: [`prompt`], [`wishes`], [`parse`] (words to JSON), [`answer`] (JSON to items), [`convert`] and [`updates`] (items to facts),
//! [`repair`], [`classify`], [`dialect`], [`tokens`], [`accounts`], [`allowed`]. Shells: [`client`], [`pacer`],
//! [`known`].

mod accounts;
mod allowed;
mod answer;
mod assets;
mod classify;
mod client;
mod config;
mod convert;
mod dialect;
pub mod doctor;
pub mod known;
pub mod metrics;
mod pacer;
mod parse;
mod prompt;
mod refused;
mod repair;
mod reply;
mod retry_after;
mod standing;
mod tokens;
mod updates;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use memori_event_log::driver::LiveBound;
use memori_schemas::{ConversationEvent, DeadLetterClass, ExtractorInfo, Fact, Lane};
use memori_service::settings::Settings;

pub use self::known::{HttpKnownFacts, KnownFact, KnownFacts, KnownFactsError};

use self::accounts::Accounts;
use self::classify::CallError;
use self::client::{Answered, advice};
use self::config::LlmConfig;
use self::metrics::{Account, Purpose, Repaired};
use self::pacer::Pacer;
use self::prompt::Prompt;
use self::reply::{Finish, Reply};
use self::tokens::Tokens;
use self::wishes::Wishes;
use crate::extractor::{ExtractError, Extraction, Extractor, RetryReason};

pub(crate) use self::convert::may_support;

/// The extractor's name in the lineage.
const NAME: &str = "llm";
/// Bytes of a model's name.
const MAX_MODEL_BYTES: usize = 128;

/// The `llm` extractor behind the seam.
pub struct Llm {
    pacer: Arc<Pacer>,
    known: Option<Arc<dyn KnownFacts>>,
    wishes: BTreeMap<String, Wishes>,
    /// Of the prompt without wishes.
    prompt_hash: String,
    accounts: Accounts,
}

/// One window on its way through the model.
struct Asking<'a> {
    events: &'a [Arc<ConversationEvent>],
    prompt: Prompt,
    wishes: Option<&'a Wishes>,
    lane: Lane,
    /// A name of [`Accounts`].
    tenant: Arc<str>,
    /// Who tells by it how an endpoint is.
    who: u64,
}

/// What calls took, where they were answered.
struct Bill {
    tokens: Tokens,
    cost_micros: i64,
    /// Of the last one.
    model: String,
}

impl Bill {
    fn and(self, later: Self) -> Self {
        let cost_micros = self.cost_micros.saturating_add(later.cost_micros);
        Self { tokens: self.tokens.plus(later.tokens), cost_micros, model: later.model }
    }
}

impl Llm {
    /// As the operator configured it, with whoever knows what is known.
    ///
    /// # Errors
    /// What to change, in words.
    pub fn new(settings: &Settings, known: Option<Arc<dyn KnownFacts>>) -> Result<Self, String> {
        Ok(Self {
            pacer: Arc::new(Pacer::new(LlmConfig::of(settings)?)?),
            known,
            wishes: wishes::of(&settings.extractor.tenants)?,
            prompt_hash: assets::prompt_hash(None),
            accounts: Accounts::of(settings.extractor.tenants.keys().chain(settings.worker.tenants.keys())),
        })
    }

    /// What `events` state: events of one entity, process and session, in order. One call, or a few.
    async fn extract_all(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let wishes = events.first().and_then(|first| self.wishes.get(&first.tenant));
        let (Some(first), Some(prompt)) = (events.first(), Prompt::of(events)) else {
            // Where no user speaks there is nothing to learn about one.
            let none = Bill { tokens: Tokens::default(), cost_micros: 0, model: self.pacer.client(0).config().model.clone() };
            return Ok(self.extraction(wishes, Vec::new(), none));
        };
        let config = self.pacer.config();
        let asking = Asking { events, prompt, wishes, lane, tenant: self.accounts.of_tenant(&first.tenant), who: witness(first) };
        let known = known::ask(
            self.known.as_ref(),
            &first.tenant,
            &first.entity_id,
            asking.prompt.query(),
            config.known_facts_tokens,
            config.known_facts_timeout,
        );
        let end = events.iter().map(|event| event.occurred_at).max().unwrap_or(first.occurred_at);
        let mut known = known::by_then(known.await, end);
        let asked = match self.complete(&asking, &known).await {
            // What is known only helps; the conversation must fit.
            Err(CallError::TooLarge(_)) if !known.is_empty() => {
                known.clear();
                self.complete(&asking, &known).await
            }
            asked => asked,
        };
        let answered = match asked {
            Ok(answered) => answered,
            Err(error) => return Err(self.given_up(error).await),
        };
        match assess(&answered.reply, events, &asking.prompt, &known) {
            Ok(facts) => Ok(self.extraction(wishes, facts, self.bill(&answered))),
            Err(Unusable::Refused(message)) => Err(refused(message)),
            Err(Unusable::Invalid(errors)) => self.repair(answered, &errors, &asking, &known).await,
        }
    }

    async fn complete(&self, asking: &Asking<'_>, known: &[KnownFact]) -> Result<Answered, CallError> {
        let wishes = asking.wishes.map(|wishes| wishes.json.as_str());
        let render = |dialect| asking.prompt.render(known, wishes, dialect);
        self.pacer.complete(Purpose::Extract, Some(asking.who), render).await.inspect(|answered| self.count(asking, answered))
    }

    fn count(&self, asking: &Asking<'_>, answered: &Answered) {
        let config = self.pacer.client(answered.at).config();
        let account = Account { lane: asking.lane, model: config.model.clone(), tenant: Arc::clone(&asking.tenant) };
        metrics::used(&account, answered.tokens, config.prices.micros(answered.tokens));
    }

    async fn repair(
        &self,
        answered: Answered,
        errors: &[String],
        asking: &Asking<'_>,
        known: &[KnownFact],
    ) -> Result<Extraction, ExtractError> {
        let bill = self.bill(&answered);
        let Answered { reply, sent, .. } = answered;
        let messages = |_| repair::messages(sent.clone(), &reply.text, errors);
        let mended = match self.pacer.complete(Purpose::Repair, Some(asking.who), messages).await {
            Ok(mended) => mended,
            // The repair's own prompt is longer by the bad answer; without it the event may still be good, but not with this model.
            Err(CallError::TooLarge(_) | CallError::Unsupported { .. }) => {
                metrics::repaired(Repaired::Failed);
                return Err(invalid(errors));
            }
            Err(error) => {
                metrics::repaired(Repaired::Interrupted);
                return Err(self.given_up(error).await);
            }
        };
        self.count(asking, &mended);
        let outcome = assess(&mended.reply, asking.events, &asking.prompt, known);
        metrics::repaired(if outcome.is_ok() { Repaired::Mended } else { Repaired::Failed });
        match outcome {
            Ok(facts) => Ok(self.extraction(asking.wishes, facts, bill.and(self.bill(&mended)))),
            Err(Unusable::Refused(message)) => Err(refused(message)),
            Err(Unusable::Invalid(errors)) => Err(invalid(&errors)),
        }
    }

    /// What a call cost where it was answered.
    fn bill(&self, answered: &Answered) -> Bill {
        let config = self.pacer.client(answered.at).config();
        Bill {
            tokens: answered.tokens,
            cost_micros: config.prices.micros(answered.tokens),
            model: model_name(&config.model, answered.reply.model.clone()),
        }
    }

    fn extraction(&self, wishes: Option<&Wishes>, facts: Vec<Fact>, bill: Bill) -> Extraction {
        let Bill { tokens, cost_micros, model } = bill;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Extraction {
            facts,
            extractor: ExtractorInfo {
                name: NAME.into(),
                version: assets::VERSION.into(),
                model: Some(model),
                prompt_hash: Some(wishes.map_or_else(|| self.prompt_hash.clone(), |wishes| wishes.prompt_hash.clone())),
                tokens_in: count(tokens.read),
                tokens_out: count(tokens.written),
                cost_micros,
            },
        }
    }

    /// What a call without an answer means for the event.
    async fn given_up(&self, error: CallError) -> ExtractError {
        match error {
            CallError::Transient { reason, message, retry_after } => ExtractError::Transient { reason, message, retry_after },
            CallError::NotAsked(wait) => ExtractError::Transient {
                reason: RetryReason::NotAsked,
                message: format!("no endpoint has room: {}", wait.as_str()),
                retry_after: None,
            },
            CallError::TooLarge(message) => ExtractError::Permanent { class: DeadLetterClass::TooLarge, message },
            CallError::Refused(message) => refused(message),
            // Refused in every form: is it this conversation, or every request?
            CallError::Unsupported { message, .. } => match self.pacer.works_lately().await {
                Ok(()) => refused(message),
                Err(why) => ExtractError::Transient {
                    reason: RetryReason::Misconfigured,
                    message: format!("{why}: {}", advice(RetryReason::Misconfigured)),
                    retry_after: None,
                },
            },
        }
    }
}

#[async_trait]
impl Extractor for Llm {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        self.extract_all(lane, events).await
    }

    async fn works(&self, since: Instant) -> Result<(), String> {
        self.pacer.works(since).await
    }

    fn pace(&self, most: LiveBound) -> LiveBound {
        self.pacer.look_after(most)
    }

    fn is_shut(&self) -> bool {
        self.pacer.is_shut()
    }

    fn open_since(&self) -> Option<Instant> {
        self.pacer.open_since()
    }

    fn complaint(&self) -> Option<String> {
        self.pacer.complaint()
    }
}

/// Why an answer yields no facts.
#[derive(Debug, PartialEq, Eq)]
enum Unusable {
    Refused(String),
    /// What is wrong, a line each, without content.
    Invalid(Vec<String>),
}

/// The facts of an answer. Items that cannot be kept are dropped and counted, unless nothing else is there.
fn assess(reply: &Reply, events: &[Arc<ConversationEvent>], prompt: &Prompt, known: &[KnownFact]) -> Result<Vec<Fact>, Unusable> {
    if reply.is_refusal || reply.finish == Finish::Filtered {
        return Err(Unusable::Refused("the provider's rules forbid an answer to this conversation".to_owned()));
    }
    let invalid = |error: &str| Err(Unusable::Invalid(vec![error.to_owned()]));
    if reply.text.trim().is_empty() {
        return invalid(match reply.finish {
            Finish::Length => "the answer was cut off before it began",
            Finish::ToolCalls => "there are no tools to call",
            Finish::Stop | Finish::Filtered => "the answer is empty",
        });
    }
    let found = match parse::json_in(&reply.text, answer::looks_like_one) {
        // What is missing may be all that there was to say of another event; alone, each has an answer to itself.
        Ok(found) if found.is_cut && events.len() > 1 => {
            return invalid("the answer was cut off before it was about all messages: answer more briefly");
        }
        Ok(found) => found,
        Err(error) => return invalid(&error.to_string()),
    };
    let read = answer::read(found.value);
    let converted = convert::facts(read.items, events, &prompt.shown).update(read.updates, known, events, &prompt.shown);
    let refused: Vec<_> = read.refused.into_iter().chain(converted.refused).collect();
    refused.iter().for_each(|(_, refusal)| metrics::refused(*refusal));
    converted.ignored.iter().for_each(|field| metrics::ignored(*field));
    if converted.facts.is_empty() && !refused.is_empty() {
        return Err(Unusable::Invalid(repair::errors_of(&refused)));
    }
    Ok(converted.facts)
}

/// What names an event among those that tell how an endpoint is.
fn witness(event: &ConversationEvent) -> u64 {
    let hash = blake3::Hasher::new().update(event.tenant.as_bytes()).update(&[0]).update(event.event_id.as_bytes()).finalize();
    hash.as_bytes().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn refused(message: String) -> ExtractError {
    ExtractError::Permanent { class: DeadLetterClass::Refused, message }
}

fn invalid(errors: &[String]) -> ExtractError {
    let message = format!("the model's answer and its repair cannot be used: {}", errors.join("; "));
    ExtractError::Permanent { class: DeadLetterClass::InvalidOutput, message }
}

/// The model that was asked, more exactly where the provider says which of its versions answered.
fn model_name(asked: &str, answered_by: Option<String>) -> String {
    let exact =
        answered_by.filter(|name| name.len() <= MAX_MODEL_BYTES && name.starts_with(asked) && !name.contains(char::is_control));
    exact.unwrap_or_else(|| asked.to_owned())
}

#[cfg(test)]
pub(crate) use self::prompt::tests as prompt_tests;

#[cfg(test)]
mod tests;
