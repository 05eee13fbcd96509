//! Digests from facts: what they say, that neither order nor an earlier run matters, and their bounds.

use std::collections::BTreeMap;

use memori_schemas::{Micros, ids};
use proptest::prelude::*;

use super::*;
use crate::recall::budget::tokens;

const KEY: EntityKey = EntityKey([7; 16]);

#[derive(Clone, Debug, PartialEq)]
struct Told {
    kind: FactKind,
    content: String,
    triple: Option<[String; 3]>,
    slot: Option<String>,
    intervals: Vec<(i64, Option<i64>)>,
    /// Message, session, time.
    mentions: Vec<(u8, Option<String>, i64)>,
}

impl Told {
    fn new(content: &str) -> Self {
        Self {
            kind: FactKind::Fact,
            content: content.into(),
            triple: None,
            slot: None,
            intervals: Vec::new(),
            mentions: Vec::new(),
        }
    }

    fn triple(mut self, subject: &str, predicate: &str, object: &str) -> Self {
        self.triple = Some([subject.into(), predicate.into(), object.into()]);
        self
    }

    fn said(mut self, message: u8, session: &str, day: &str) -> Self {
        self.mentions.push((message, Some(session.into()), us(day) + i64::from(message)));
        self
    }

    fn holds(mut self, from: &str, to: Option<&str>) -> Self {
        self.intervals.push((us(from), to.map(us)));
        self
    }

    fn view(&self) -> DigestFact<'_> {
        let part = |i: usize| self.triple.as_ref().map(|triple| triple[i].as_str());
        DigestFact {
            fact_id: ids::fact_id(&KEY, 1, self.kind, part(0), &self.content),
            kind: self.kind,
            content: &self.content,
            subject: part(0),
            predicate: part(1),
            object: part(2),
            slot: self.slot.as_deref(),
            intervals: self.intervals.clone(),
            mentions: self
                .mentions
                .iter()
                .map(|(message, session, at)| DigestMention {
                    message_key: MessageKey([*message; 16]),
                    session_id: session.as_deref(),
                    occurred_at_us: *at,
                })
                .collect(),
        }
    }
}

fn us(day: &str) -> i64 {
    Micros::parse_rfc3339(&format!("{day}T12:00:00Z")).expect("a day").0
}

