//! Dead letters over the SQLite store: who sees which, where they stand, and what is handed out to be redriven.

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memori_schemas::{
    ConversationEvent, Cover, DeadLetter, DeadLetterClass, Lane, LogRecordBody, Micros, Origin, Role, framing, ids,
};
use serde_json::{Value, json};
use world::{START_US, TENANT, World, cover, event};

const LIST: &str = "/v1/admin/dead-letters";
const REDRIVABLE: &str = "/internal/v1/dead-letters/redrivable";

fn of(tenant: &str, entity_id: &str, event_id: &str) -> ConversationEvent {
    ConversationEvent { tenant: tenant.into(), ..event(entity_id, event_id, 0, &[(Role::User, "I like tea.")]) }
}

/// The letter about an event whose record stands at `offset`, given up at that second.
fn letter(event: &ConversationEvent, offset: i64, class: DeadLetterClass) -> DeadLetter {
    DeadLetter {
        tenant: Some(event.tenant.clone()),
        entity_id: Some(event.entity_id.clone()),
        source_topic: "conversations.live".into(),
        source_topic_id: "conv.1".into(),
        source_partition: 3,
        source_offset: offset,
        lane: Lane::Live,
        generation: 1,
        class,
        reason: format!("because of {class}"),
        attempts: 3,
        covers: vec![Cover { offset, ..cover(event) }],
        original_key: ids::log_key(&event.tenant, &event.entity_id),
        original_payload: framing::encode(&LogRecordBody::Conversation(event.clone())).unwrap(),
        failed_at: Micros(START_US + offset * 1_000_000),
        key_id: None,
    }
}

fn ids_of(answer: &Value) -> Vec<&str> {
    answer["dead_letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect()
}

async fn list(world: &World, tenant: &str, query: &str) -> Value {
    let answer = world.get_as(tenant, &format!("{LIST}?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

/// Two tenants and a letter of nobody's: acme's at 10 (refused), 20 (invalid output, of bob) and 30 (poison); globex's at 15.
async fn some() -> World {
    let mut world = World::sqlite().await;
    let (alice, bob, stranger) = (of(TENANT, "alice", "a"), of(TENANT, "bob", "b\"c"), of("globex", "alice", "a"));
    world.said(&alice);
    world.letter(&letter(&alice, 10, DeadLetterClass::Refused));
    world.letter(&letter(&bob, 20, DeadLetterClass::InvalidOutput));
    world.letter(&letter(&stranger, 15, DeadLetterClass::Refused));
    let garbage = DeadLetter {
        covers: Vec::new(),
        lane: Lane::Backfill,
        source_topic: "conversations.backfill".into(),
        original_payload: b"nonsense".to_vec(),
        ..letter(&alice, 30, DeadLetterClass::Poison)
    };
    world.letter(&garbage);
    let nobodys = DeadLetter {
        tenant: None,
        entity_id: None,
        original_key: b"?".to_vec(),
        source_offset: 40,
        failed_at: Micros(START_US),
        ..garbage
    };
    world.letter(&nobodys);
    world.flush().await;
    world
}

#[tokio::test]
async fn a_listing_is_narrowed_by_what_it_says_and_by_whose_it_is() {
    let world = some().await;
    let all = ["conv.1.3.30.1", "conv.1.3.20.1", "conv.1.3.10.1"];
    assert_eq!(ids_of(&list(&world, TENANT, "").await), all, "the newest first");
    for (query, expected) in [
        ("class=refused", &["conv.1.3.10.1"][..]),
        ("class=quota", &[]),
        ("lane=backfill", &["conv.1.3.30.1"]),
        ("generation=2", &[]),
        ("entity_id=bob", &["conv.1.3.20.1"]),
        ("event_id=b%22c", &["conv.1.3.20.1"]),
        ("event_id=b", &[]),
        ("since=2026-01-01T00:00:20Z", &["conv.1.3.30.1", "conv.1.3.20.1"]),
        ("until=2026-01-01T00:00:20Z", &["conv.1.3.10.1"]),
        ("state=open", &["conv.1.3.20.1", "conv.1.3.10.1"]),
        ("state=unreadable", &["conv.1.3.30.1"]),
        ("tenant=acme&class=refused", &["conv.1.3.10.1"]),
    ] {
        assert_eq!(ids_of(&list(&world, TENANT, query).await), expected, "{query}");
    }
    assert_eq!(ids_of(&list(&world, "globex", "").await), ["conv.1.3.15.1"], "tenants are walls");
    assert_eq!(ids_of(&list(&world, "nobody", "").await), [""; 0]);
    assert_eq!(list(&world, "*", "").await["dead_letters"].as_array().unwrap().len(), 5, "who administers all sees all");
    assert_eq!(ids_of(&list(&world, "*", "tenant=globex&entity_id=alice").await), ["conv.1.3.15.1"]);
    for (tenant, query, path) in [
        (TENANT, "tenant=globex", "tenant"),
        ("*", "entity_id=alice", "entity_id"),
        (TENANT, "class=none", "class"),
        (TENANT, "state=none", "state"),
        (TENANT, "lane=none", "lane"),
        (TENANT, "since=yesterday", "since"),
        (TENANT, "cursor=zz", "cursor"),
        (TENANT, "limit=0", "limit"),
        (TENANT, "of=all", "of"),
    ] {
        let answer = world.get_as(tenant, &format!("{LIST}?{query}")).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["errors"][0]["path"]), (422, &json!(path)), "{query}");
    }
}

#[tokio::test]
async fn pages_hold_each_letter_once() {
    let mut world = World::sqlite().await;
    for n in 0..25 {
        let event = of(TENANT, &format!("person-{n}"), &format!("e{n}"));
        // Some at one time: then the place in the log decides.
        let failed_at = Micros(START_US + n / 3);
        world.letter(&DeadLetter { failed_at, ..letter(&event, n, DeadLetterClass::Refused) });
    }
    world.flush().await;
    for (limit, query) in [(1, ""), (4, ""), (7, "state=open"), (1_000, "")] {
        let (mut seen, mut cursor): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let after = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page = list(&world, TENANT, &format!("limit={limit}&{query}{after}")).await;
            assert!(ids_of(&page).len() <= limit);
            seen.extend(ids_of(&page).into_iter().map(str::to_owned));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), distinct.len()), (25, 25), "{limit} {query}");
    }
    // The other way round, for those who redrive.
    let first = world.post(REDRIVABLE, json!({"filter": {}, "limit": 2})).await.json();
    assert_eq!(first["letters"][0]["offset"], 0);
    let then = world.post(REDRIVABLE, json!({"filter": {}, "limit": 200, "cursor": first["next_cursor"]})).await.json();
    let offsets: Vec<i64> = then["letters"].as_array().unwrap().iter().map(|l| l["offset"].as_i64().unwrap()).collect();
    assert_eq!((offsets, &then["next_cursor"]), ((2..25).collect(), &Value::Null));
}

