use memori_schemas::{ContentFormat, FactId, FactKind, MessageKey, Role};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::reads::rows::UnnamedRow;
use crate::recall::islands::Unnamed;
use crate::recall::items::Model;
use crate::recall::traits::Traits;

/// What inputs borrow from.
#[derive(Clone, Debug)]
struct Owned {
    id: u128,
    texts: Vec<String>,
    times: [i64; 3],
    sources: Vec<(u8, String, bool)>,
    intervals: Vec<(i64, Option<i64>)>,
    terms: std::collections::BTreeMap<u64, u16>,
    flags: (bool, bool),
    choice: usize,
    vectors: Vec<(bool, f32, Vec<u8>)>,
}

fn owned() -> impl Strategy<Value = Owned> {
    (
        (any::<u128>(), prop::collection::vec("\\PC{0,8}|[a-z]{60,70}", 8), any::<[i64; 3]>()),
        prop::collection::vec((any::<u8>(), "[a-c]{1,3}", any::<bool>()), 0..4),
        prop::collection::vec((any::<i64>(), any::<Option<i64>>()), 1..3),
        prop::collection::btree_map(0..50_u64, 1..9_u16, 0..12),
        any::<(bool, bool)>(),
        any::<usize>(),
        prop::collection::vec((any::<bool>(), 0.0..1.0_f32, prop::collection::vec(any::<u8>(), 1..4)), 0..2),
    )
        .prop_map(|((id, texts, times), sources, intervals, terms, flags, choice, vectors)| Owned {
            id,
            texts,
            times,
            sources,
            intervals,
            terms,
            flags,
            choice,
            vectors,
        })
}

impl Owned {
    fn optional(&self, n: usize) -> Option<&str> {
        Some(self.texts[n].as_str()).filter(|text| !text.is_empty())
    }

    fn analysed(&self) -> Analysed {
        Analysed {
            terms: self.terms.iter().map(|(term, count)| (*term, *count)).collect(),
            words: u32::try_from(self.choice % 100).unwrap(),
            languages: Languages::of_bits(u32::try_from(self.choice % 7).unwrap()),
            question: self.flags.0,
            dated: self.flags.1,
        }
    }

    fn vectors(&self) -> Vec<VectorInput<'_>> {
        let model = |first: bool| if first { "model-a@1" } else { "model-b@1" };
        self.vectors.iter().map(|(first, scale, values)| VectorInput { model: model(*first), scale: *scale, values }).collect()
    }

    fn session<'a>(key: u8, text: &'a str, named: bool) -> SessionRef<'a> {
        if named { SessionRef::Named(text) } else { SessionRef::Unnamed(text, [key; 16]) }
    }

    fn fact(&self) -> FactInput<'_> {
        FactInput {
            fact_id: FactId(Uuid::from_u128(self.id)),
            kind: FactKind::ALL[self.choice % FactKind::ALL.len()],
            content: &self.texts[0],
            subject: self.optional(1),
            predicate: self.optional(2),
            object: self.optional(3),
            confidence: 0.75,
            process_id: self.optional(4),
            extractor: &self.texts[5],
            occurred_at_us: self.times[0],
            rep_event_id: &self.texts[6],
            rep_message_index: 3,
            mentions: self.times[1],
            first_mentioned_at_us: self.times[2],
            last_mentioned_at_us: self.times[0],
            intervals: self.intervals.iter().map(|(from_us, to_us)| Interval { from_us: *from_us, to_us: *to_us }).collect(),
            sources: self
                .sources
                .iter()
                .map(|(key, text, named)| SourceInput {
                    message_key: MessageKey([*key; 16]),
                    message_id: if *named { text } else { &self.texts[7] },
                    event_id: &text[..1],
                    session: Self::session(*key, text, *named),
                    process_id: self.optional(4),
                    occurred_at_us: self.times[1],
                })
                .collect(),
            analysed: self.analysed(),
            vectors: self.vectors(),
        }
    }

    fn message(&self) -> MessageInput<'_> {
        MessageInput {
            message_key: MessageKey(self.id.to_be_bytes()),
            message_id: &self.texts[0],
            event_id: &self.texts[1],
            content_hash: [self.flags.0.into(); 16],
            message_index: self.times[0],
            session: Self::session(1, &self.texts[2], self.flags.1),
            process_id: self.optional(3),
            role: Role::ALL[self.choice % Role::ALL.len()],
            name: self.optional(4),
            content: &self.texts[5],
            content_format: if self.flags.0 { ContentFormat::Text } else { ContentFormat::Parts },
            created_at_us: self.flags.0.then_some(self.times[1]),
            occurred_at_us: self.times[2],
            analysed: self.analysed(),
            vectors: self.vectors(),
        }
    }
}

