//! Digests by rules: of each session a summary, of each recurring subject a dated timeline, for questions that gather or order
//! what ranking can only find one by one.
//!
//! Promises: pure, a function of the *set* of facts (and of what was forgotten): in whatever order they arrived, the digests are
//! equal; made anew from what an earlier run left, they equal those made from nothing. Bounded: timelines per entity, entries and
//! tokens per digest, and what is cut is said. Ids are those of [decision 10](../../../docs/decisions/0010-digests.md): of the
//! generation, the kind, the session or topic, and nothing that changes with the facts. No word of a digest is invented: it
//! is dates, counts and the statements of its members.

mod render;
mod topics;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use memori_schemas::normalise::normalise;
use memori_schemas::{EntityKey, FactId, FactKind, MessageKey, TextHash, ids};

use self::render::Entry;
use self::topics::{Memo, Texts, Topic};

/// The extractor that digests name.
pub const EXTRACTOR: &str = "digests/1";
/// Facts that a session needs before there is anything to sum up.
const LEAST_OF_SESSION: usize = 4;
/// Dated entries that a topic needs.
const LEAST_ENTRIES: usize = 3;
/// Days on which they must lie.
const LEAST_DAYS: usize = 2;
/// The most topics of one entity; of few facts there are fewer.
const MAX_TOPICS: usize = 64;
/// Facts per topic that an entity may have, beyond the first two.
const FACTS_PER_TOPIC: usize = 8;
const DAY_US: i64 = 86_400_000_000;

/// A fact as digests see it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct DigestFact<'a> {
    pub fact_id: FactId,
    pub kind: FactKind,
    pub content: &'a str,
    pub subject: Option<&'a str>,
    pub predicate: Option<&'a str>,
    pub object: Option<&'a str>,
    /// The single-valued slot that it fills, where it is known.
    pub slot: Option<&'a str>,
    /// When it holds, µs, in order: from, and until before.
    pub intervals: Vec<(i64, Option<i64>)>,
    /// Each message once, in any order.
    pub mentions: Vec<DigestMention<'a>>,
}

/// A message's support for a fact.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct DigestMention<'a> {
    pub message_key: MessageKey,
    /// As given, or its island.
    pub session_id: Option<&'a str>,
    pub occurred_at_us: i64,
}

/// What was asked to be forgotten: messages that no longer count for what has that text.
#[derive(Clone, Debug)]
pub struct Forgotten<'a> {
    /// Of the digest's identity, see [`Digest::text_hash`].
    pub text_hash: TextHash,
    /// The messages.
    pub message_keys: &'a [MessageKey],
}

/// A digest, to be shown as a fact is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// For as long as its session or topic is there.
    pub fact_id: FactId,
    /// [`FactKind::Summary`] or [`FactKind::Timeline`].
    pub kind: FactKind,
    /// The session's id, or the topic's name.
    pub subject: String,
    /// What it says.
    pub content: String,
    /// What it rests on, by time: which of the facts, and which of its mentions.
    pub evidence: Vec<(u32, u32)>,
    /// When the first of it was said, µs.
    pub first_us: i64,
    /// When the last of it was said, µs.
    pub last_us: i64,
    /// What a control that forgets it names, with the messages of its evidence.
    pub text_hash: TextHash,
    fingerprint: u64,
}

impl Digest {
    /// Which of the facts it rests on, each once, by time.
    #[must_use]
    pub fn members(&self) -> Vec<u32> {
        let mut seen = HashSet::new();
        self.evidence.iter().map(|(fact, _)| *fact).filter(|fact| seen.insert(*fact)).collect()
    }
}

/// All digests of an entity.
#[derive(Clone, Debug, Default)]
pub struct Digests {
    /// By kind, then by id.
    pub list: Vec<Digest>,
    /// Facts that are digests of an extractor, and that a later one of the same session or subject stands for. In order.
    pub replaced: Vec<u32>,
    memo: Memo,
}

