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