fn outline_item(item: &Owned) -> OutlineItem {
    let fact = item.fact();
    OutlineItem {
        fact_id: fact.fact_id,
        last_mentioned_at_us: item.times[0],
        place: (u16::try_from(item.choice % 9).unwrap(), u16::try_from(item.choice % 256).unwrap()),
        group: u32::try_from(item.choice % 5).unwrap(),
        subject: u32::MAX,
        traits: Traits::of(fact.kind, item.flags.0, item.flags.1),
        words: fact.analysed.words,
        lengths: [0.5, 1.5],
        bounds: if item.flags.0 { fact.intervals } else { Vec::new() },
        terms: fact.analysed.terms,
    }
}

/// An outline of items as one chunk.
fn outline(items: &[Owned]) -> Vec<u8> {
    let head = OutlineHead { items: items.len(), segments: 9, ..OutlineHead::default() };
    let items: Vec<OutlineItem> = items.iter().map(outline_item).collect();
    encode_outline(head, &[Box::new([1, 2]), Box::new([])], &items).remove(0)
}

/// All of an item but for its words.
fn read(chunk: &OutlineChunk, item: usize) -> OutlineItem {
    OutlineItem {
        fact_id: chunk.fact_id(item),
        last_mentioned_at_us: chunk.last_mentioned_at_us(item),
        place: chunk.place(item),
        group: chunk.group(item),
        subject: chunk.subject(item),
        traits: chunk.traits(item),
        words: chunk.words(item),
        lengths: chunk.lengths(item),
        bounds: chunk.bounds(item).collect(),
        terms: Vec::new(),
    }
}

fn naive_hits(items: &[Owned], term: u64) -> Vec<(u16, u16)> {
    (0..).zip(items).filter_map(|(n, item)| item.terms.get(&term).map(|count| (n, *count))).collect()
}

#[test]
fn facts_of_one_message_share_it_and_an_object_lies_in_its_fact() {
    let one = Owned {
        id: 1,
        texts: ["tea in Berlin, every morning", "Alice", "drinks", "", "", "builtin/1", "e", "e#0"].map(str::to_owned).to_vec(),
        times: [1, 2, 3],
        sources: vec![(7, "e".to_owned(), true), (8, "e".to_owned(), true)],
        intervals: vec![(1, None)],
        terms: std::collections::BTreeMap::new(),
        flags: (false, false),
        choice: 0,
        vectors: Vec::new(),
    };
    let other = Owned { id: 2, ..one.clone() };
    let apart = Owned { sources: vec![(9, "e".to_owned(), true), (8, "e".to_owned(), true)], ..other.clone() };
    let size = |facts: [FactInput<'_>; 2]| {
        let bytes = encode_facts(&facts);
        assert_eq!(FactChunk::decode(bytes.clone(), encode_vectors(&facts)).unwrap().inputs(), facts);
        bytes.len()
    };
    let shared = size([one.fact(), other.fact()]);
    assert_eq!(size([one.fact(), apart.fact()]), shared + 48, "one more source");
    assert_eq!(size([one.fact(), FactInput { object: Some("Berlin"), ..other.fact() }]), shared, "it stands in the content");
    assert_eq!(size([one.fact(), FactInput { object: Some("Bremen"), ..other.fact() }]), shared + 6, "it does not");
}

