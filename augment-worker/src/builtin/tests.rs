//! The extractor as a whole.

use memori_schemas::{ContentFormat, ConversationEvent, Fact, FactKind, Message, Micros, Role, ids};
use proptest::prelude::*;

use super::extract;

fn message(role: Role, name: Option<&str>, content: &str) -> Message {
    Message {
        message_id: None,
        role,
        name: name.map(Into::into),
        content: content.into(),
        content_format: ContentFormat::Text,
        created_at: None,
    }
}

fn event(messages: Vec<Message>) -> ConversationEvent {
    // A Wednesday.
    let at = Micros::parse_rfc3339("2024-05-15T10:00:00Z").unwrap();
    ConversationEvent {
        tenant: "t".into(),
        entity_id: "e".into(),
        process_id: None,
        session_id: None,
        event_id: "ev".into(),
        content_hash: ids::content_hash("e", None, &messages, &[]),
        occurred_at: at,
        accepted_at: at,
        messages,
        metadata: Vec::new(),
        supplied: memori_schemas::Supplied::default(),
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

fn said(text: &str) -> Vec<Fact> {
    extract(&event(vec![message(Role::User, None, text)]))
}

fn texts(text: &str) -> Vec<String> {
    said(text).into_iter().map(|f| f.text).collect()
}

#[test]
fn the_contract_s_example() {
    let facts = extract(&event(vec![message(Role::User, Some("Alice"), "I prefer async Python.")]));
    assert_eq!(facts.len(), 1);
    let fact = &facts[0];
    assert_eq!(fact.text, "Alice prefers async Python");
    assert_eq!(
        (fact.subject.as_deref(), fact.predicate.as_deref(), fact.object.as_deref()),
        (Some("Alice"), Some("prefers"), Some("async Python"))
    );
    assert_eq!(fact.evidence.len(), 1);
    assert_eq!(fact.evidence[0].message_id, "ev#0");
}

#[test]
fn statements_in_english() {
    for (text, meant) in [
        ("I love my dog.", vec!["User loves their dog"]),
        ("I like tea and hate coffee.", vec!["User likes tea", "User hates coffee"]),
        ("I like tea, coffee and C#", vec!["User likes tea", "User likes coffee", "User likes C#"]),
        ("I have two dogs, Rex and Max.", vec!["User has two dogs, Rex and Max"]),
        ("i'm a nurse", vec!["User is a nurse"]),
        ("I'm vegetarian, what should I cook?", vec!["User is vegetarian"]),
        (
            "My sister Anna is a doctor. She lives in Rome.",
            vec!["User's sister Anna is a doctor", "User's sister Anna lives in Rome"],
        ),
        ("Our server runs Debian.", vec!["Our server runs Debian"]),
        ("Yesterday I went to the gym.", vec!["on 2024-05-14 User went to the gym"]),
        ("I went to the gym yesterday.", vec!["User went to the gym on 2024-05-14"]),
        ("I have a dentist appointment tomorrow at 5.", vec!["User has a dentist appointment on 2024-05-16 at 5"]),
        ("Just moved to Berlin last week!", vec!["User just moved to Berlin in the week of 2024-05-06"]),
        ("By the way, my favourite colour is blue.", vec!["User's favourite colour is blue"]),
        ("I don't like rain", vec!["User doesn't like rain"]),
        ("I no longer live in Paris.", vec!["User no longer lives in Paris"]),
        ("I think I need a new laptop", vec!["User needs a new laptop"]),
        ("I work at Acme as a software engineer.", vec!["User works at Acme", "User works as a software engineer"]),
        (
            "My favorite color used to be red but now it is blue.",
            vec!["User's favorite color used to be red", "User's favorite color is blue"],
        ),
        ("item 10", vec!["item 10"]),
        ("Hello! Thanks a lot. How are you? ok", vec![]),
        ("Please write a poem about rain.", vec![]),
        ("Can you help me with Rust?", vec![]),
    ] {
        assert_eq!(texts(text), meant, "{text}");
    }
}

#[test]
fn punctuation_keeps_languages_apart() {
    let all: Vec<Fact> = ["I use C", "I use C++", "I use C#", "item 10", "item 1-0"].iter().flat_map(|t| said(t)).collect();
    let key = ids::entity_key("t", "e");
    let distinct: std::collections::BTreeSet<_> = all.iter().map(|f| f.id(&key, 1)).collect();
    assert_eq!(distinct.len(), 5);
    let slots: std::collections::BTreeSet<_> = all.iter().filter_map(|f| f.slot.clone()).collect();
    assert_eq!(slots.into_iter().collect::<Vec<_>>(), ["user/uses/c", "user/uses/c#", "user/uses/c++"]);
}

#[test]
fn slots_of_what_is_one_at_a_time() {
    for (text, slot) in [
        ("I live in Berlin", Some("user/lives_in")),
        ("I moved to Rome in 2019", Some("user/lives_in")),
        ("I moved from Paris to Rome", Some("user/lives_in")),
        ("I got a new job at Acme", Some("user/works_at")),
        ("I have been a vegetarian for ten years", None),
        ("I no longer live in Paris", Some("user/lives_in")),
        ("I don't live in Paris anymore", Some("user/lives_in")),
        ("I work at Acme", Some("user/works_at")),
        ("I quit my job", Some("user/works_at")),
        ("I work as a nurse", Some("user/job")),
        ("I'm a software engineer", Some("user/job")),
        ("My name is Bob", Some("user/name")),
        ("I am 30 years old", Some("user/age")),
        ("I'm married", Some("user/marital_status")),
        ("I'm vegan", Some("user/diet")),
        ("My favorite food is sushi", Some("user/favourite food")),
        ("I like tea", Some("user/attitude/tea")),
        ("I hate tea", Some("user/attitude/tea")),
        ("I will move to Rome", None),
        ("I used to live in Paris", None),
        ("I want to live in Paris", None),
        ("I went to Paris", None),
    ] {
        let facts = said(text);
        assert_eq!(facts.len(), 1, "{text}");
        assert_eq!(facts[0].slot.as_deref(), slot, "{text}");
    }
}

#[test]
fn validity_begins_where_it_was_said_and_never_ahead_of_the_event() {
    let from = |text: &str| said(text)[0].valid_from.map(Micros::to_rfc3339);
    assert_eq!(from("I moved to Rome in March 2019").as_deref(), Some("2019-03-01T00:00:00Z"));
    assert_eq!(from("I started at Acme last Monday").as_deref(), Some("2024-05-13T00:00:00Z"));
    assert_eq!(from("I am moving to Rome next week"), None);
    assert_eq!(from("I live in Rome"), None);
}

#[test]
fn only_people_are_believed() {
    let facts = extract(&event(vec![
        message(Role::System, None, "The user lives in Mars."),
        message(Role::Assistant, None, "You live in Venus."),
        message(Role::Tool, Some("search"), "He lives on Pluto."),
        message(
            Role::User,
            Some("Ann"),
            "I live in Rome.\n<memori_context>I live in Oslo.</memori_context>\nI like tea. <memori_context>\nI like blood.",
        ),
        message(Role::User, Some("Bob"), "I live in Rome."),
    ]));
    let got: Vec<_> =
        facts.iter().map(|f| (f.text.as_str(), f.subject.as_deref().unwrap(), f.evidence[0].message_index)).collect();
    assert_eq!(got, [("Ann lives in Rome", "Ann", 3), ("Ann likes tea", "Ann", 3), ("Bob lives in Rome", "Bob", 4)]);
}

#[test]
fn the_same_twice_is_one_fact_with_two_messages() {
    let facts =
        extract(&event(vec![message(Role::User, None, "I like tea. I like tea!"), message(Role::User, None, "i like tea")]));
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].evidence.iter().map(|e| e.message_index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn instructions_are_a_kind_of_their_own() {
    let facts = extract(&event(vec![message(
        Role::User,
        Some("Alice"),
        "Always answer me in metric units. I like tea. Antworte immer auf Deutsch.",
    )]));
    let got: Vec<_> = facts.iter().map(|f| (f.kind, f.text.as_str())).collect();
    assert_eq!(
        got,
        [
            (FactKind::Instruction, "Always answer Alice in metric units"),
            (FactKind::Fact, "Alice likes tea"),
            (FactKind::Instruction, "Antworte immer auf Deutsch")
        ]
    );
}

#[test]
fn every_script_yields_a_fact() {
    for text in [
        "Ich wohne in Köln.",
        "J'habite à Lyon.",
        "Vivo en Madrid.",
        "Abito a Roma.",
        "Moro em Lisboa.",
        "Ik woon in Utrecht.",
        "我住在巴黎。",
        "我喜欢喝茶",
        "私は東京に住んでいます。",
        "저는 서울에 살아요.",
        "Я живу в Москве.",
        "Μένω στην Αθήνα.",
        "أعيش في القاهرة.",
        "אני גר בחיפה.",
        "मैं दिल्ली में रहता हूँ।",
        "ผมอาศัยอยู่ในกรุงเทพ",
        "Tôi sống ở Hà Nội.",
        "İstanbul'da yaşıyorum.",
        "Mieszkam w Krakowie.",
        "நான் சென்னையில் வசிக்கிறேன்.",
        "მე თბილისში ვცხოვრობ.",
        "Ես ապրում եմ Երևանում։",
        "ខ្ញុំរស់នៅភ្នំពេញ។",
        "Ninaishi Nairobi.",
        "Asun Helsingissä.",
        "Jag bor i Lund.",
    ] {
        assert_eq!(said(text).len(), 1, "{text}");
    }
}

#[test]
fn a_full_event_stays_within_its_record() {
    let sentence = "I ran. ".repeat(1024 * 1024 / 7);
    let facts = said(&sentence);
    assert!(facts.len() <= 3, "{}", facts.len());
    let many: String = (0..60_000).map(|i| format!("I saw item {i}. ")).collect();
    let facts = said(&many);
    assert!(facts.len() > 2_000 && facts.len() < 3_600, "{}", facts.len());
    assert!(facts.iter().all(|f| f.text.len() <= super::MAX_BLOCK_BYTES));
    assert!(facts.iter().any(|f| f.text.contains("item 59999")), "nothing is lost past the bound");
    let messages = (0..1_000)
        .map(|i| {
            message(
                Role::User,
                Some(&"n".repeat(500)),
                &format!("I saw {i} one. I saw {i} two. I saw {i} three. I saw {i} four."),
            )
        })
        .collect();
    let facts = extract(&event(messages));
    for i in 0..1_000 {
        assert!(facts.iter().any(|f| f.evidence.iter().any(|e| e.message_index == i)), "message {i} has a fact");
    }
}

/// What this thread has computed for, so that other work on the machine does not count. Elsewhere than on Linux: the time.
fn busy_seconds() -> f64 {
    static BEGIN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    let nanoseconds =
        std::fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|s| s.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| BEGIN.elapsed().as_secs_f64(), |n| n / 1e9)
}

#[test]
fn time_grows_with_the_length_and_no_faster() {
    for unit in [
        "I like tea and ",
        "a",
        "(\"",
        "“",
        "<memori_context",
        "<memori_context></memori_context>",
        "I, my ",
        "茶",
        "```\n",
        ". ",
        "' \" ",
        "\n> I\n",
        "I like a. ",
        "ё́",
        "last next in 3 days ago ",
        "Dr. ",
    ] {
        let of = |bytes: usize| {
            let text = unit.repeat(bytes / unit.len());
            let once = || {
                let begin = busy_seconds();
                std::hint::black_box(said(&text));
                busy_seconds() - begin
            };
            once().min(once())
        };
        let (small, large) = (of(12 * 1024), of(96 * 1024));
        assert!(large < small.max(0.005) * 8.0 * 4.0, "{unit:?}: {small} s for 12 KiB, {large} s for 96 KiB");
    }
}

const PLAIN: &[&str] = &[
    "I visited {}",
    "I like {}",
    "My dog is called {}",
    "{} is my home",
    "We met in {}",
    "Ich mag {}",
    "J'aime {}",
    "我喜欢{}",
    "{}が好きです",
    "Я люблю {}",
    "أحب {}",
    "There was a {} here",
];

proptest! {
    #[test]
    fn any_text_is_survived_and_evidence_is_true(contents in proptest::collection::vec(("\\PC{0,200}|[ -~\n]{0,200}|(I |my |and |, |last |Friday |\\? |\"|always |never |\\.|\n|我|住在|。){0,40}", 0_usize..4), 0..6)) {
        let messages: Vec<Message> = contents.iter().map(|(c, r)| message(Role::ALL[*r], (c.len() % 3 == 0).then_some("Zoë"), c)).collect();
        let event = event(messages);
        let facts = extract(&event);
        prop_assert_eq!(&facts, &extract(&event));
        for fact in facts {
            prop_assert!(!fact.text.is_empty() && !fact.evidence.is_empty());
            prop_assert!((0.0..=1.0).contains(&fact.confidence));
            prop_assert!(fact.valid_from.is_none_or(|from| from <= event.occurred_at));
            for e in fact.evidence {
                let index = usize::try_from(e.message_index).unwrap();
                prop_assert_eq!(event.messages[index].role, Role::User);
                prop_assert_eq!(e.message_key, event.message_key(index));
            }
        }
    }

    #[test]
    fn every_plain_statement_yields_a_fact(template in 0..PLAIN.len(), word in "[A-Z][a-z]{3,10}|[0-9]{1,4}[a-z]{2,6}|[一-龥]{1,4}|[a-z]{3,9}-[0-9]{1,3}") {
        let text = PLAIN[template].replace("{}", &word);
        let facts = said(&text);
        prop_assert!(!facts.is_empty(), "{}", text);
        prop_assert!(facts.iter().any(|f| f.text.contains(&word)), "{} → {:?}", text, facts);
    }
}
