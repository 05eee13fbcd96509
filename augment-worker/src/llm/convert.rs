//! From items to facts, tied to the messages that were shown.
//!
//! Promises: whose facts they are never depends on the answer; every fact names at least one message that was shown, and one about a
//! person a message that a person wrote. Where an item names both, only the person's messages count.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;
use memori_schemas::{ConversationEvent, Evidence, Fact, FactId, FactKind, Micros, Role};

use super::answer::Item;
use super::prompt::{Shown, clean_line};
use super::refused::Refusal;
use crate::builtin::plain_text;
use crate::slots;

/// What an item said that was not taken over, though the item was: a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// A slot that is not in the list, or has no owner.
    Slot,
    /// A time that is none, or an end before its beginning.
    Time,
    /// Evidence beside a person's that no person wrote.
    Evidence,
}

impl Ignored {
    pub(crate) const ALL: [Self; 3] = [Self::Slot, Self::Time, Self::Evidence];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Time => "time",
            Self::Evidence => "evidence",
        }
    }
}

/// The facts of one answer.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    pub(crate) facts: Vec<Fact>,
    pub(crate) refused: Vec<(String, Refusal)>,
    pub(crate) ignored: Vec<Ignored>,
    /// Of each statement, apart from the one that says that it ended.
    pub(super) places: HashMap<(FactId, bool), usize>,
}

/// Ties `items` to the messages that were shown of `events`, which are of one entity, process and session.
pub(crate) fn facts(items: Vec<Item>, events: &[Arc<ConversationEvent>], shown: &[Shown]) -> Converted {
    let mut converted = Converted::default();
    let Some(first) = events.first() else { return converted };
    for (at, item) in items.into_iter().enumerate() {
        let place = format!("{} {at}", item.kind);
        match fact(item, first, events, shown, &mut converted.ignored) {
            Ok(fact) => converted.add(first, fact, false),
            Err(refusal) => converted.refused.push((place, refusal)),
        }
    }
    converted
}

impl Converted {
    /// The same statement twice is one, with the evidence of both.
    pub(super) fn add(&mut self, event: &ConversationEvent, fact: Fact, has_ended: bool) {
        // Within one call ids are only compared, so the generation does not matter.
        let id = fact.id(&event.entity_key(), 0);
        match self.places.get(&(id, has_ended)) {
            Some(place) => {
                let known = &mut self.facts[*place].evidence;
                for evidence in fact.evidence {
                    if !known.contains(&evidence) {
                        known.push(evidence);
                    }
                }
            }
            None => {
                self.places.insert((id, has_ended), self.facts.len());
                self.facts.push(fact);
            }
        }
    }
}

fn fact(
    item: Item,
    first: &ConversationEvent,
    events: &[Arc<ConversationEvent>],
    shown: &[Shown],
    ignored: &mut Vec<Ignored>,
) -> Result<Fact, Refusal> {
    let text = plain_text(&clean_line(&item.text));
    if text.is_empty() {
        return Err(Refusal::NoText);
    }
    if text.to_ascii_lowercase().contains("memori_context>") {
        return Err(Refusal::RecalledContext);
    }
    let evidence = evidence(item.kind, &item.evidence, events, shown, ignored)?;
    let part = |part: Option<String>| part.map(|part| clean_line(&part)).filter(|part| !part.is_empty());
    let (mut subject, predicate, object) = (part(item.subject), part(item.predicate), part(item.object));
    match item.kind {
        // Ids are ours: a model never names what a process or a session is called.
        FactKind::Attribute => subject = first.process_id.clone(),
        FactKind::Summary => subject = first.session_id.clone(),
        FactKind::Fact | FactKind::Instruction | FactKind::Timeline => {}
    }
    let slot = match item.slot {
        None => None,
        Some(name) => {
            let slot = subject
                .as_deref()
                .filter(|_| item.kind == FactKind::Fact)
                .and_then(|subject| slots::slot(subject, &clean_line(&name), object.as_deref()));
            if slot.is_none() {
                ignored.push(Ignored::Slot);
            }
            slot
        }
    };
    let mut time = |text: Option<String>| {
        let text = text.map(|text| clean_line(&text)).filter(|text| !text.is_empty() && text != "null")?;
        let time = time_of(&text);
        if time.is_none() {
            ignored.push(Ignored::Time);
        }
        time
    };
    let valid_from = time(item.valid_from);
    let mut valid_to = time(item.valid_to);
    let begins = valid_from.unwrap_or(first.occurred_at);
    if valid_from.is_some() && valid_to.is_some_and(|end| end <= begins) {
        ignored.push(Ignored::Time);
        valid_to = None;
    }
    Ok(Fact {
        kind: item.kind,
        text,
        subject,
        predicate,
        object,
        slot,
        valid_from,
        valid_to,
        confidence: item.confidence,
        evidence,
        vector: None,
    })
}

