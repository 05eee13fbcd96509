//! Facts that differ only in punctuation or script stay apart; the same fact said twice is one with two mentions; entity ids are
//! bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::client::{Api, escape};
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use reqwest::StatusCode;
use serde_json::{Value, json};

const TENANT: &str = "tenant-a";

async fn say(api: &Api, entity_id: &str, event_id: &str, text: &str) -> anyhow::Result<()> {
    let body = json!({"event_id": event_id, "entity_id": entity_id, "messages": [{"role": "user", "content": text}]});
    let answer = api.post("/v1/events", &body).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    api.wait_final(&[event_id.to_owned()], Duration::from_secs(60)).await
}

fn events_of(fact: &Value) -> BTreeSet<&str> {
    fact["sources"].as_array().into_iter().flatten().filter_map(|source| source["event_id"].as_str()).collect()
}

/// The id that is shown for a conversation that nobody named is as good as a name.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_named_is_taken_up_again_by_its_shown_id() -> anyhow::Result<()> {
    let shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = shape.api(TENANT);
    say(&api, "island", "island-0", "I live in house 7.").await?;
    let recall = json!({"entity_id": "island", "query": "house", "include_messages": true});
    let first = api.post("/v1/recall", &recall).await?;
    let shown = first.body["messages"][0]["session_id"].as_str().context("a session")?.to_owned();

    let body = json!({"event_id": "island-1", "entity_id": "island", "session_id": shown,
        "messages": [{"role": "user", "content": "My house has a red door."}]});
    ensure!(api.post("/v1/events", &body).await?.status == StatusCode::ACCEPTED, "the second turn is not accepted");
    api.wait_final(&["island-1".to_owned()], Duration::from_secs(60)).await?;
    let both = api.post("/v1/recall", &recall).await?;
    ensure!(both.status == StatusCode::OK, "{}: {}", both.status, both.body);
    let messages = both.body["messages"].as_array().context("messages")?;
    ensure!(messages.len() == 2 && messages.iter().all(|m| m["session_id"] == json!(shown)), "not one session: {messages:?}");
    ensure!(
        api.export("island").await?.iter().filter(|line| line["type"] == "message").count() == 2,
        "the export lost a message"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_stays_apart_and_what_is_the_same_is_one() -> anyhow::Result<()> {
    let shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    apart_and_alike(&shape.api(TENANT)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_too() -> anyhow::Result<()> {
    let url = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let shape = Embedded::on_postgres(&[TENANT.to_owned()], &url, &[])?;
    apart_and_alike(&shape.api(TENANT)).await
}

async fn apart_and_alike(api: &Api) -> anyhow::Result<()> {
    let apart = [
        ["My favourite language is C.", "My favourite language is C++."],
        ["My favourite language is C++.", "My favourite language is C#."],
        ["I own item 10.", "I own item 1-0."],
        ["我住在巴黎。", "我住在柏林。"],
        ["Я люблю чай.", "Я люблю чайник."],
    ];
    for (n, pair) in apart.iter().enumerate() {
        let entity = format!("apart-{n}");
        for (m, text) in pair.iter().enumerate() {
            say(api, &entity, &format!("apart-{n}-{m}"), text).await?;
        }
        let facts = api.facts(&entity).await?;
        for m in 0..2 {
            let own = format!("apart-{n}-{m}");
            let alone = facts.iter().filter(|fact| events_of(fact) == BTreeSet::from([own.as_str()])).count();
            ensure!(alone >= 1, "{pair:?}: no fact stands on {:?} alone: {facts:?}", pair[m]);
        }
    }

    for (n, text) in ["I like green tea.", "C#より抹茶が好きです。"].iter().enumerate() {
        let entity = format!("twice-{n}");
        for m in 0..2 {
            say(api, &entity, &format!("twice-{n}-{m}"), text).await?;
        }
        let facts = api.facts(&entity).await?;
        ensure!(!facts.is_empty(), "{text} teaches nothing");
        for fact in &facts {
            ensure!(fact["mentions"] == 2 && events_of(fact).len() == 2, "said twice, but: {fact}");
        }
    }

    let entities = ["1", "001", "１"];
    for (n, entity) in entities.iter().enumerate() {
        say(api, entity, &format!("entity-{n}"), &format!("I live in house {n}.")).await?;
    }
    let listed: BTreeSet<String> = api.entities().await?.into_iter().collect();
    for (n, entity) in entities.iter().enumerate() {
        ensure!(listed.contains(*entity), "{entity:?} is not listed: {listed:?}");
        let lines = api.export(entity).await?;
        let own = lines.iter().filter(|line| line["type"] == "message").collect::<Vec<_>>();
        ensure!(own.len() == 1 && own[0]["content"] == format!("I live in house {n}."), "{entity:?} has {own:?}");
        let answer = api.post("/v1/recall", &json!({"entity_id": entity, "query": "house", "limit": 10})).await?;
        let facts = answer.body["facts"].as_array().context("facts")?;
        ensure!(facts.len() == 1 && facts[0]["content"].to_string().contains(&n.to_string()), "{entity:?} recalls {facts:?}");
        ensure!(api.get(&format!("/v1/entities/{}/facts", escape(entity))).await?.status == StatusCode::OK, "{entity:?}");
    }
    Ok(())
}
