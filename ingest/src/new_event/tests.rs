use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(value: Value) -> Answer<NewEvent> {
    NewEvent::read(value)
}

fn with(name: &str, value: Value) -> Value {
    let mut event = json!({"entity_id": "alice", "messages": [{"role": "user", "content": "I like tea."}]});
    event[name] = value;
    event
}

fn with_message(name: &str, value: Value) -> Value {
    let mut message = json!({"role": "user", "content": "I like tea."});
    message[name] = value;
    with("messages", json!([message]))
}

fn paths(value: Value) -> Vec<String> {
    let problem = read(value).unwrap_err();
    assert_eq!(problem.status, 422);
    problem.errors.into_iter().map(|e| e.path).collect()
}

#[test]
fn a_full_event_is_read_exactly() {
    let event = read(json!({
        "event_id": "e 1/ü", "entity_id": " ÄlicE\n", "process_id": "bot", "session_id": "s", "occurred_at": "2026-03-01T12:00:00+02:00",
        "messages": [
            {"message_id": "m1", "role": "user", "content": "Hi <memori_context>- old</memori_context>there", "name": "Al", "created_at": "2026-03-01T09:59:59.5Z"},
            {"role": "assistant", "content": [{"type": "text", "text": "x<memori_context>y</memori_context>"}, "z", {"n": 1.0, "b": [true]}]},
        ],
        "metadata": {"z": "1", "a": ""},
    }))
    .unwrap();
    assert_eq!(event.event_id.as_deref(), Some("e 1/ü"));
    assert_eq!(event.entity_id, " ÄlicE\n");
    assert_eq!(event.occurred_at.unwrap().to_rfc3339(), "2026-03-01T10:00:00Z");
    assert_eq!(event.messages[0].content, "Hi there");
    assert_eq!(event.messages[1].content_format, ContentFormat::Parts);
    assert_eq!(event.messages[1].content, r#"[{"text":"x","type":"text"},"z",{"b":[true],"n":1}]"#);
    assert_eq!(event.metadata.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a", "z"]);
    assert_eq!(event.context_blocks_removed, 2);
}

#[test]
fn null_is_absent() {
    let event = read(
        json!({"event_id": null, "entity_id": "a", "process_id": null, "session_id": null, "occurred_at": null, "metadata": null,
        "messages": [{"message_id": null, "role": "tool", "content": "", "name": null, "created_at": null}]}),
    );
    assert_eq!(event.unwrap().event_id, None);
}

#[test]
fn every_bound_holds_at_its_edge() {
    let text = |n: usize| json!("x".repeat(n));
    let many =
        |n: usize| Value::Array((0..n).map(|i| json!({"message_id": i.to_string(), "role": "user", "content": "x"})).collect());
    let entries = |n: usize| Value::Object((0..n).map(|i| (i.to_string(), json!("v"))).collect());
    let fine = [
        with("event_id", json!("ü".repeat(128))),
        with("entity_id", text(256)),
        with("process_id", text(256)),
        with("session_id", text(256)),
        with_message("message_id", text(256)),
        with_message("content", json!([])),
        with("messages", many(1_000)),
        with("metadata", entries(64)),
        with("occurred_at", json!("0001-01-01T00:00:00Z")),
        with("occurred_at", json!("2026-01-01t00:00:00.123456789z")),
    ];
    for case in fine {
        assert!(read(case.clone()).is_ok(), "{case:.100}");
    }
    let broken = [
        (with("event_id", json!("ü".repeat(129))), "event_id"),
        (with("event_id", json!("")), "event_id"),
        (with("entity_id", text(257)), "entity_id"),
        (with("entity_id", json!("ü".repeat(129))), "entity_id"),
        (with("entity_id", json!("")), "entity_id"),
        (with("entity_id", json!(null)), "entity_id"),
        (with("process_id", text(257)), "process_id"),
        (with("session_id", text(257)), "session_id"),
        (with_message("message_id", text(257)), "messages[0].message_id"),
        (with("messages", many(1_001)), "messages"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!({})), "messages"),
        (with("metadata", entries(65)), "metadata"),
        (with("metadata", json!([])), "metadata"),
        (with("metadata", json!({"a": 1})), "metadata.a"),
        (with("occurred_at", json!("yesterday")), "occurred_at"),
        (with("occurred_at", json!(1_700_000_000)), "occurred_at"),
        (with("occurred_at", json!("2026-01-01T00:00:00")), "occurred_at"),
        (with("occurred_at", json!("2026-02-30T00:00:00Z")), "occurred_at"),
        (with("surprise", json!(1)), "surprise"),
        (with_message("role", json!("USER")), "messages[0].role"),
        (with_message("role", json!(null)), "messages[0].role"),
        (with_message("content", json!(null)), "messages[0].content"),
        (with_message("content", json!(7)), "messages[0].content"),
        (with_message("content", json!([7])), "messages[0].content[0]"),
        (with_message("content", json!([[]])), "messages[0].content[0]"),
        (with_message("name", json!(7)), "messages[0].name"),
        (with_message("created_at", json!("soon")), "messages[0].created_at"),
        (with_message("surprise", json!(1)), "messages[0].surprise"),
        (with("messages", json!(["hello"])), "messages[0]"),
        (json!([]), ""),
        (json!("text"), ""),
    ];
    for (case, path) in broken {
        assert_eq!(paths(case.clone()), [path], "{case:.100}");
    }
}

#[test]
fn u0000_is_refused_wherever_text_can_stand() {
    for name in ["event_id", "entity_id", "process_id", "session_id"] {
        assert_eq!(paths(with(name, json!("a\0b"))), [name]);
    }
    for name in ["message_id", "content", "name"] {
        assert_eq!(paths(with_message(name, json!("a\0b"))), [format!("messages[0].{name}")]);
    }
    assert_eq!(paths(with_message("content", json!(["ok", "a\0"]))), ["messages[0].content[1]"]);
    assert_eq!(paths(with_message("content", json!([{"a": [{"b\0": 1}]}]))), ["messages[0].content[0]"]);
    assert_eq!(paths(with("metadata", json!({"k": "\0"}))), ["metadata.k"]);
    assert_eq!(paths(with("metadata", json!({"k\0": ""}))), ["metadata.k\0"]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let event = json!({"event_id": 7, "occurred_at": "x", "unknown": 1,
        "messages": [{"role": "robot", "content": 7}, {"role": "user", "content": "a", "message_id": "m"}, {"role": "user", "content": "b", "message_id": "m"}]});
    let expected =
        ["event_id", "entity_id", "occurred_at", "messages[0].role", "messages[0].content", "messages[2].message_id", "unknown"];
    assert_eq!(paths(event), expected);
}

#[test]
fn what_differs_only_in_space_or_order_has_one_hash() {
    let a = read(with("metadata", json!({"a": "1", "b": "2"}))).unwrap();
    let b = read(with("metadata", json!({"b": "2", "a": "1"}))).unwrap();
    assert_eq!(a.content_hash(), b.content_hash());
    let parts = |text: &str| read(with_message("content", serde_json::from_str(text).unwrap())).unwrap().content_hash();
    assert_eq!(parts(r#"[{"a":1,"b":1e2}]"#), parts(r#"[ {"b": 100.0, "a": 1} ]"#));
    assert_ne!(parts(r#"[{"a":1}]"#), parts(r#"[{"a":2}]"#));
    let quoted = read(with_message("content", json!("I like tea.<memori_context>x</memori_context>"))).unwrap();
    assert_eq!(quoted.content_hash(), read(with("metadata", json!({}))).unwrap().content_hash());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop_oneof![
            Just("entity_id".to_owned()),
            Just("messages".to_owned()),
            Just("role".to_owned()),
            Just("content".to_owned()),
            Just("metadata".to_owned()),
            Just("event_id".to_owned()),
            any::<String>()
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused_by_name(value in any_json()) {
        match read(value) {
            Ok(event) => prop_assert!(!event.entity_id.is_empty() && !event.messages.is_empty()),
            Err(problem) => prop_assert!(problem.status == 422 && !problem.errors.is_empty()),
        }
    }

    #[test]
    fn any_text_is_kept_byte_for_byte(entity in "[^\\x00]{1,60}", content in "[^\\x00<]{0,80}") {
        let event = read(json!({"entity_id": entity, "messages": [{"role": "user", "content": content}]})).unwrap();
        prop_assert_eq!(event.entity_id, entity);
        prop_assert_eq!(&event.messages[0].content, &content);
    }
}

fn near_events() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        4 => "[a-z é]{0,12}".prop_map(|text| Value::from(text).to_string()),
        1 => Just("null".to_owned()),
        1 => Just("7".to_owned()),
        1 => Just(r#""\u0000""#.to_owned()),
        1 => Just(r#""\ud83d\ude00 \n""#.to_owned()),
        1 => Just(r#""\ud800""#.to_owned()),
        1 => Just(r#""a <memori_context>x</memori_context> b""#.to_owned()),
        1 => Just(r#"[{"type":"text","text":"x"}]"#.to_owned()),
    ];
    let role = prop_oneof![4 => Just(r#""user""#.to_owned()), 1 => Just(r#""us\u0065r""#.to_owned()), 1 => text.clone()];
    let time = prop_oneof![
        4 => Just(r#""2026-01-31T12:00:00Z""#.to_owned()),
        1 => Just(r#""2026-01-31T12:00:00\u005a""#.to_owned()),
        1 => text.clone()
    ];
    let object = |members: Vec<(&'static str, String)>| {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    };
    let named = move |name: &'static str, value: BoxedStrategy<String>| value.prop_map(move |value| (name, value)).boxed();
    let id = prop_oneof![Just(r#""m1""#.to_owned()), Just(r#""m2""#.to_owned())].boxed();
    let some = move |member: BoxedStrategy<(&'static str, String)>, most| proptest::collection::vec(member, 0..=most);
    let message = (
        some(named("message_id", id), 1),
        some(named("role", role.boxed()), 1),
        some(named("content", text.clone().boxed()), 2),
        some(named("name", text.clone().boxed()), 1),
        some(named("created_at", time.clone().boxed()), 1),
    )
        .prop_map(move |(a, b, c, d, e)| object([a, b, c, d, e].concat()));
    let messages = proptest::collection::vec(message, 0..4).prop_map(|messages| format!("[{}]", messages.join(",")));
    let metadata = proptest::collection::vec(("[ab]", text.clone()), 0..3).prop_map(|entries| {
        let entries: Vec<String> = entries.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", entries.join(","))
    });
    (
        some(named("event_id", text.clone().boxed()), 1),
        some(named("entity_id", text.clone().boxed()), 1),
        some(named("process_id", text.clone().boxed()), 1),
        some(named("occurred_at", time.boxed()), 1),
        proptest::collection::vec(named("messages", messages.boxed()), 1..=2),
        some(named("metadata", metadata.boxed()), 1),
        some(named("surprise", text.boxed()), 1),
    )
        .prop_map(move |(a, b, c, d, e, f, g)| object([a, b, c, d, e, f, g].concat()))
}

const PLAIN: &str = r#"{"event_id":"e","entity_id":"a","process_id":"p","session_id":"s","occurred_at":"2026-01-31T12:00:00Z",
    "messages":[{"message_id":"m","role":"user","content":"I like <b>tea</b>.","name":"Al","created_at":"2026-01-31T12:00:00Z"}],
    "metadata":{"b":"1","a":"2"}}"#;

#[test]
fn nearly_every_event_goes_the_short_way() {
    let event = NewEvent::read_plain(PLAIN.as_bytes()).expect("it is plain");
    assert_eq!(Ok(event), NewEvent::read(serde_json::from_str(PLAIN).unwrap()));
    assert!(NewEvent::read_plain(br#"{"entity_id":"a","messages":[{"role":"user","content":"x"}]}"#).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// What the short way takes, the long way takes as the same.
    #[test]
    fn the_short_way_is_the_long_one(text in near_events()) {
        let long = parse_json(text.as_bytes()).and_then(NewEvent::read);
        if let Some(short) = NewEvent::read_plain(text.as_bytes()) {
            prop_assert_eq!(long.as_ref(), Ok(&short));
        }
        prop_assert_eq!(NewEvent::read_text(text.as_bytes()), long);
    }

    #[test]
    fn broken_text_goes_the_long_way(cut in 0..PLAIN.len(), noise in any::<Vec<u8>>()) {
        let text = [&PLAIN.as_bytes()[..cut], &noise, &PLAIN.as_bytes()[cut..]].concat();
        if let Some(short) = NewEvent::read_plain(&text) {
            prop_assert_eq!(Ok(short), parse_json(&text).and_then(NewEvent::read));
        }
    }
}
