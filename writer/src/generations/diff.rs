//! What one generation knows of an entity that another does not: a pure comparison.
//!
//! Promises: every fact of either side is counted exactly once; which facts are told to have changed into which depends on the two sets
//! alone, not on their order.

use std::collections::{BTreeMap, BTreeSet};

use memori_schemas::{FactKind, MessageKey, TextHash, ids};

use super::ComparedFact;

/// How a fact fares from one generation to the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference<'a> {
    /// Only the other one knows it.
    Gained(&'a ComparedFact),
    /// Only this one knows it.
    Lost(&'a ComparedFact),
    /// In the other one it has another wording, or holds at other times.
    Changed(&'a ComparedFact, &'a ComparedFact),
}

impl Difference<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gained(_) => "gained",
            Self::Lost(_) => "lost",
            Self::Changed(..) => "changed",
        }
    }

    /// Of what kind.
    #[must_use]
    pub fn kind(&self) -> FactKind {
        match self {
            Self::Gained(fact) | Self::Lost(fact) | Self::Changed(fact, _) => fact.kind,
        }
    }
}

/// The same statement in any generation.
type Statement<'a> = (FactKind, Option<&'a str>, TextHash);

fn statement(fact: &ComparedFact) -> Statement<'_> {
    (fact.kind, fact.subject.as_deref(), ids::text_hash(&fact.text))
}

/// The differences from `this` to `other`, and how many facts are the same.
#[must_use]
pub fn compare<'a>(this: &'a [ComparedFact], other: &'a [ComparedFact]) -> (Vec<Difference<'a>>, usize) {
    let mut there: BTreeMap<Statement<'_>, &ComparedFact> = other.iter().map(|fact| (statement(fact), fact)).collect();
    let (mut differences, mut same, mut lost) = (Vec::new(), 0, Vec::new());
    let here: BTreeMap<Statement<'_>, &ComparedFact> = this.iter().map(|fact| (statement(fact), fact)).collect();
    for (statement, fact) in here {
        match there.remove(&statement) {
            Some(twin) if twin.validity == fact.validity => same += 1,
            Some(twin) => differences.push(Difference::Changed(fact, twin)),
            None => lost.push(fact),
        }
    }
    let mut gained: Vec<&ComparedFact> = there.into_values().collect();
    // What rests on one message, or fills one slot, is one fact in other words: the one with most words in common first.
    let both = |fact: &ComparedFact, other: &ComparedFact| same_slot(fact, other) && same_evidence(fact, other);
    for related in [both as fn(&ComparedFact, &ComparedFact) -> bool, same_evidence, same_slot] {
        lost.retain(|fact| {
            let candidates = gained.iter().enumerate().filter(|(_, other)| other.kind == fact.kind && related(fact, other));
            let best = candidates.max_by_key(|(place, other)| (common_words(fact, other), std::cmp::Reverse(*place)));
            let Some((place, _)) = best else { return true };
            differences.push(Difference::Changed(fact, gained.remove(place)));
            false
        });
    }
    differences.extend(lost.into_iter().map(Difference::Lost));
    differences.extend(gained.into_iter().map(Difference::Gained));
    (differences, same)
}

fn same_slot(fact: &ComparedFact, other: &ComparedFact) -> bool {
    fact.slot.is_some() && fact.slot == other.slot
}

fn same_evidence(fact: &ComparedFact, other: &ComparedFact) -> bool {
    let keys: BTreeSet<MessageKey> = fact.evidence.iter().map(|(key, _)| *key).collect();
    other.evidence.iter().any(|(key, _)| keys.contains(key))
}

fn common_words(fact: &ComparedFact, other: &ComparedFact) -> usize {
    let words = |fact: &ComparedFact| fact.text.split_whitespace().map(str::to_lowercase).collect::<BTreeSet<_>>();
    words(fact).intersection(&words(other)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fact(text: &str, slot: Option<&str>, from: i64, evidence: &[u8]) -> ComparedFact {
        ComparedFact {
            kind: FactKind::Fact,
            text: text.to_owned(),
            subject: None,
            slot: slot.map(str::to_owned),
            validity: vec![(from, None)],
            evidence: evidence.iter().map(|n| (MessageKey([*n; 16]), n.to_string())).collect(),
        }
    }

    fn told(differences: &[Difference<'_>]) -> Vec<String> {
        let mut told: Vec<String> = differences
            .iter()
            .map(|difference| match difference {
                Difference::Gained(fact) => format!("+{}", fact.text),
                Difference::Lost(fact) => format!("-{}", fact.text),
                Difference::Changed(fact, other) => format!("{}>{}", fact.text, other.text),
            })
            .collect();
        told.sort();
        told
    }

    #[test]
    fn facts_are_gained_lost_changed_or_the_same() {
        let this = [
            fact("User likes tea", None, 1, &[1]),
            fact("user likes  coffee.", None, 1, &[2]),
            fact("User lives in Rome", Some("user/lives_in"), 1, &[3]),
            fact("User has a dog", None, 1, &[4]),
            fact("User is 30", None, 1, &[5]),
        ];
        let other = [
            fact("User likes coffee", None, 1, &[2]),
            fact("User resides in Rome, Italy", Some("user/lives_in"), 1, &[3]),
            fact("User owns a dog", None, 1, &[4, 9]),
            fact("User is 30", None, 2, &[5]),
            fact("User plays chess", None, 1, &[6]),
        ];
        let (differences, same) = compare(&this, &other);
        assert_eq!(same, 1);
        assert_eq!(
            told(&differences),
            [
                "+User plays chess",
                "-User likes tea",
                "User has a dog>User owns a dog",
                "User is 30>User is 30",
                "User lives in Rome>User resides in Rome, Italy"
            ]
        );
    }

    fn facts() -> impl Strategy<Value = Vec<ComparedFact>> {
        let one = (0..6_u8, 0..3_i64, prop::collection::vec(0..4_u8, 1..3), prop::option::of(0..2_u8)).prop_map(
            |(text, from, evidence, slot)| {
                fact(&format!("statement {text}"), slot.map(|slot| slot.to_string()).as_deref(), from, &evidence)
            },
        );
        prop::collection::vec(one, 0..8).prop_map(|facts| {
            let distinct: BTreeMap<String, ComparedFact> = facts.into_iter().map(|fact| (fact.text.clone(), fact)).collect();
            distinct.into_values().collect()
        })
    }

    proptest! {
        #[test]
        fn each_fact_counts_once_in_whatever_order(this in facts(), other in facts()) {
            let (differences, same) = compare(&this, &other);
            let count = |wanted: &str| differences.iter().filter(|one| one.name() == wanted).count();
            prop_assert_eq!(same + count("changed") + count("lost"), this.len());
            prop_assert_eq!(same + count("changed") + count("gained"), other.len());
            let (mut backwards, mut others) = (this.clone(), other.clone());
            backwards.reverse();
            others.reverse();
            let (again, same_again) = compare(&backwards, &others);
            prop_assert_eq!((told(&again), same_again), (told(&differences), same));
            let (none, all) = compare(&this, &this);
            prop_assert!(none.is_empty() && all == this.len());
        }
    }
}
