//! What messages mean for what is known: said again, or ended.
//!
//! Promises: a known fact keeps its own words, so its id is the same; what it gets is mentions. One that a person says again gets one
//! more; one that ended gets one that carries the end, which is all that the writer needs to close it. Only what was shown with a
//! number can be named.

use std::sync::Arc;

use memori_schemas::{ConversationEvent, Fact};

use super::answer::{Change, Update};
use super::convert::{Converted, Ignored, evidence, time_of};
use super::known::KnownFact;
use super::prompt::{Shown, clean_line};
use super::refused::Refusal;

/// How surely a known fact is meant that is said again.
const CONFIDENCE: f32 = 0.9;

impl Converted {
    /// Ties `updates` to what was shown as `known`, and to the messages.
    pub(crate) fn update(
        mut self,
        updates: Vec<Update>,
        known: &[KnownFact],
        events: &[Arc<ConversationEvent>],
        shown: &[Shown],
    ) -> Self {
        let Some(first) = events.first() else { return self };
        for (at, update) in updates.into_iter().enumerate() {
            let has_ended = update.change == Change::Ended;
            match updated(&update, known, events, shown, &mut self.ignored) {
                Ok(Some(fact)) => self.add(first, fact, has_ended),
                Ok(None) => self.ignored.push(Ignored::Time),
                Err(refusal) => self.refused.push((format!("updates[{at}]"), refusal)),
            }
        }
        self.apart();
        self
    }

    /// One message does not both say something and end it: where an answer claims so, it says it.
    fn apart(&mut self) {
        let ends: Vec<(usize, usize)> = self
            .places
            .iter()
            .filter_map(|((id, has_ended), place)| Some((*place, *self.places.get(&(*id, false))?)).filter(|_| *has_ended))
            .collect();
        for (end, said) in ends {
            let said = self.facts[said].evidence.clone();
            self.facts[end].evidence.retain(|evidence| !said.contains(evidence));
        }
        self.facts.retain(|fact| !fact.evidence.is_empty());
        // Places have moved; nothing is added any more.
        self.places.clear();
    }
}

/// The known fact with the messages that say it again or end it; `None` where none of them comes at a time when they could.
fn updated(
    update: &Update,
    known: &[KnownFact],
    events: &[Arc<ConversationEvent>],
    shown: &[Shown],
    ignored: &mut Vec<Ignored>,
) -> Result<Option<Fact>, Refusal> {
    let fact = usize::try_from(update.known).ok().and_then(|number| known.get(number)).filter(|fact| fact.may_be_named());
    let fact = fact.ok_or(Refusal::NotKnown)?;
    let mut evidence = evidence(fact.kind, &update.evidence, events, shown, ignored)?;
    let (first, last) = (fact.first_mentioned_at, fact.last_mentioned_at);
    let (mut valid_from, mut valid_to) = (None, None);
    match update.change {
        // An earlier one would take the wording over, of which only a part is known here.
        Change::Repeated => evidence.retain(|e| first.is_none_or(|first| e.occurred_at >= first)),
        Change::Ended => {
            evidence.retain(|e| last.is_none_or(|last| e.occurred_at > last));
            // The fact's interval ends where the mention that begins last says so: this one begins with the last before it.
            valid_from = last.max(fact.since);
            let said = update.at.as_deref().map(clean_line).filter(|at| !at.is_empty() && at != "null");
            let at = said.as_deref().and_then(time_of);
            if said.is_some() && at.is_none() {
                ignored.push(Ignored::Time);
            }
            valid_to = at.or_else(|| evidence.iter().map(|e| e.occurred_at).min()).max(valid_from);
        }
    }
    let stated = Fact {
        kind: fact.kind,
        text: fact.text.clone(),
        subject: fact.subject.clone(),
        predicate: fact.predicate.clone(),
        object: fact.object.clone(),
        slot: None,
        valid_from,
        valid_to,
        confidence: CONFIDENCE,
        evidence,
        vector: None,
    };
    Ok(Some(stated).filter(|fact| !fact.evidence.is_empty()))
}

#[cfg(test)]
mod tests {
    use memori_schemas::{FactKind, Micros};

    use crate::llm::answer::{Change, Update};
    use crate::llm::convert::tests::{TALK, item};
    use crate::llm::convert::{Converted, Ignored, facts};
    use crate::llm::known::KnownFact;
    use crate::llm::prompt::tests::{event, known, shown_of};
    use crate::llm::refused::Refusal;

