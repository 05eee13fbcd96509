//! What becomes of answers, without a network.

use std::sync::Arc;

use memori_schemas::{ConversationEvent, DeadLetterClass, FactKind, Role};
use proptest::prelude::*;
use serde_json::json;

use super::known::KnownFact;
use super::prompt::Prompt;
use super::prompt::tests::{event, known as known_fact};
use super::reply::{Finish, Reply};
use super::{Unusable, assess, invalid, model_name};
use crate::extractor::{ExtractError, check};

fn conversation() -> (Vec<Arc<ConversationEvent>>, Prompt) {
    let events = vec![event("e", &[(Role::User, "I live in Paris."), (Role::Assistant, "Good.")])];
    let prompt = Prompt::of(&events).expect("a user speaks");
    (events, prompt)
}

fn known() -> Vec<KnownFact> {
    vec![known_fact(FactKind::Fact, "Alice skis")]
}

fn reply(text: &str) -> Reply {
    Reply { text: text.to_owned(), finish: Finish::Stop, is_refusal: false, usage: None, model: None }
}

fn assessed(reply: &Reply) -> Result<usize, Unusable> {
    let (events, prompt) = conversation();
    let facts = assess(reply, &events, &prompt, &known())?;
    check(&facts, &events).expect("the last gate lets it through");
    Ok(facts.len())
}

#[test]
fn one_bad_item_costs_no_other_and_only_bad_ones_are_invalid() {
    let good = json!({"text": "Alice lives in Paris", "evidence": [0]});
    let bad = [json!({"text": "a", "evidence": [7]}), json!({"text": "b", "evidence": [1]}), json!({"text": "c"}), json!(1)];
    let all: Vec<_> = bad.iter().cloned().chain([good]).collect();
    assert_eq!(assessed(&reply(&json!({"facts": all}).to_string())), Ok(1));
    let Err(Unusable::Invalid(errors)) = assessed(&reply(&json!({"facts": bad}).to_string())) else { panic!("nothing is left") };
    assert_eq!(errors.len(), 4);
    assert_eq!(assessed(&reply(r#"{"facts": [], "timeline": []}"#)), Ok(0), "nothing to remember is an answer");
}

#[test]
fn every_end_of_a_model_is_told_apart() {
    let of = |finish, is_refusal, text: &str| assessed(&Reply { finish, is_refusal, ..reply(text) });
    let whole = r#"{"facts": [{"text": "a", "evidence": [0]}]}"#;
    assert_eq!(of(Finish::Length, false, whole), Ok(1));
    assert_eq!(of(Finish::ToolCalls, false, whole), Ok(1));
    assert!(matches!(of(Finish::Filtered, false, whole), Err(Unusable::Refused(_))));
    assert!(matches!(of(Finish::Stop, true, ""), Err(Unusable::Refused(_))));
    for finish in [Finish::Stop, Finish::Length, Finish::ToolCalls] {
        assert!(matches!(of(finish, false, " "), Err(Unusable::Invalid(_))));
        assert!(matches!(of(finish, false, "no json"), Err(Unusable::Invalid(_))));
        assert!(matches!(of(finish, false, &whole[..30]), Err(Unusable::Invalid(_))));
    }
    let ExtractError::Permanent { class, .. } = invalid(&["x".to_owned()]) else { panic!("it is permanent") };
    assert_eq!(class, DeadLetterClass::InvalidOutput);
}

#[test]
fn an_answer_about_several_events_that_was_cut_off_is_none() {
    let cut = reply(r#"{"facts": [{"text": "a", "evidence": [0]}], "instr"#);
    let whole = reply(r#"{"facts": [{"text": "a", "evidence": [0]}]}"#);
    for (events, reply, is_taken) in [(1, &cut, true), (2, &whole, true), (2, &cut, false)] {
        let events: Vec<_> = (0..events).map(|n| event(&format!("e{n}"), &[(Role::User, "I ski.")])).collect();
        let prompt = Prompt::of(&events).expect("a user speaks");
        assert_eq!(assess(reply, &events, &prompt, &known()).is_ok(), is_taken, "{} events", events.len());
    }
}

#[test]
fn the_lineage_names_the_version_that_answered() {
    assert_eq!(model_name("gpt-4o", Some("gpt-4o-2024-08-06".into())), "gpt-4o-2024-08-06");
    for other in
        [None, Some("/models/x.gguf".to_owned()), Some("gpt-4o\n".to_owned()), Some(format!("gpt-4o{}", "x".repeat(200)))]
    {
        assert_eq!(model_name("gpt-4o", other), "gpt-4o");
    }
}

fn number() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(0)),
        Just(json!(1)),
        Just(json!("0")),
        any::<i64>().prop_map(|n| json!(n)),
        Just(json!(0.5)),
        Just(json!(null))
    ]
}

fn item() -> impl Strategy<Value = serde_json::Value> {
    let text = prop_oneof!["[a-z ]{0,20}".prop_map(|t| json!(t)), any::<String>().prop_map(|t| json!(t)), Just(json!(null))];
    let slot =
        prop_oneof![Just(json!("job")), Just(json!("attitude")), any::<String>().prop_map(|t| json!(t)), Just(json!(null))];
    let time =
        prop_oneof!["[0-9]{4}(-[0-9]{2}){0,2}".prop_map(|t| json!(t)), any::<String>().prop_map(|t| json!(t)), Just(json!(null))];
    (text.clone(), text, slot, time.clone(), time, proptest::collection::vec(number(), 0..4), any::<f64>()).prop_map(
        |(text, subject, slot, from, to, evidence, confidence)| {
            json!({"text": text, "subject": subject, "object": "x", "slot": slot, "valid_from": from, "valid_to": to, "date": from,
                "known": evidence.first(), "change": if confidence > 0.0 { "repeated" } else { "ended" }, "at": to, "evidence": evidence, "confidence": confidence})
        },
    )
}

proptest! {
    /// Whatever a model answers, what is kept passes the last gate and is bounded.
    #[test]
    fn any_answer_yields_only_what_may_be_said(
        lists in proptest::collection::vec((0_usize..6, proptest::collection::vec(item(), 0..4)), 0..6),
        around in any::<String>(),
    ) {
        const NAMES: [&str; 6] = ["facts", "instructions", "attributes", "summaries", "timeline", "updates"];
        let answer: serde_json::Map<String, serde_json::Value> =
            lists.into_iter().map(|(name, items)| (NAMES[name].to_owned(), json!(items))).collect();
        let (events, prompt) = conversation();
        let text = format!("{around}{}", serde_json::Value::Object(answer));
        if let Ok(facts) = assess(&reply(&text), &events, &prompt, &known()) {
            prop_assert_eq!(check(&facts, &events), Ok(()));
            for fact in &facts {
                prop_assert!(fact.text.len() <= 2_000 && fact.evidence.len() <= 2);
            }
        }
    }

    #[test]
    fn any_words_are_survived(text in any::<String>()) {
        let (events, prompt) = conversation();
        let _ = assess(&reply(&text), &events, &prompt, &known());
    }
}
