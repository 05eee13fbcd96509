//! Redriving at the front door: what goes onto the log again, what is refused, how a call is bounded.

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Door, FakeLog, FakeWriter, Mode, event};
use memori_event_log::Topic;
use memori_ingest::IngestConfig;
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, Origin, framing};
use memori_service::auth::KeyRing;
use serde_json::{Value, json};

const PATH: &str = "/v1/admin/dead-letters/redrive";

/// A front door whose log took these events, all of which ended in dead letters.
async fn with_letters(texts: &[&str], config: IngestConfig) -> (Door, Vec<ConversationEvent>) {
    let door = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await;
    for (n, text) in texts.iter().enumerate() {
        door.post("/v1/events", &event(&format!("e{n}"), &format!("person-{n}"), text)).await.ok(202);
    }
    let records = door.log.records(Topic::ConversationsLive);
    let mut letters: Vec<(String, Value)> = records
        .iter()
        .map(|record| {
            let LogRecordBody::Conversation(event) = framing::decode(&record.payload).unwrap() else { panic!("an event") };
            let letter = json!({
                "id": format!("letter-{}", event.event_id), "state": "open", "class": "refused",
                "source_topic": "conversations.live", "source_topic_id": "id-of-conversations.live",
                "partition": record.source.partition, "offset": record.offset, "entity_key": event.entity_key().to_string(),
                "events": [{"event_id": event.event_id, "content_hash": event.content_hash.to_string(), "state": "open", "attempt": 0,
                    "lane": "live", "offset": record.offset}],
                "payload": STANDARD.encode(&record.payload),
            });
            (event.event_id.clone(), letter)
        })
        .collect();
    letters.sort_by(|a, b| a.0.cmp(&b.0));
    for (n, (_, letter)) in letters.iter_mut().enumerate() {
        letter["cursor"] = (n + 1).to_string().into();
    }
    door.writer.inner().redrivable = letters.into_iter().map(|(_, letter)| letter).collect();
    let mut events = door.log.events();
    events.sort_by(|a, b| a.event_id.cmp(&b.event_id));
    (door, events)
}

fn copies(door: &Door) -> Vec<ConversationEvent> {
    let mut copies: Vec<ConversationEvent> = door.log.events().into_iter().filter(|event| event.attempt > 0).collect();
    copies.sort_by(|a, b| a.event_id.cmp(&b.event_id));
    copies
}

#[tokio::test]
async fn what_ends_in_a_letter_goes_again_and_the_same_redrive_twice_goes_once() {
    let (door, events) = with_letters(&["tea", "rum", "milk", "soup"], IngestConfig::default()).await;
    let dry = door.post(PATH, &json!({"filter": {"class": "refused"}, "dry_run": true})).await.ok(200).body.clone();
    assert_eq!((&dry["redriven"], &dry["dry_run"], &dry["next_cursor"]), (&json!(4), &json!(true), &json!(null)));
    assert_eq!(dry["results"][0]["result"], "would_redrive");
    assert!(copies(&door).is_empty(), "nothing went");

    door.writer.inner().takes_no_acts = true;
    door.post(PATH, &json!({"filter": {"class": "refused"}})).await.problem(503);
    assert!(copies(&door).is_empty(), "what cannot be noted is not done");
    door.writer.inner().takes_no_acts = false;
    let answer = door.post(PATH, &json!({"filter": {"class": "refused"}})).await.ok(200).body.clone();
    let noted = json!({"tenant": "default", "act": "dead_letters.redrive", "subject": "default",
        "detail": {"filter": {"class": "refused"}, "to_lane": null}});
    assert_eq!(door.writer.inner().acts, [noted]);
    assert_eq!((&answer["redriven"], &answer["refused"], &answer["stopped"]), (&json!(4), &json!(0), &json!(null)));
    let expected = json!({"id": "letter-e0", "event_id": "e0", "result": "redriven", "attempt": 1, "lane": "live"});
    assert_eq!(answer["results"][0], expected);
    let gone = copies(&door);
    for (copy, first) in gone.iter().zip(&events) {
        let origin = copy.origin.expect("where the first copy stands");
        assert_eq!(origin.lane, Lane::Live);
        assert_eq!(copy, &ConversationEvent { attempt: 1, origin: Some(origin), ..first.clone() });
    }
    assert_eq!(gone.len(), 4);
    let (tenant, asked) = door.writer.inner().redrives_asked.last().cloned().unwrap();
    assert_eq!((tenant.as_str(), &asked["filter"]), ("default", &json!({"class": "refused"})));

    let again = door.post(PATH, &json!({"ids": ["letter-e0", "letter-e1", "nobody's"]})).await.ok(200).body.clone();
    assert_eq!(again["reasons"], json!({"under_way": 2, "not_found": 1}));
    assert_eq!((&again["redriven"], copies(&door).len()), (&json!(0), 4));
}