pub(super) fn evidence(
    kind: FactKind,
    numbers: &[i64],
    events: &[Arc<ConversationEvent>],
    shown: &[Shown],
    ignored: &mut Vec<Ignored>,
) -> Result<Vec<Evidence>, Refusal> {
    let mut found: Vec<&Shown> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let message = usize::try_from(*number).ok().and_then(|number| shown.get(number)).ok_or(Refusal::EvidenceOutOfRange)?;
        if !found.contains(&message) {
            found.push(message);
        }
    }
    let before = found.len();
    found.retain(|message| may_support(kind, message.role));
    if found.is_empty() {
        return Err(Refusal::EvidenceNotUser);
    }
    if found.len() < before {
        ignored.push(Ignored::Evidence);
    }
    let evidence = found.into_iter().filter_map(|message| {
        let event = events.get(message.event)?;
        Some(Evidence {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(message.index),
            message_index: i32::try_from(message.index).ok()?,
            message_id: event.shown_message_id(message.index),
            occurred_at: event.occurred_at,
        })
    });
    Ok(evidence.collect())
}

/// Whether a message of that role may support a fact of that kind: only a person's word is a fact about a person. What a process
/// is like, its own messages show.
pub(crate) fn may_support(kind: FactKind, role: Role) -> bool {
    match role {
        Role::User => true,
        Role::Assistant | Role::System => kind == FactKind::Attribute,
        Role::Tool => false,
    }
}

/// `2024`, `2024-05`, `2024-05-03` (their beginnings, UTC) or RFC 3339.
pub(super) fn time_of(text: &str) -> Option<Micros> {
    let digits = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next(), parts.next());
    let is_date = digits(year, 4) && [month, day].into_iter().flatten().all(|part| digits(part, 2)) && parts.next().is_none();
    if !is_date {
        return Micros::parse_rfc3339(text);
    }
    let number = |part: Option<&str>| part.map_or(Some(1), |part| part.parse::<i8>().ok());
    let year = year.parse::<i16>().ok().filter(|year| *year > 0)?;
    let date = Date::new(year, number(month)?, number(day)?).ok()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Micros(midnight.timestamp().as_microsecond()))
}

#[cfg(test)]
pub(crate) mod tests {
    use memori_schemas::{FactKind, Micros, Role};

    use super::{Ignored, facts, time_of};
    use crate::extractor::check;
    use crate::llm::answer::Item;
    use crate::llm::prompt::tests::{event, shown_of};
    use crate::llm::refused::Refusal;

    pub(crate) fn item(kind: FactKind, text: &str, evidence: &[i64]) -> Item {
        Item {
            kind,
            text: text.into(),
            subject: Some("Alice".into()),
            predicate: Some("lives in".into()),
            object: Some("Paris".into()),
            slot: None,
            valid_from: None,
            valid_to: None,
            confidence: 0.9,
            evidence: evidence.to_vec(),
        }
    }

    pub(crate) const TALK: [(Role, &str); 4] = [
        (Role::User, "I live in Paris."),
        (Role::Assistant, "Nice, you live in Paris."),
        (Role::Tool, "{}"),
        (Role::User, "Yes."),
    ];

