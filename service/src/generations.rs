//! What a generation is, as the control store keeps it and workers follow it.
//!
//! Pure: what a generation extracts itself, what it carries over, whose events it leaves alone. Numbers are of the whole platform;
//! 1 is what the workers' own settings make, for every tenant that nobody has moved elsewhere.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::auth::EVERY_TENANT;
use crate::settings::{ExtractorCategory, ExtractorTenant, Settings};

/// The generation that workers' settings make.
pub const FIRST: i32 = 1;
/// Tenants that one replay may name.
pub const MAX_TENANTS: usize = 1_000;
/// Entities that one replay may name.
pub const MAX_ENTITIES: usize = 1_000;

/// How a generation is extracted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// `builtin` or `llm`; absent: what the workers' settings name.
    pub extractor: Option<String>,
    /// All of history is carried over from the base; what comes later is extracted.
    pub keep: bool,
    /// For `llm`; absent: the settings'.
    pub model: Option<String>,
    /// For `llm`: the one of the workers' `extractor.endpoints` that is asked; absent: all.
    pub endpoint: Option<String>,
    /// For `llm`: what is worth remembering, in words; absent: the settings' for the tenant.
    pub instructions: Option<String>,
    /// For `llm`: the topics to look for.
    pub categories: Vec<Category>,
    /// Events of one session in one call, at most; absent: the settings'.
    pub window_events: Option<usize>,
    /// Their messages.
    pub window_messages: Option<usize>,
    /// Their estimated tokens.
    pub window_tokens: Option<u64>,
}

/// A topic to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Category {
    /// At most 64 bytes.
    pub name: String,
    /// What belongs to it, at most 300 bytes.
    pub description: Option<String>,
}

impl Category {
    fn as_settings(&self) -> ExtractorCategory {
        ExtractorCategory { name: self.name.clone(), description: self.description.clone() }
    }
}

impl Spec {
    /// The settings under which a worker extracts this generation for `tenants`, within `limits`.
    ///
    /// # Errors
    /// What cannot be: in words for the operator.
    pub fn settings(&self, around: &Settings, tenants: &[String], limits: &Limits) -> Result<Settings, String> {
        let mut settings = around.clone();
        if let Some(extractor) = &self.extractor {
            settings.extractor.kind.clone_from(extractor);
        }
        if let Some(endpoint) = &self.endpoint {
            settings.extractor.endpoints.retain(|one| one.name.as_deref() == Some(endpoint));
            if settings.extractor.endpoints.is_empty() {
                return Err(format!("no endpoint of extractor.endpoints is named {endpoint:?} here"));
            }
        }
        if let Some(model) = &self.model {
            settings.extractor.model = Some(model.clone());
            for endpoint in &mut settings.extractor.endpoints {
                endpoint.model = None;
            }
        }
        if let Some(tokens) = limits.tokens_per_minute {
            let own = settings.extractor.tokens_per_minute;
            settings.extractor.tokens_per_minute = Some(own.map_or(tokens, |own| own.min(tokens)));
            for endpoint in &mut settings.extractor.endpoints {
                endpoint.tokens_per_minute = endpoint.tokens_per_minute.map(|own| own.min(tokens));
            }
        }
        if self.instructions.is_some() || !self.categories.is_empty() {
            let wishes = ExtractorTenant {
                instructions: self.instructions.clone().unwrap_or_default(),
                categories: self.categories.iter().map(Category::as_settings).collect(),
            };
            settings.extractor.tenants.extend(tenants.iter().map(|tenant| (tenant.clone(), wishes.clone())));
        }
        let worker = &mut settings.worker;
        worker.window_events = self.window_events.unwrap_or(worker.window_events);
        worker.window_messages = self.window_messages.unwrap_or(worker.window_messages);
        worker.window_tokens = self.window_tokens.unwrap_or(worker.window_tokens);
        Ok(settings)
    }
}

/// Which of the history is extracted anew; what is not is carried over from the base. Times are microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// None: all.
    pub entities: BTreeSet<String>,
    /// Events that happened then or later.
    pub from_us: Option<i64>,
    /// Events that happened before.
    pub until_us: Option<i64>,
}

/// What a generation may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Calls to the extractor at a time in each worker, as long as the generation is active for nobody.
    pub max_concurrency: usize,
    /// Tokens per minute, in and out.
    pub tokens_per_minute: Option<u64>,
    /// Millionths of the configured currency after which it pauses.
    pub cost_micros: Option<i64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_concurrency: 4, tokens_per_minute: None, cost_micros: None }
    }
}

/// Whether a generation is being extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Running,
    /// Not now; it goes on where it stood.
    Paused,
    /// Never again; what it made is there until it is dropped.
    Cancelled,
    /// What it made is gone, or going.
    Dropped,
}

impl State {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Paused, Self::Cancelled, Self::Dropped].into_iter().find(|state| state.as_str() == text)
    }
}

/// A generation beside the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub generation: i32,
    /// The one that what is not selected is carried over from.
    pub base: i32,
    /// Whose; `*` alone: everybody's.
    pub tenants: Vec<String>,
    /// How.
    pub spec: Spec,
    /// Of what.
    pub selection: Selection,
    /// By how much.
    pub limits: Limits,
    /// Whether now.
    pub state: State,
    /// Why it does not run, where nobody asked for that.
    pub reason: Option<String>,
    /// Events that were accepted before are history; microseconds since 1970.
    pub created_at_us: i64,
}

impl Generation {
    /// Whether it is of this tenant.
    #[must_use]
    pub fn is_of(&self, tenant: &str) -> bool {
        self.is_of_all() || self.tenants.iter().any(|one| one == tenant)
    }