proptest! {
    #[test]
    fn chunks_give_back_what_went_in(items in prop::collection::vec(owned(), 0..12)) {
        let facts: Vec<FactInput<'_>> = items.iter().map(Owned::fact).collect();
        let bytes = encode_facts(&facts);
        prop_assert_eq!(&bytes, &encode_facts(&facts));
        let vectors = encode_vectors(&facts);
        prop_assert_eq!(&vectors, &encode_vectors(&facts));
        let chunk = FactChunk::decode(bytes.clone(), vectors).unwrap();
        prop_assert_eq!(&chunk.inputs(), &facts);
        prop_assert!(FactChunk::decode(bytes, encode_vectors(&[])).is_err() || facts.is_empty(), "vectors of other facts");
        let messages: Vec<MessageInput<'_>> = items.iter().map(Owned::message).collect();
        let said = MessageChunk::decode(encode_messages(&messages)).unwrap();
        prop_assert_eq!(&said.inputs(), &messages);
        for term in 0..50 {
            prop_assert_eq!(chunk.hits(term).collect::<Vec<_>>(), naive_hits(&items, term));
            prop_assert_eq!(said.hits(term).collect::<Vec<_>>(), naive_hits(&items, term));
        }
        for (model, dimensions) in [("model-a@1", 1), ("model-a@1", 3), ("model-b@1", 2)] {
            let naive: Vec<(usize, f32, &[u8])> = facts.iter().enumerate().filter_map(|(n, fact)| {
                let one = fact.vectors.iter().find(|v| v.model == model && v.values.len() == dimensions)?;
                Some((n, one.scale, one.values))
            }).collect();
            let model = Model { id: model.into(), dimensions };
            let ours: Vec<(usize, f32, &[u8])> = chunk.vectors(&model).map(|group| {
                (0..group.len()).map(|slot| { let (scale, values) = group.get(slot); (group.item(slot), scale, values) }).collect()
            }).unwrap_or_default();
            prop_assert_eq!(ours, naive);
        }
    }

    /// A wrong byte anywhere is an error; with the checksum put right it is an error or a chunk that can be read through.
    #[test]
    fn hostile_bytes_do_not_panic(
        items in prop::collection::vec(owned(), 1..5),
        at in any::<prop::sample::Index>(),
        byte in 1..=255_u8,
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let facts: Vec<FactInput<'_>> = items.iter().map(Owned::fact).collect();
        let messages: Vec<MessageInput<'_>> = items.iter().map(Owned::message).collect();
        let refused = |bytes: &Vec<u8>| {
            FactChunk::without_vectors(bytes.clone()).is_err()
                && MessageChunk::decode(bytes.clone()).is_err()
                && VectorChunk::decode(bytes.clone()).is_err()
                && OutlineChunk::decode(bytes.clone()).is_err()
        };
        for mut bytes in [encode_facts(&facts), encode_messages(&messages), encode_vectors(&facts), outline(&items)] {
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
                prop_assert!(refused(&bytes));
            }
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
            prop_assert!(refused(&bytes));
            if bytes.len() > 8 {
                let sum = crc32fast::hash(&bytes[8..]);
                bytes[4..8].copy_from_slice(&sum.to_le_bytes());
                if let Ok(chunk) = FactChunk::without_vectors(bytes.clone()) {
                    let _ = format!("{:?}", chunk.inputs());
                }
                if let Ok(chunk) = VectorChunk::decode(bytes.clone()) {
                    let _ = format!("{:?}", chunk.by_item());
                }
                if let Ok(chunk) = OutlineChunk::decode(bytes.clone()) {
                    let _ = (0..chunk.len()).map(|item| read(&chunk, item)).collect::<Vec<_>>();
                }
                if let Ok(chunk) = MessageChunk::decode(bytes) {
                    let _ = format!("{:?}", chunk.inputs());
                }
            }
        }
    }

    #[test]
    fn outlines_give_back_what_went_in(items in prop::collection::vec(owned(), 1..12)) {
        let chunk = OutlineChunk::decode(outline(&items)).unwrap();
        prop_assert_eq!(chunk.len(), items.len());
        for (n, item) in items.iter().enumerate() {
            prop_assert_eq!(read(&chunk, n), OutlineItem { terms: Vec::new(), ..outline_item(item) });
        }
        for term in 0..50 {
            prop_assert_eq!(chunk.hits(term).collect::<Vec<_>>(), naive_hits(&items, term));
        }
    }

    #[test]
    fn unnamed_events_come_back(rows in prop::collection::vec(("\\PC{0,6}", any::<Option<bool>>(), any::<i64>(), any::<u8>()), 0..9)) {
        let rows: Vec<UnnamedRow> = rows.into_iter().map(|(event_id, process, occurred_at_us, hash)| UnnamedRow {
            event: Unnamed { process_id: process.map(|p| p.to_string()), occurred_at_us, event_id },
            content_hash: memori_schemas::ContentHash([hash; 32]),
        }).collect();
        let bytes = pack_unnamed(&rows);
        let back = unpack_unnamed(bytes.clone()).unwrap();
        prop_assert_eq!(format!("{:?}", back), format!("{:?}", rows));
        prop_assert!(unpack_unnamed(bytes[..bytes.len() - 1].to_vec()).is_err());
    }
}