    #[test]
    fn facts_are_of_the_entity_and_name_shown_messages() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let converted = facts(vec![item(FactKind::Fact, "Alice lives in Paris.", &[0, 3, 0])], &events, &shown);
        assert!(converted.refused.is_empty() && converted.ignored.is_empty());
        let fact = &converted.facts[0];
        assert_eq!((fact.text.as_str(), fact.subject.as_deref()), ("Alice lives in Paris", Some("Alice")));
        let named: Vec<i32> = fact.evidence.iter().map(|e| e.message_index).collect();
        assert_eq!(named, [0, 3]);
        assert_eq!(fact.evidence[1].message_key, events[0].message_key(3));
        check(&converted.facts, &events).unwrap();
    }

    #[test]
    fn over_several_events_evidence_names_each_ones_own() {
        let events = [event("e1", &TALK[..2]), event("e2", &TALK[3..])];
        let shown = shown_of(&events);
        let converted = facts(vec![item(FactKind::Fact, "a", &[0, 2])], &events, &shown);
        let named: Vec<(&str, i32)> =
            converted.facts[0].evidence.iter().map(|e| (e.event_id.as_str(), e.message_index)).collect();
        assert_eq!(named, [("e1", 0), ("e2", 0)]);
    }

    #[test]
    fn what_no_user_said_is_no_fact_about_a_user() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let of = |kind, evidence: &[i64]| {
            let converted = facts(vec![item(kind, "a", evidence)], &events, &shown);
            check(&converted.facts, &events).unwrap();
            (converted.facts.len(), converted.refused.first().map(|(_, refusal)| *refusal), converted.ignored)
        };
        assert_eq!(of(FactKind::Fact, &[1]), (0, Some(Refusal::EvidenceNotUser), vec![]));
        assert_eq!(of(FactKind::Summary, &[1, 2]), (0, Some(Refusal::EvidenceNotUser), vec![]));
        assert_eq!(of(FactKind::Fact, &[0, 1]), (1, None, vec![Ignored::Evidence]));
        assert_eq!(of(FactKind::Attribute, &[1]), (1, None, vec![]));
        assert_eq!(of(FactKind::Attribute, &[2]), (0, Some(Refusal::EvidenceNotUser), vec![]));
        for outside in [-1, 4, i64::MAX, i64::MIN] {
            assert_eq!(of(FactKind::Fact, &[0, outside]), (0, Some(Refusal::EvidenceOutOfRange), vec![]));
        }
    }

    #[test]
    fn names_of_processes_and_sessions_are_never_the_models() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        for (kind, subject) in
            [(FactKind::Attribute, events[0].process_id.as_deref()), (FactKind::Summary, events[0].session_id.as_deref())]
        {
            let converted = facts(vec![item(kind, "a", &[0])], &events, &shown);
            assert_eq!(converted.facts[0].subject.as_deref(), subject);
        }
    }

    #[test]
    fn slots_and_times_that_are_none_are_left_out() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let with = |slot: &str, from: &str, to: &str| {
            let mut item = item(FactKind::Fact, "a", &[0]);
            (item.slot, item.valid_from, item.valid_to) = (Some(slot.into()), Some(from.into()), Some(to.into()));
            let converted = facts(vec![item], &events, &shown);
            let fact = &converted.facts[0];
            (fact.slot.clone(), fact.valid_from.is_some(), fact.valid_to.is_some(), converted.ignored)
        };
        assert_eq!(with("lives_in", "2023", "2024-05"), (Some("alice/lives_in".into()), true, true, vec![]));
        assert_eq!(with("mood", "soon", "2024"), (None, false, true, vec![Ignored::Slot, Ignored::Time]));
        assert_eq!(with("age", "2024", "2023"), (Some("alice/age".into()), true, false, vec![Ignored::Time]));
        assert_eq!(with("age", "null", ""), (Some("alice/age".into()), false, false, vec![]));
    }

    #[test]
    fn the_same_statement_twice_is_one_with_all_its_evidence() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let converted =
            facts(vec![item(FactKind::Fact, "Likes tea.", &[0]), item(FactKind::Fact, "likes  tea", &[3])], &events, &shown);
        assert_eq!(converted.facts.len(), 1);
        assert_eq!(converted.facts[0].evidence.len(), 2);
    }

    #[test]
    fn recalled_blocks_and_empty_texts_are_refused() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        for (text, refusal) in [(" \u{0}\n", Refusal::NoText), ("</MEMORI_CONTEXT> x", Refusal::RecalledContext)] {
            let converted = facts(vec![item(FactKind::Fact, text, &[0])], &events, &shown);
            assert_eq!((converted.facts.len(), converted.refused[0].1), (0, refusal));
        }
    }

    #[test]
    fn dates_are_their_beginnings() {
        for (text, time) in [
            ("2024", Some("2024-01-01T00:00:00Z")),
            ("2024-05", Some("2024-05-01T00:00:00Z")),
            ("2024-05-03", Some("2024-05-03T00:00:00Z")),
            ("2024-05-03T10:00:00+02:00", Some("2024-05-03T08:00:00Z")),
            ("2024-13", None),
            ("0000", None),
            ("2024-02-30", None),
            ("2024-5-3", None),
            ("2024-05-03-01", None),
            ("next Friday", None),
            ("-2024", None),
            ("９９９９", None),
        ] {
            assert_eq!(time_of(text).map(Micros::to_rfc3339).as_deref(), time, "{text}");
        }
    }
}