fn made(facts: &[Told], forgotten: &[Forgotten<'_>], previous: Option<&Digests>) -> Digests {
    let views: Vec<DigestFact<'_>> = facts.iter().map(Told::view).collect();
    digests(&KEY, 1, &views, forgotten, previous)
}

fn of_kind(digests: &Digests, kind: FactKind) -> Vec<&str> {
    let mut contents: Vec<&str> = digests.list.iter().filter(|d| d.kind == kind).map(|d| d.content.as_str()).collect();
    contents.sort_unstable();
    contents
}

fn gym() -> Vec<Told> {
    vec![
        Told::new("User went to the gym with Tom").said(1, "s1", "2026-03-02"),
        Told::new("User has a new gym card").triple("User", "has", "a new gym card").said(2, "s2", "2026-03-09"),
        Told::new("on 2026-03-15 User went to the gym").said(3, "s3", "2026-03-16"),
        Told::new("User likes tea").triple("User", "likes", "tea").said(4, "s3", "2026-03-16"),
        Told::new("User owns a boat").triple("User", "owns", "a boat").said(5, "s3", "2026-03-16"),
        Told::new("User is a nurse").triple("User", "is", "a nurse").said(6, "s3", "2026-03-16"),
    ]
}

#[test]
fn what_recurs_has_a_timeline() {
    let digests = made(&gym(), &[], None);
    assert_eq!(
        of_kind(&digests, FactKind::Timeline),
        ["gym, 3 times: 2026-03-02 User went to the gym with Tom; 2026-03-09 User has a new gym card; \
          2026-03-15 on 2026-03-15 User went to the gym"]
    );
    let timeline = digests.list.iter().find(|d| d.kind == FactKind::Timeline).unwrap();
    assert_eq!((timeline.subject.as_str(), timeline.members()), ("gym", vec![0, 1, 2]));
    assert_eq!((timeline.first_us, timeline.last_us), (us("2026-03-02") + 1, us("2026-03-16") + 3));
    // Twice, or on one day, is no recurrence.
    assert!(of_kind(&made(&gym()[..2], &[], None), FactKind::Timeline).is_empty());
    let one_day: Vec<Told> = (0..3).map(|n| Told::new(&format!("The gym number {n}")).said(n, "s", "2026-01-01")).collect();
    assert!(of_kind(&made(&one_day, &[], None), FactKind::Timeline).is_empty());
}

#[test]
fn one_statement_made_again_and_again_recurs_too() {
    let again = Told::new("User played chess").said(1, "a", "2026-01-01").said(2, "b", "2026-01-08").said(3, "c", "2026-01-15");
    assert_eq!(
        of_kind(&made(&[again], &[], None), FactKind::Timeline)[0],
        "chess, 3 times: 2026-01-01 User played chess; 2026-01-08; 2026-01-15"
    );
}

#[test]
fn a_named_subject_has_a_timeline_in_any_language() {
    let of_anna = |content: &str, message: u8, day: &str| Told::new(content).triple("Anna", "x", "y").said(message, "s", day);
    let facts = [
        of_anna("Anna est médecin", 1, "2026-01-01"),
        of_anna("Anna vit à Rome", 2, "2026-01-02"),
        of_anna("Anna chante", 3, "2026-01-02"),
    ];
    let digests = made(&facts, &[], None);
    assert_eq!(
        of_kind(&digests, FactKind::Timeline),
        ["Anna, 3 statements on 2 days: 2026-01-01 Anna est médecin; 2026-01-02 Anna vit à Rome; 2026-01-02 Anna chante"]
    );
    for (texts, name) in [
        (["Ich war beim Zahnarzt", "Der Zahnarzt war nett", "Zahnarzt abgesagt"], "zahnarzt"),
        (["我去了医院", "医院很远", "医生在医院"], "医院"),
        (["昨日、京都に行きました", "京都が好きです", "京都の友達"], "京都"),
        (["Я был в бассейне", "бассейне было холодно", "люблю плавать в бассейне"], "бассейне"),
    ] {
        let facts: Vec<Told> = (1..).zip(texts).map(|(n, text)| Told::new(text).said(n, "s", &format!("2026-01-0{n}"))).collect();
        let digests = made(&facts, &[], None);
        assert!(digests.list.iter().any(|d| d.subject == name && d.content.contains("3 times")), "{name}: {digests:?}");
    }
}

#[test]
fn a_changed_value_has_a_course() {
    let lives = |place: &str| Told::new(&format!("User lives in {place}")).triple("User", "lives in", place);
    let facts = [
        lives("Paris").holds("2024-01-01", Some("2025-01-01")).holds("2026-01-01", None).said(1, "a", "2024-01-01").said(
            2,
            "c",
            "2026-01-01",
        ),
        lives("Berlin").holds("2025-01-01", Some("2026-01-01")).said(3, "b", "2025-01-01"),
    ];
    let digests = made(&facts, &[], None);
    assert_eq!(
        of_kind(&digests, FactKind::Timeline),
        ["User lives in: Paris (2024-01-01) → Berlin (2025-01-01) → Paris (2026-01-01)"]
    );
    // What never changed has none.
    let stays = lives("Oslo").holds("2024-01-01", None).said(1, "a", "2024-01-01");
    assert!(made(&[stays], &[], None).list.is_empty());
    // A slot joins what is worded differently.
    let mut moved =
        Told::new("User moved to Rome").triple("User", "moved to", "Rome").holds("2025-01-01", None).said(4, "d", "2025-01-01");
    moved.slot = Some("user/lives_in".into());
    let mut before = lives("Paris").holds("2024-01-01", Some("2025-01-01")).said(1, "a", "2024-01-01");
    before.slot.clone_from(&moved.slot);
    assert_eq!(
        of_kind(&made(&[moved, before], &[], None), FactKind::Timeline),
        ["User lives in: Paris (2024-01-01) → Rome (2025-01-01)"]
    );
}

#[test]
fn a_session_has_a_summary_of_what_was_learned() {
    let digests = made(&gym(), &[], None);
    assert_eq!(
        of_kind(&digests, FactKind::Summary),
        ["2026-03-16: on 2026-03-15 User went to the gym; User likes tea; User owns a boat; User is a nurse"],
        "s1 and s2 have one fact each"
    );
    let summary = digests.list.iter().find(|d| d.kind == FactKind::Summary).unwrap();
    assert_eq!(summary.subject, "s3");
    // Where not all fits, the most telling stay, in their order, and the rest is counted.
    let many: Vec<Told> = (0..60_u8)
        .map(|n| {
            let text = if n % 10 == 3 {
                format!("Alice bought {n} heavy oak bookshelves from a carpenter in Graz")
            } else {
                format!("so it is {n}")
            };
            let mut told = Told::new(&text);
            told.mentions.push((n, Some("s".into()), us("2026-01-01") + i64::from(n)));
            told
        })
        .collect();
    let content = of_kind(&made(&many, &[], None), FactKind::Summary)[0].to_owned();
    let places: Vec<usize> = (0..6)
        .map(|n| content.find(&format!("bought {}3 ", if n == 0 { String::new() } else { n.to_string() })).expect("telling"))
        .collect();
    assert!(places.is_sorted() && content.contains(" more]"), "{content}");
}

#[test]
fn what_an_extractor_wrote_goes_before() {
    let mut facts = gym();
    let stored = |content: &str, message: u8, day: &str| {
        let mut told = Told::new(content).said(message, "s3", day);
        told.kind = FactKind::Summary;
        told
    };
    facts.extend([stored("An early summary", 8, "2026-03-16"), stored("A late summary", 9, "2026-03-17")]);
    let mut timeline = Told::new("All about the gym").triple("Gym", "x", "y").said(9, "s3", "2026-03-17");
    timeline.kind = FactKind::Timeline;
    facts.push(timeline);
    let digests = made(&facts, &[], None);
    assert!(digests.list.is_empty(), "{digests:?}");
    assert_eq!(digests.replaced, [6]);
}

#[test]
fn a_forgotten_digest_is_not_made_of_the_same_messages_again() {
    let mut facts = gym();
    let first = made(&facts, &[], None);
    for digest in &first.list {
        let views: Vec<DigestFact<'_>> = facts.iter().map(Told::view).collect();
        let keys: Vec<MessageKey> =
            digest.evidence.iter().map(|(f, m)| views[*f as usize].mentions[*m as usize].message_key).collect();
        let forgotten = [Forgotten { text_hash: digest.text_hash, message_keys: &keys }];
        let left = made(&facts, &forgotten, Some(&first));
        let others: Vec<&Digest> = first.list.iter().filter(|other| other.fact_id != digest.fact_id).collect();
        assert_eq!(left.list.iter().collect::<Vec<_>>(), others);
    }
    // New messages make it again, under its id, without what was forgotten.
    let timeline = first.list.iter().find(|d| d.kind == FactKind::Timeline).unwrap().clone();
    let keys: Vec<MessageKey> = (1..=3).map(|n| MessageKey([n; 16])).collect();
    let forgotten = [Forgotten { text_hash: timeline.text_hash, message_keys: &keys }];
    facts.extend((10..13).map(|n| Told::new(&format!("The gym, visit {n}")).said(n, "s9", &format!("2026-04-{n}"))));
    let again = made(&facts, &forgotten, None);
    let again = again.list.iter().find(|d| d.fact_id == timeline.fact_id).expect("it is back");
    assert!(again.content.starts_with("gym, 3 times: 2026-04-10") && !again.content.contains("Tom"), "{}", again.content);
}

#[test]
fn long_timelines_are_cut_in_the_middle_and_say_so() {
    let facts: Vec<Told> = (0..200_i64)
        .map(|n| {
            let mut told = Told::new(&format!("User visited the museum, visit {n}"));
            told.mentions.push((u8::try_from(n).unwrap(), Some(format!("s{n}")), us("2026-01-01") + n * DAY_US));
            told
        })
        .collect();
    let digests = made(&facts, &[], None);
    let museum = digests.list.iter().find(|d| d.subject.contains("museum")).expect("a timeline");
    assert!(museum.content.starts_with("museum, 200 times: 2026-01-01 User visited the museum, visit 0; "), "{}", museum.content);
    assert!(museum.content.ends_with("visit 199") && museum.content.contains("; [1"), "{}", museum.content);
    assert_eq!(museum.members().len(), 200);
    assert!(tokens(&museum.content) < 600);
    // Ids do not move when a fact comes.
    let before = made(&facts[..100], &[], None);
    assert!(before.list.iter().any(|d| d.fact_id == museum.fact_id));
}

#[test]
fn sessions_that_differ_in_case_alone_are_two() {
    let facts: Vec<Told> = (0..8)
        .map(|n| Told::new(&format!("fact {n} here")).said(n, if n < 4 { "Session A" } else { "session  a" }, "2026-01-01"))
        .collect();
    let ids: HashSet<FactId> = made(&facts, &[], None).list.iter().map(|d| d.fact_id).collect();
    assert_eq!(ids.len(), 2);
}

fn told() -> impl Strategy<Value = Told> {
    let word = prop::sample::select(vec![
        "gym",
        "Gyms",
        "tea",
        "Berlin",
        "dentist appointment",
        "医院",
        "2026-01-03",
        "running",
        "runs",
        "the",
        "🍕",
        "",
    ]);
    let kind = prop::sample::select(vec![
        FactKind::Fact,
        FactKind::Fact,
        FactKind::Fact,
        FactKind::Attribute,
        FactKind::Summary,
        FactKind::Timeline,
        FactKind::Instruction,
    ]);
    let name = prop::sample::select(vec!["User", "Anna", "gym", "anna"]);
    let triple = prop::option::of((name, prop::sample::select(vec!["likes", "lives in"]), word.clone()));
    let mention = (0..40_u8, prop::option::of(prop::sample::select(vec!["s1", "S1", "s2", "s3"])), 0..6_i64);
    let interval = (0..6_i64, prop::option::of(0..6_i64));
    (kind, prop::collection::vec(word, 1..4), triple, prop::collection::vec(mention, 0..4), prop::collection::vec(interval, 0..3))
        .prop_map(|(kind, words, triple, mentions, intervals)| {
            let mut by_message: BTreeMap<u8, (Option<&str>, i64)> = BTreeMap::new();
            for (message, session, day) in mentions {
                by_message.entry(message).or_insert((session, day));
            }
            Told {
                kind,
                content: words.join(" "),
                triple: triple.map(|(s, p, o)| [s, p, o].map(str::to_owned)),
                slot: None,
                intervals: intervals.into_iter().map(|(from, to)| (from * DAY_US, to.map(|to| to * DAY_US))).collect(),
                mentions: by_message.into_iter().map(|(m, (s, day))| (m, s.map(str::to_owned), day * DAY_US)).collect(),
            }
        })
}

/// One of each id, as a table holds them.
fn set(facts: Vec<Told>) -> Vec<Told> {
    let mut seen = HashSet::new();
    facts.into_iter().filter(|fact| seen.insert(fact.view().fact_id)).collect()
}

type Shown = (FactId, FactKind, String, String, Vec<(FactId, MessageKey)>, i64, i64);

/// What is shown, without the numbers of the facts.
fn shown(facts: &[Told], digests: &Digests) -> Vec<Shown> {
    let views: Vec<DigestFact<'_>> = facts.iter().map(Told::view).collect();
    let evidence = |d: &Digest| {
        d.evidence
            .iter()
            .map(|(f, m)| (views[*f as usize].fact_id, views[*f as usize].mentions[*m as usize].message_key))
            .collect()
    };
    let of = |d: &Digest| (d.fact_id, d.kind, d.subject.clone(), d.content.clone(), evidence(d), d.first_us, d.last_us);
    digests.list.iter().map(of).collect()
}

proptest! {
    #[test]
    fn neither_order_nor_an_earlier_run_matters(
        facts in prop::collection::vec(told(), 0..40), others in prop::collection::vec(told(), 0..20), keep in any::<u64>(), seed in any::<u64>(),
        forgets in prop::collection::vec((0..6_usize, prop::collection::vec(0..40_u8, 0..20)), 0..3),
    ) {
        let facts = set(facts);
        let unforgotten = made(&facts, &[], None);
        let forgets: Vec<(TextHash, Vec<MessageKey>)> = forgets
            .into_iter()
            .filter_map(|(n, keys)| Some((unforgotten.list.get(n)?.text_hash, keys.into_iter().map(|k| MessageKey([k; 16])).collect())))
            .collect();
        let forgotten: Vec<Forgotten<'_>> = forgets.iter().map(|(text_hash, message_keys)| Forgotten { text_hash: *text_hash, message_keys }).collect();
        let fresh = made(&facts, &forgotten, None);

        let mut shuffled = facts.clone();
        shuffled.sort_by_key(|fact| (fact.view().fact_id.0.as_u128() as u64).wrapping_mul(seed | 1));
        for fact in &mut shuffled {
            fact.mentions.sort_by_key(|m| u64::from(m.0 + 1).wrapping_mul(seed | 1));
        }
        let other_way = made(&shuffled, &forgotten, None);
        prop_assert_eq!(shown(&facts, &fresh), shown(&shuffled, &other_way));

        // What was there before: some of the facts, some since changed, some since gone.
        let mut earlier: Vec<Told> = facts.iter().enumerate().filter(|(i, _)| keep >> (i % 64) & 1 == 1).map(|(_, fact)| fact.clone()).collect();
        for fact in earlier.iter_mut().step_by(3) {
            fact.mentions.truncate(1);
            fact.intervals.clear();
        }
        earlier.extend(others);
        let earlier = set(earlier);
        let previous = made(&earlier, &[], None);
        let onwards = made(&facts, &forgotten, Some(&previous));
        prop_assert_eq!(&fresh.list, &onwards.list);
        prop_assert_eq!(&fresh.replaced, &onwards.replaced);
    }

    #[test]
    fn digests_rest_on_what_was_said_and_are_bounded(facts in prop::collection::vec(told(), 0..60)) {
        let facts = set(facts);
        let digests = made(&facts, &[], None);
        let timelines = digests.list.iter().filter(|d| d.kind == FactKind::Timeline).count();
        prop_assert!(timelines <= MAX_TOPICS + facts.len());
        let ids: HashSet<FactId> = digests.list.iter().map(|d| d.fact_id).collect();
        prop_assert_eq!(ids.len(), digests.list.len());
        for digest in &digests.list {
            prop_assert!(!digest.evidence.is_empty() && digest.first_us <= digest.last_us);
            prop_assert!(tokens(&digest.content) <= 700, "{}", digest.content);
            for (fact, mention) in &digest.evidence {
                let fact = &facts[*fact as usize];
                prop_assert!((*mention as usize) < fact.mentions.len());
                prop_assert!(matches!(fact.kind, FactKind::Fact | FactKind::Attribute));
            }
            prop_assert_eq!(ids::entity_key_range(digest.fact_id), ids::entity_key_range(ids::fact_id(&KEY, 1, digest.kind, None, "x")));
        }
    }
}