    fn update(known: i64, change: Change, at: Option<&str>, evidence: &[i64]) -> Update {
        Update { known, change, at: at.map(str::to_owned), evidence: evidence.to_vec() }
    }

    #[test]
    fn what_is_said_again_keeps_its_words_and_gets_a_mention() {
        let events = [event("e1", &TALK[..2]), event("e2", &TALK[3..])];
        let shown = shown_of(&events);
        let known = [known(FactKind::Summary, "s"), known(FactKind::Fact, "Alice lives in Paris."), known(FactKind::Fact, "b")];
        let of = |updates: Vec<Update>| facts(vec![], &events, &shown).update(updates, &known, &events, &shown);
        let converted = of(vec![update(1, Change::Repeated, None, &[0, 1]), update(1, Change::Repeated, None, &[2])]);
        let [fact] = converted.facts.as_slice() else { panic!("one fact: {:?}", converted.facts) };
        assert_eq!((fact.text.as_str(), fact.subject.as_deref()), ("Alice lives in Paris.", Some("Alice")));
        assert_eq!((fact.valid_from, fact.valid_to, fact.slot.as_deref()), (None, None, None));
        let named: Vec<&str> = fact.evidence.iter().map(|e| e.event_id.as_str()).collect();
        assert_eq!((named, converted.ignored), (vec!["e1", "e2"], vec![Ignored::Evidence]));
        for (bad, refusal) in [
            (update(0, Change::Repeated, None, &[0]), Refusal::NotKnown),
            (update(3, Change::Repeated, None, &[0]), Refusal::NotKnown),
            (update(-1, Change::Ended, None, &[0]), Refusal::NotKnown),
            (update(1, Change::Ended, None, &[1]), Refusal::EvidenceNotUser),
            (update(1, Change::Repeated, None, &[7]), Refusal::EvidenceOutOfRange),
        ] {
            let converted = of(vec![bad]);
            assert_eq!((converted.facts.len(), converted.refused[0].1), (0, refusal));
        }
    }

    #[test]
    fn what_ended_is_closed_from_its_last_mention_on() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let said_at = events[0].occurred_at;
        let old = known(FactKind::Fact, "a");
        let later = KnownFact { last_mentioned_at: Some(said_at), ..old.clone() };
        let planned = KnownFact { since: Some(Micros(9_000_000)), ..old.clone() };
        let known = [old, later, planned];
        let of = |update: Update| facts(vec![], &events, &shown).update(vec![update], &known, &events, &shown);
        let interval = |converted: &Converted| (converted.facts[0].valid_from, converted.facts[0].valid_to);
        assert_eq!(interval(&of(update(0, Change::Ended, None, &[0]))), (Some(Micros(2_000_000)), Some(said_at)));
        let dated = of(update(0, Change::Ended, Some("2020"), &[0]));
        assert_eq!(interval(&dated).1.map(Micros::to_rfc3339).as_deref(), Some("2020-01-01T00:00:00Z"));
        assert_eq!(
            interval(&of(update(0, Change::Ended, Some("1960"), &[0]))).1,
            Some(Micros(2_000_000)),
            "never before it was said"
        );
        assert_eq!(interval(&of(update(2, Change::Ended, None, &[0]))).0, Some(Micros(9_000_000)));
        let unclear = of(update(0, Change::Ended, Some("soon"), &[0]));
        assert_eq!((interval(&unclear).1, unclear.ignored), (Some(said_at), vec![Ignored::Time]));
        let overtaken = of(update(1, Change::Ended, None, &[0]));
        assert_eq!((overtaken.facts.len(), overtaken.ignored), (0, vec![Ignored::Time]), "it was said again since");
    }

    #[test]
    fn a_message_says_something_or_ends_it() {
        let events = [event("e1", &TALK)];
        let shown = shown_of(&events);
        let known = [known(FactKind::Fact, "Alice likes tea")];
        let said = || vec![item(FactKind::Fact, "Alice likes tea", &[0])];
        let of = |updates: Vec<Update>| {
            let converted = facts(said(), &events, &shown).update(updates, &known, &events, &shown);
            converted.facts.iter().map(|f| (f.valid_to.is_some(), f.evidence.len())).collect::<Vec<_>>()
        };
        assert_eq!(of(vec![update(0, Change::Ended, None, &[0])]), [(false, 1)]);
        assert_eq!(of(vec![update(0, Change::Ended, None, &[0, 3])]), [(false, 1), (true, 1)]);
        assert_eq!(of(vec![update(0, Change::Repeated, None, &[0, 3])]), [(false, 2)]);
    }
}