#[tokio::test]
async fn a_letter_shows_its_record_to_its_owner_alone() {
    let world = some().await;
    let show = async |tenant: &str, id: &str| world.get_as(tenant, &format!("{LIST}/{id}")).await;
    let shown = show(TENANT, "conv.1.3.10.1").await.json();
    for (name, value) in [
        ("id", json!("conv.1.3.10.1")),
        ("state", json!("open")),
        ("tenant", json!("acme")),
        ("entity_id", json!("alice")),
        ("class", json!("refused")),
        ("reason", json!("because of refused")),
        ("attempts", json!(3)),
        ("failed_at", json!("2026-01-01T00:00:10Z")),
        ("generation", json!(1)),
        ("lane", json!("live")),
        ("source", json!({"topic": "memori.conversations.live", "topic_id": "conv.1", "partition": 3, "offset": 10})),
        ("key", json!({"format": "entity", "value": {"tenant": "acme", "entity_id": "alice"}})),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    assert_eq!(shown["events"][0]["event_id"], "a");
    assert_eq!(shown["payload"]["format"], "conversation_event");
    assert_eq!(shown["payload"]["value"]["messages"][0]["content"], "I like tea.");
    let original = letter(&of(TENANT, "alice", "a"), 10, DeadLetterClass::Refused);
    assert_eq!(shown["payload_bytes"], original.original_payload.len());
    let raw = show(TENANT, "conv.1.3.10.1?raw=true").await.json();
    assert_eq!(
        raw["payload"],
        json!({"format": "base64", "value": STANDARD.encode(&original.original_payload)}),
        "byte for byte"
    );
    assert_eq!(raw["key"]["value"], STANDARD.encode(&original.original_key));
    let garbage = show(TENANT, "conv.1.3.30.1").await.json();
    assert_eq!(garbage["payload"], json!({"format": "base64", "value": STANDARD.encode("nonsense")}));
    assert_eq!((&garbage["state"], &garbage["events"]), (&json!("unreadable"), &json!([])));
    for (tenant, id, status) in [
        ("globex", "conv.1.3.10.1", 404),
        (TENANT, "conv.1.3.15.1", 404),
        (TENANT, "conv.1.3.40.1", 404),
        ("*", "conv.1.3.40.1", 200),
        ("*", "conv.1.3.15.1", 200),
        (TENANT, "conv.1.3.11.1", 404),
        (TENANT, "nonsense", 404),
        (TENANT, "conv.1.3.10.1?raw=perhaps", 422),
    ] {
        assert_eq!(show(tenant, id).await.status.as_u16(), status, "{tenant} {id}");
    }
}

#[tokio::test]
async fn where_a_letter_stands_follows_what_came_after_it() {
    let mut world = World::sqlite().await;
    let first = of(TENANT, "alice", "a");
    world.said(&first);
    world.letter(&letter(&first, 10, DeadLetterClass::Refused));
    world.flush().await;
    let states = async |world: &World| {
        let answer = list(world, TENANT, "").await;
        let letters = answer["dead_letters"].as_array().unwrap().clone();
        letters
            .iter()
            .map(|l| (l["id"].as_str().unwrap().to_owned(), l["state"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let state = |offset: i64, state: &str| (format!("conv.1.3.{offset}.1"), state.to_owned());
    assert_eq!(states(&world).await, [state(10, "open")]);
    let handed = world.post(REDRIVABLE, json!({"ids": ["conv.1.3.10.1", "gone.1.2.3"]})).await.json();
    let event = &handed["letters"][0]["events"][0];
    assert_eq!((&event["attempt"], &event["lane"], &event["offset"]), (&json!(0), &json!("live"), &json!(10)));
    assert!(handed["letters"][0]["payload"].is_string());
    assert_eq!(handed["letters"][1], json!({"id": "gone.1.2.3", "state": "not_found", "events": []}));

    // The copy that went again dies, too: now its letter counts, and that it had been redriven once.
    let copy = ConversationEvent { attempt: 1, origin: Some(Origin { lane: Lane::Live, offset: 10 }), ..first.clone() };
    world.said(&copy);
    world.letter(&letter(&copy, 90, DeadLetterClass::Expired));
    world.flush().await;
    assert_eq!(states(&world).await, [state(90, "open"), state(10, "superseded")]);
    let handed = world.post(REDRIVABLE, json!({"filter": {"state": "open"}})).await.json();
    assert_eq!(handed["letters"].as_array().unwrap().len(), 1);
    assert_eq!(handed["letters"][0]["events"][0]["attempt"], 1);

    let copy = ConversationEvent { attempt: 2, ..copy };
    world.learned(&copy, 1, vec![world::fact(&copy, 0, memori_schemas::FactKind::Fact, "Alice likes tea")]);
    world.flush().await;
    assert_eq!(states(&world).await, [state(90, "applied"), state(10, "applied")]);

    world.erased("alice", "x");
    world.flush().await;
    assert_eq!(states(&world).await, [state(90, "erased"), state(10, "erased")]);
    let erased = world.get(&format!("{LIST}/conv.1.3.10.1")).await.json();
    assert_eq!((&erased["key"], &erased["payload"], &erased["payload_bytes"]), (&Value::Null, &Value::Null, &json!(0)));
    let handed = world.post(REDRIVABLE, json!({"filter": {}})).await.json();
    assert!(handed["letters"].as_array().unwrap().iter().all(|l| l["state"] == "erased" && l["payload"].is_null()), "{handed}");
}

#[tokio::test]
async fn what_is_handed_out_is_bounded_and_within_the_walls() {
    let world = some().await;
    for (body, path) in [
        (json!({}), "ids"),
        (json!({"filter": {"class": "none"}}), "filter.class"),
        (json!({"filter": {"tenant": "globex"}}), "filter.tenant"),
        (json!({"filter": {"of": 1}}), "filter.of"),
        (json!({"ids": [1]}), "ids[0]"),
        (json!({"filter": {}, "cursor": "zz"}), "cursor"),
    ] {
        let answer = world.post(REDRIVABLE, body.clone()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["errors"][0]["path"]), (422, &json!(path)), "{body}");
    }
    let of_others = world.post(REDRIVABLE, json!({"ids": ["conv.1.3.15.1", "conv.1.3.40.1"]})).await.json();
    let letters = of_others["letters"].as_array().unwrap();
    assert!(letters.len() == 2 && letters.iter().all(|letter| letter["state"] == "not_found"), "{of_others}");
    let all = world.post_as("*", REDRIVABLE, json!({"filter": {}})).await.json();
    assert_eq!(all["letters"].as_array().unwrap().len(), 5);

    // Records of 3 MiB: two fit into one answer, and the rest into the next ones.
    let mut world = World::sqlite().await;
    for n in 0..5 {
        let event = of(TENANT, "large", &format!("e{n}"));
        world.letter(&DeadLetter { original_payload: vec![7; 3 << 20], ..letter(&event, n, DeadLetterClass::TooLarge) });
    }
    world.flush().await;
    let (mut sizes, mut body) = (Vec::new(), json!({"filter": {}}));
    loop {
        let page = world.post(REDRIVABLE, body.clone()).await.json();
        sizes.push(page["letters"].as_array().unwrap().len());
        if page["next_cursor"].is_null() {
            break;
        }
        body["cursor"] = page["next_cursor"].clone();
    }
    assert_eq!(sizes, [2, 2, 1]);
}