impl Digests {
    /// What it holds in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |d: &Digest| size_of::<Digest>() + d.subject.len() + d.content.len() + d.evidence.len() * 8;
        self.list.iter().map(of).sum::<usize>() + self.replaced.len() * 4 + self.memo.bytes()
    }
}

/// The digests of an entity's facts in one generation. `previous` is what an earlier run made of earlier facts; it saves work and
/// changes nothing.
#[must_use]
pub fn digests(
    entity_key: &EntityKey,
    generation: i32,
    facts: &[DigestFact<'_>],
    forgotten: &[Forgotten<'_>],
    previous: Option<&Digests>,
) -> Digests {
    let mut unwanted: HashMap<TextHash, HashSet<MessageKey>> = HashMap::new();
    for forget in forgotten {
        unwanted.entry(forget.text_hash).or_default().extend(forget.message_keys);
    }
    let known =
        previous.map(|previous| previous.list.iter().map(|digest| (digest.fact_id, digest)).collect()).unwrap_or_default();
    let texts = Texts::default();
    let memo = Memo::of(facts, previous.map(|previous| &previous.memo), &texts);
    let made = Made { entity_key, generation, facts, unwanted, known, texts };
    let stored = Stored::of(facts);
    let mut list = made.summaries(&stored);
    list.extend(made.timelines(&memo, &stored));
    list.sort_unstable_by_key(|digest| (digest.kind, digest.fact_id));
    Digests { list, replaced: stored.replaced, memo }
}

/// The digests of an extractor that a later one of the same session or subject stands for, in order.
#[must_use]
pub fn replaced(facts: &[DigestFact<'_>]) -> Vec<u32> {
    Stored::of(facts).replaced
}

/// The digests that an extractor wrote: the latest of each session and subject goes before the one by rules.
#[derive(Default)]
struct Stored {
    sessions: BTreeSet<String>,
    subjects: BTreeSet<String>,
    replaced: Vec<u32>,
}

impl Stored {
    fn of(facts: &[DigestFact<'_>]) -> Self {
        let mut latest: BTreeMap<(FactKind, String), (i64, FactId, u32)> = BTreeMap::new();
        let mut stored = Self::default();
        for (number, fact) in (0..).zip(facts) {
            let Some(last) = fact.mentions.iter().max_by_key(|m| (m.occurred_at_us, m.message_key)) else { continue };
            let of = match fact.kind {
                FactKind::Summary => last.session_id.map(str::to_owned),
                FactKind::Timeline => fact.subject.map(normalise),
                FactKind::Fact | FactKind::Instruction | FactKind::Attribute => None,
            };
            let Some(of) = of else { continue };
            let one = (last.occurred_at_us, fact.fact_id, number);
            match fact.kind {
                FactKind::Summary => stored.sessions.insert(of.clone()),
                _ => stored.subjects.insert(of.clone()),
            };
            if let Some(other) = latest.insert((fact.kind, of.clone()), one) {
                let (later, earlier) = if other > one { (other, one) } else { (one, other) };
                latest.insert((fact.kind, of), later);
                stored.replaced.push(earlier.2);
            }
        }
        stored.replaced.sort_unstable();
        stored
    }
}

struct Made<'a> {
    entity_key: &'a EntityKey,
    generation: i32,
    facts: &'a [DigestFact<'a>],
    unwanted: HashMap<TextHash, HashSet<MessageKey>>,
    known: HashMap<FactId, &'a Digest>,
    texts: Texts<'a>,
}

impl Made<'_> {
    /// Of each session what was learned in it.
    fn summaries(&self, stored: &Stored) -> Vec<Digest> {
        let mut sessions: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (number, fact) in (0..).zip(self.facts) {
            if !matches!(fact.kind, FactKind::Fact | FactKind::Attribute) {
                continue;
            }
            let of_fact: BTreeSet<&str> = fact.mentions.iter().filter_map(|mention| mention.session_id).collect();
            for session in of_fact {
                sessions.entry(session).or_default().push(number);
            }
        }
        sessions.retain(|session, facts| facts.len() >= LEAST_OF_SESSION && !stored.sessions.contains(*session));
        let summary = |(session, facts): (&str, Vec<u32>)| {
            let text = identity("summary", session);
            let evidence = self.evidence(&facts, ids::text_hash(&text), Some(session));
            let entries = self.entries(&evidence);
            let members: BTreeSet<u32> = entries.iter().map(|entry| entry.fact).collect();
            if members.len() < LEAST_OF_SESSION {
                return None;
            }
            let content = || (session.to_owned(), render::summary(self.facts, &evidence, &self.texts));
            Some(self.digest(FactKind::Summary, session, &text, &evidence, content))
        };
        sessions.into_iter().filter_map(summary).collect()
    }

    /// Of each recurring topic, and of each value that changed, its course.
    fn timelines(&self, memo: &Memo, stored: &Stored) -> Vec<Digest> {
        /// Topic, its identity, its evidence, and by how many days and entries it is supported.
        type Candidate = (Topic, TextHash, Vec<(u32, u32)>, usize, usize);
        let mut candidates: Vec<Candidate> = Vec::new();
        for (topic, facts) in memo.topics(self.facts) {
            let text_hash = ids::text_hash(&identity("timeline", &topic.key()));
            let evidence = self.evidence(&facts, text_hash, None);
            let entries = self.entries(&evidence);
            let days = entries.iter().map(|entry| entry.day).collect::<BTreeSet<_>>().len();
            if entries.len() >= LEAST_ENTRIES && days >= LEAST_DAYS {
                candidates.push((topic, text_hash, evidence, days, entries.len()));
            }
        }
        // Of topics with the same members the one that says most stays.
        candidates.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        let mut seen: HashSet<Vec<(u32, u32)>> = HashSet::new();
        candidates.retain(|(_, _, evidence, _, _)| seen.insert(evidence.clone()));
        candidates.sort_unstable_by(|a, b| (b.3, b.4).cmp(&(a.3, a.4)).then_with(|| a.0.cmp(&b.0)));
        candidates.truncate(MAX_TOPICS.min(2 + self.facts.len() / FACTS_PER_TOPIC));
        let mut timelines: Vec<Digest> = candidates
            .into_iter()
            .map(|(topic, _, evidence, _, _)| {
                let key = topic.key();
                self.digest(FactKind::Timeline, &key, &identity("timeline", &key), &evidence, || {
                    let entries = self.entries(&evidence);
                    let name = topic.name(self.facts, &entries, &self.texts);
                    let content = render::timeline(&name, self.facts, &entries);
                    (name, content)
                })
            })
            .collect();
        let mut courses = self.courses();
        courses.sort_unstable_by(|a, b| (b.last_us, &b.fact_id).cmp(&(a.last_us, &a.fact_id)));
        courses.truncate(MAX_TOPICS);
        timelines.extend(courses);
        timelines.retain(|timeline| !stored.subjects.contains(&normalise(&timeline.subject)));
        timelines
    }

    /// Single-valued statements whose value has changed.
    fn courses(&self) -> Vec<Digest> {
        let mut slots: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (number, fact) in (0..).zip(self.facts).filter(|(_, fact)| fact.kind == FactKind::Fact && fact.object.is_some()) {
            let key = match (fact.slot, fact.subject, fact.predicate) {
                (Some(slot), _, _) => format!("slot:{slot}"),
                (None, Some(subject), Some(predicate)) => format!("course:{}\n{}", normalise(subject), normalise(predicate)),
                _ => continue,
            };
            slots.entry(key).or_default().push(number);
        }
        let course = |(key, facts): (String, Vec<u32>)| {
            if !facts.iter().any(|fact| self.facts[*fact as usize].intervals.iter().any(|(_, to)| to.is_some())) {
                return None;
            }
            let text = identity("timeline", &key);
            let evidence = self.evidence(&facts, ids::text_hash(&text), None);
            let (name, content) = render::course(self.facts, &evidence)?;
            Some(self.digest(FactKind::Timeline, &key, &text, &evidence, || (name, content)))
        };
        slots.into_iter().filter_map(course).collect()
    }

    /// The mentions of these facts that count, by time.
    fn evidence(&self, facts: &[u32], text_hash: TextHash, session: Option<&str>) -> Vec<(u32, u32)> {
        let unwanted = self.unwanted.get(&text_hash);
        let mut evidence: Vec<(u32, u32)> = Vec::new();
        for number in facts {
            for (place, mention) in (0..).zip(&self.facts[*number as usize].mentions) {
                let counts = session.is_none_or(|session| mention.session_id == Some(session))
                    && unwanted.is_none_or(|unwanted| !unwanted.contains(&mention.message_key));
                if counts {
                    evidence.push((*number, place));
                }
            }
        }
        evidence.sort_unstable_by_key(|one| self.place(*one));
        evidence
    }

    fn place(&self, (fact, mention): (u32, u32)) -> (i64, FactId, MessageKey) {
        let fact = &self.facts[fact as usize];
        let mention = &fact.mentions[mention as usize];
        (mention.occurred_at_us, fact.fact_id, mention.message_key)
    }

    /// What happened when: each fact once a day, on the day that it names, else on the day on which it was said.
    fn entries(&self, evidence: &[(u32, u32)]) -> Vec<Entry> {
        let mut days: HashMap<u32, Option<i64>> = HashMap::new();
        let mut seen = HashSet::new();
        let mut entries: Vec<Entry> = Vec::with_capacity(evidence.len());
        for (fact, mention) in evidence {
            let of_fact = &self.facts[*fact as usize];
            let at_us = of_fact.mentions[*mention as usize].occurred_at_us;
            let named = *days.entry(*fact).or_insert_with(|| render::day_in(of_fact.content));
            let day = named.unwrap_or_else(|| at_us.div_euclid(DAY_US));
            if seen.insert((*fact, day)) {
                entries.push(Entry { day, at_us, fact: *fact });
            }
        }
        entries.sort_unstable_by_key(|entry| (entry.day, entry.at_us, self.facts[entry.fact as usize].fact_id));
        entries
    }

    fn digest(
        &self,
        kind: FactKind,
        of: &str,
        text: &str,
        evidence: &[(u32, u32)],
        content: impl FnOnce() -> (String, String),
    ) -> Digest {
        let fact_id = ids::fact_id(self.entity_key, self.generation, kind, Some(of), text);
        let fingerprint = self.fingerprint(evidence);
        let (subject, content) = match self.known.get(&fact_id) {
            Some(known) if known.fingerprint == fingerprint => (known.subject.clone(), known.content.clone()),
            _ => content(),
        };
        let times = || evidence.iter().map(|one| self.place(*one).0);
        Digest {
            fact_id,
            kind,
            subject,
            content,
            evidence: evidence.to_vec(),
            first_us: times().min().unwrap_or(0),
            last_us: times().max().unwrap_or(0),
            text_hash: ids::text_hash(text),
            fingerprint,
        }
    }

    /// Of all that a digest's words are made from.
    fn fingerprint(&self, evidence: &[(u32, u32)]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for one in evidence {
            let fact = &self.facts[one.0 as usize];
            self.place(*one).hash(&mut hasher);
            (fact.content, fact.subject, fact.predicate, fact.object, &fact.intervals).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// The text that stands for a digest in ids and controls. Hexadecimal, since normalisation would make two sessions one.
fn identity(kind: &str, of: &str) -> String {
    format!("digest:{kind}:{}", blake3::hash(of.as_bytes()).to_hex())
}

#[cfg(test)]
mod tests;