    /// Whether it is of every tenant.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.tenants.iter().any(|one| one == EVERY_TENANT)
    }

    /// Whether it extracts an event itself; else that is carried over.
    #[must_use]
    pub fn extracts(&self, entity_id: &str, accepted_at_us: i64, occurred_at_us: i64) -> bool {
        if accepted_at_us >= self.created_at_us {
            return true;
        }
        let selected = &self.selection;
        !self.spec.keep
            && (selected.entities.is_empty() || selected.entities.contains(entity_id))
            && selected.from_us.is_none_or(|from| occurred_at_us >= from)
            && selected.until_us.is_none_or(|until| occurred_at_us < until)
    }

    /// Whether anything is carried over.
    #[must_use]
    pub fn carries(&self) -> bool {
        let selected = &self.selection;
        self.spec.keep || !selected.entities.is_empty() || selected.from_us.is_some() || selected.until_us.is_some()
    }
}

/// A generation of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfTenant {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub generation: i32,
}

/// What workers follow: every generation that is not dropped, which one tenants read, and which of theirs are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Running, paused or cancelled.
    pub generations: Vec<Generation>,
    /// Of tenants that do not read the first.
    pub active: BTreeSet<OfTenant>,
    /// Of one tenant; what is dropped of all is not among `generations`.
    pub dropped: BTreeSet<OfTenant>,
    /// Generations that are dropped of all tenants.
    pub dropped_wholly: BTreeSet<i32>,
}

impl Followed {
    /// Whether a generation of a tenant is dropped: nothing is extracted for it, and what arrives of it is passed over.
    #[must_use]
    pub fn is_dropped(&self, tenant: &str, generation: i32) -> bool {
        self.dropped_wholly.contains(&generation)
            || (!self.dropped.is_empty() && self.dropped.contains(&OfTenant { tenant: tenant.to_owned(), generation }))
    }

    /// The generation that a tenant reads.
    #[must_use]
    pub fn active_of(&self, tenant: &str) -> i32 {
        let from = OfTenant { tenant: tenant.to_owned(), generation: i32::MIN };
        self.active.range(from..).next().filter(|first| first.tenant == tenant).map_or(FIRST, |first| first.generation)
    }

    /// Whether somebody reads it.
    #[must_use]
    pub fn is_active(&self, generation: i32) -> bool {
        self.active.iter().any(|one| one.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation() -> Generation {
        Generation {
            generation: 2,
            base: FIRST,
            tenants: vec!["acme".to_owned()],
            spec: Spec::default(),
            selection: Selection::default(),
            limits: Limits::default(),
            state: State::Running,
            reason: None,
            created_at_us: 1_000,
        }
    }

    #[test]
    fn only_history_may_be_left_out() {
        let mut one = generation();
        assert!(one.extracts("e", 10, 10) && !one.carries());
        one.selection = Selection { entities: ["e".to_owned()].into(), from_us: Some(5), until_us: Some(20) };
        assert!(one.carries());
        for (entity, accepted, occurred, extracts) in [
            ("e", 10, 5, true),
            ("e", 10, 4, false),
            ("e", 10, 19, true),
            ("e", 10, 20, false),
            ("f", 10, 10, false),
            ("f", 1_000, 4, true),
        ] {
            assert_eq!(one.extracts(entity, accepted, occurred), extracts, "{entity} {accepted} {occurred}");
        }
        one.selection = Selection::default();
        one.spec.keep = true;
        assert!(!one.extracts("e", 999, 999) && one.extracts("e", 1_000, 1));
    }

    #[test]
    fn what_is_followed_tells_who_reads_what() {
        let of = |tenant: &str, generation| OfTenant { tenant: tenant.to_owned(), generation };
        let followed = Followed {
            active: [of("a", 3), of("b", 2)].into(),
            dropped: [of("a", 1)].into(),
            dropped_wholly: [4].into(),
            ..Followed::default()
        };
        assert_eq!((followed.active_of("a"), followed.active_of("b"), followed.active_of("c")), (3, 2, FIRST));
        assert!(followed.is_active(2) && !followed.is_active(1));
        assert!(followed.is_dropped("a", 1) && !followed.is_dropped("b", 1) && followed.is_dropped("b", 4));
        let text = serde_json::to_string(&followed).unwrap();
        assert_eq!(serde_json::from_str::<Followed>(&text).unwrap(), followed);
    }

    #[test]
    fn a_spec_stands_over_the_settings() {
        let mut around = Settings::default();
        around.extractor.tokens_per_minute = Some(1_000);
        around.extractor.endpoints = vec![crate::settings::Endpoint {
            name: Some("spare".to_owned()),
            model: Some("old".to_owned()),
            ..crate::settings::Endpoint::default()
        }];
        let spec = Spec {
            extractor: Some("llm".to_owned()),
            model: Some("new".to_owned()),
            endpoint: Some("spare".to_owned()),
            instructions: Some("hobbies".to_owned()),
            window_events: Some(3),
            ..Spec::default()
        };
        let limits = Limits { tokens_per_minute: Some(10), ..Limits::default() };
        let made = spec.settings(&around, &["acme".to_owned()], &limits).unwrap();
        assert_eq!((made.extractor.kind.as_str(), made.extractor.model.as_deref()), ("llm", Some("new")));
        assert_eq!((made.extractor.endpoints[0].model.as_deref(), made.extractor.tokens_per_minute), (None, Some(10)));
        assert_eq!((made.extractor.tenants["acme"].instructions.as_str(), made.worker.window_events), ("hobbies", 3));
        let missing = Spec { endpoint: Some("none".to_owned()), ..Spec::default() };
        assert!(missing.settings(&around, &[], &limits).unwrap_err().contains("none"));
    }
}
