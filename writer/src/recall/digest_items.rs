//! Digests as items of an image: ranked, listed, filtered, exported and found by id as stored facts are.

use std::collections::{HashMap, HashSet};

use memori_schemas::{EntityKey, FactId, FactKind, MessageKey};

use super::analyse;
use super::digests::{Digest, DigestFact, DigestMention, Digests, EXTRACTOR, Forgotten, digests, replaced};
use super::items::{Items, Place, Segment, SessionTable};
use super::packed::{Analysed, CHUNK_ITEMS, FactChunk, FactInput, FactView, Interval, SourceInput, SourceView};
use crate::reads::rows::ForgottenRow;

/// Whether a chunk holds digests by rules.
pub(super) fn holds_digests(chunk: &FactChunk) -> bool {
    chunk.facts().next().is_some_and(|fact| fact.extractor() == EXTRACTOR)
}

/// The facts of an image, from which digests are made.
pub(super) struct Members<'a> {
    segments: &'a [Segment<FactChunk>],
    sessions: &'a SessionTable,
    places: Vec<Place>,
}

impl<'a> Members<'a> {
    pub(super) fn of(segments: &'a [Segment<FactChunk>], sessions: &'a SessionTable) -> Self {
        Self { segments, sessions, places: Items::places(segments) }
    }

    fn fact(&self, number: u32) -> (Place, FactView<'a>) {
        let place = self.places[number as usize];
        (place, self.segments[place.segment as usize].chunk.fact(place.item as usize))
    }

    /// The digests of these facts.
    pub(super) fn digests(
        &self,
        entity_key: &EntityKey,
        generation: i32,
        forgotten: &[ForgottenRow],
        previous: Option<&Digests>,
    ) -> Digests {
        let views: Vec<DigestFact<'_>> = (0..self.places.len()).map(|number| self.view(number)).collect();
        let forgotten: Vec<Forgotten<'_>> =
            forgotten.iter().map(|row| Forgotten { text_hash: row.text_hash, message_keys: &row.message_keys }).collect();
        digests(entity_key, generation, &views, &forgotten, previous)
    }

    fn view(&self, number: usize) -> DigestFact<'_> {
        let place = self.places[number];
        let fact = self.segments[place.segment as usize].chunk.fact(place.item as usize);
        let mention = |source: SourceView<'a>| DigestMention {
            message_key: source.message_key(),
            session_id: self.sessions.id(place.segment, source.session_number()).map(|id| &**id),
            occurred_at_us: source.occurred_at_us(),
        };
        DigestFact {
            fact_id: fact.fact_id(),
            kind: fact.kind(),
            content: fact.content(),
            subject: fact.subject(),
            predicate: fact.predicate(),
            object: fact.object(),
            slot: None,
            intervals: fact.intervals().map(|interval| (interval.from_us, interval.to_us)).collect(),
            mentions: fact.sources().map(mention).collect(),
        }
    }

    /// The places of these facts.
    pub(super) fn places_of(&self, numbers: &[u32]) -> HashSet<(u32, u32)> {
        numbers.iter().map(|number| self.places[*number as usize]).map(|place| (place.segment, place.item)).collect()
    }

    /// The places of the stored digests that a later one stands for.
    pub(super) fn replaced(&self) -> HashSet<(u32, u32)> {
        let is_digest = |number: &u32| matches!(self.fact(*number).1.kind(), FactKind::Summary | FactKind::Timeline);
        let count = u32::try_from(self.places.len()).expect("an entity has fewer than 2^32 facts");
        let numbers: Vec<u32> = (0..count).filter(is_digest).collect();
        let views: Vec<DigestFact<'_>> = numbers.iter().map(|number| self.view(*number as usize)).collect();
        let replaced: Vec<u32> = replaced(&views).into_iter().map(|place| numbers[place as usize]).collect();
        self.places_of(&replaced)
    }

    /// What a digest rests on: its facts, and the messages that count for it.
    pub(super) fn evidence(&self, digest: &Digest) -> Vec<(FactId, MessageKey)> {
        let of = |(number, mention): &(u32, u32)| {
            let (_, fact) = self.fact(*number);
            let source = fact.sources().nth(*mention as usize)?;
            Some((fact.fact_id(), source.message_key()))
        };
        digest.evidence.iter().filter_map(of).collect()
    }

    /// The digests as segments.
    pub(super) fn segments(&self, digests: &Digests, previous: &[Segment<FactChunk>]) -> Vec<Segment<FactChunk>> {
        self.inputs(digests, previous, |inputs| inputs.chunks(CHUNK_ITEMS).map(FactChunk::of).map(Segment::whole).collect())
    }

    /// Hands the digests on as they go into chunks. What `previous` chunks hold of the same words is not taken apart again.
    pub(super) fn inputs<T>(
        &self,
        digests: &Digests,
        previous: &[Segment<FactChunk>],
        hand_on: impl FnOnce(&[FactInput<'_>]) -> T,
    ) -> T {
        let mut known: HashMap<FactId, (&str, Analysed)> = HashMap::new();
        for segment in previous {
            known.extend(segment.chunk.inputs().into_iter().map(|input| (input.fact_id, (input.content, input.analysed))));
        }
        let analysed = |digest: &Digest| match known.get(&digest.fact_id) {
            Some((content, analysed)) if *content == digest.content => analysed.clone(),
            _ => analyse::text(&digest.content, digest.last_us),
        };
        let mut inputs: Vec<FactInput<'_>> = digests.list.iter().map(|digest| self.input(digest, analysed(digest))).collect();
        inputs.sort_by(|a, b| (a.occurred_at_us, a.rep_event_id, a.fact_id).cmp(&(b.occurred_at_us, b.rep_event_id, b.fact_id)));
        hand_on(&inputs)
    }

    fn input<'b>(&'b self, digest: &'b Digest, analysed: Analysed) -> FactInput<'b> {
        let mut seen = HashSet::new();
        let mut sources: Vec<SourceInput<'b>> = Vec::new();
        let mut confidence = 1.0_f64;
        for (number, mention) in &digest.evidence {
            let (_, fact) = self.fact(*number);
            confidence = confidence.min(fact.confidence());
            let Some(source) = fact.sources().nth(*mention as usize) else { continue };
            if seen.insert(source.message_key()) {
                sources.push(SourceInput {
                    message_key: source.message_key(),
                    message_id: source.message_id(),
                    event_id: source.event_id(),
                    session: source.session(),
                    process_id: source.process_id(),
                    occurred_at_us: source.occurred_at_us(),
                });
            }
        }
        FactInput {
            fact_id: digest.fact_id,
            kind: digest.kind,
            content: &digest.content,
            subject: Some(&digest.subject),
            predicate: None,
            object: None,
            confidence,
            process_id: None,
            extractor: EXTRACTOR,
            occurred_at_us: digest.last_us,
            rep_event_id: sources.last().map_or("", |source| source.event_id),
            rep_message_index: 0,
            mentions: i64::try_from(sources.len()).unwrap_or(i64::MAX),
            first_mentioned_at_us: digest.first_us,
            last_mentioned_at_us: digest.last_us,
            // What it says was not known before the last of it was said.
            intervals: vec![Interval { from_us: digest.last_us, to_us: None }],
            sources,
            analysed,
            vectors: Vec::new(),
        }
    }
}