#[tokio::test]
async fn each_refusal_says_why_and_stops_no_other() {
    let (door, _) = with_letters(&["tea", "rum", "milk", "soup", "beer"], IngestConfig::default()).await;
    {
        let letters = &mut door.writer.inner().redrivable;
        letters[0]["state"] = "erased".into();
        letters[0]["events"][0]["state"] = "erased".into();
        letters[0]["payload"] = Value::Null;
        letters[1]["events"][0]["state"] = "applied".into();
        letters[2]["source_topic_id"] = "of a log that was".into();
        letters[3]["payload"] = STANDARD.encode("nonsense").into();
    }
    let answer = door.post(PATH, &json!({"filter": {}, "to_lane": "backfill"})).await.ok(200).body.clone();
    assert_eq!(answer["reasons"], json!({"erased": 1, "applied": 1, "other_log": 1, "unreadable": 1}));
    assert_eq!((&answer["redriven"], &answer["refused"]), (&json!(1), &json!(4)));
    let refused = answer["results"].as_array().unwrap().iter().filter(|result| result["result"] == "refused");
    assert!(refused.clone().all(|result| !result["detail"].as_str().unwrap().is_empty()) && refused.count() == 4);
    let moved = door.log.records(Topic::ConversationsBackfill);
    let LogRecordBody::Conversation(moved) = framing::decode(&moved[0].payload).unwrap() else { panic!("an event") };
    assert_eq!((moved.event_id.as_str(), moved.attempt, moved.origin.unwrap().lane), ("e4", 1, Lane::Live));
    assert!(copies(&door).is_empty(), "nothing went into the live lane");
}

#[tokio::test]
async fn of_a_letter_about_facts_the_event_is_read_from_the_log() {
    let (door, events) = with_letters(&["tea", "rum"], IngestConfig::default()).await;
    {
        let letters = &mut door.writer.inner().redrivable;
        for letter in letters.iter_mut() {
            letter["source_topic"] = "facts.live".into();
            letter["source_topic_id"] = "id-of-facts.live".into();
            letter["offset"] = 4_711.into();
            letter["payload"] = Value::Null;
            letter["events"][0]["attempt"] = 6.into();
        }
        letters[1]["events"][0]["offset"] = 99.into();
    }
    let answer = door.post(PATH, &json!({"filter": {}})).await.ok(200).body.clone();
    assert_eq!(answer["reasons"], json!({"not_in_log": 1}));
    let copy = copies(&door).remove(0);
    let origin = Some(Origin { lane: Lane::Live, offset: 0 });
    assert_eq!(copy, ConversationEvent { attempt: 7, origin, ..events[0].clone() });
}

#[tokio::test]
async fn a_call_is_bounded_in_letters_in_speed_and_in_time() {
    let texts = ["x"; 12];
    let config = IngestConfig { redrive_per_second: 2, redrive_time: Duration::from_millis(100), ..IngestConfig::default() };
    let (door, _) = with_letters(&texts, config).await;
    let few = door.post(PATH, &json!({"filter": {}, "limit": 1})).await.ok(200).body.clone();
    assert_eq!((&few["redriven"], &few["next_cursor"]), (&json!(1), &json!("1")));
    // What was saved goes at once; the next comes after the call's time.
    let stopped = door.post(PATH, &json!({"filter": {}, "cursor": "1"})).await.ok(200).body.clone();
    assert!(stopped["redriven"].as_u64().unwrap() >= 1 && stopped["stopped"].is_string(), "{stopped}");
    let went = usize::try_from(stopped["redriven"].as_u64().unwrap()).unwrap();
    assert_eq!(stopped["next_cursor"], json!((went + 1).to_string()), "it goes on behind what went");
    assert_eq!(copies(&door).len(), went + 1);
    let ids: Vec<String> = (0..12).map(|n| format!("letter-e{n}")).collect();
    let answer = door.post(PATH, &json!({"ids": ids})).await;
    if answer.status == 200 {
        // Half a second had passed on a busy machine.
        let left = answer.body["left"].as_array().unwrap().len();
        assert!((9..12).contains(&left), "{}", answer.body);
    } else {
        assert_eq!(answer.problem(503).headers["retry-after"], "2", "nothing at all may go now");
    }
}

#[tokio::test]
async fn a_log_that_is_away_is_said_and_what_did_not_go_may_go_again() {
    let config = IngestConfig { log_timeout: Some(Duration::from_millis(50)), ..IngestConfig::default() };
    let (door, _) = with_letters(&["tea"], config).await;
    door.log.set(Mode::Away);
    door.post(PATH, &json!({"filter": {}})).await.problem(503);
    door.log.set(Mode::TooLarge);
    let refused = door.post(PATH, &json!({"filter": {}})).await.ok(200).body.clone();
    assert_eq!(refused["reasons"], json!({"not_taken": 1}));
    door.log.set(Mode::Up);
    let gone = door.post(PATH, &json!({"filter": {}})).await.ok(200).body.clone();
    assert_eq!((&gone["redriven"], copies(&door).len()), (&json!(1), 1));
}

#[tokio::test]
async fn what_is_wrong_is_named_before_anything_goes() {
    let (door, _) = with_letters(&["tea"], IngestConfig::default()).await;
    for (body, path) in [
        (json!({}), "ids"),
        (json!({"ids": []}), "ids"),
        (json!({"ids": ["a"], "filter": {}}), "filter"),
        (json!({"ids": ["a"], "cursor": "1"}), "cursor"),
        (json!({"filter": {}, "to_lane": "live"}), "to_lane"),
        (json!({"filter": {}, "limit": 1_001}), "limit"),
        (json!({"filter": {}, "all": true}), "all"),
        (json!({"filter": {"class": "none of them"}}), "filter.class"),
    ] {
        let answer = door.post(PATH, &body).await;
        assert_eq!(answer.problem(422).body["errors"][0]["path"], path, "{body}");
    }
    door.writer.inner().broken = Some(http::StatusCode::INTERNAL_SERVER_ERROR);
    door.post(PATH, &json!({"filter": {}})).await.problem(503);
    assert!(copies(&door).is_empty());
}
