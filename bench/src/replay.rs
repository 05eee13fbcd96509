//! From a durable answer to the fact in a recall, of live events, with a replay of the tenant's history beside it over without; and how
//! long a switch to what was made takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::administration::Operator;
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::replays;
use memori_tests::servers::Servers;
use serde_json::{Value, json};

use crate::Options;
use crate::end_to_end::ours;
use crate::report::{Better, Report, quantile, say};

const TENANT: &str = "tenant-a";
/// Events of one request.
const BATCH: usize = 1_000;
/// How long history may take to be taken in.
const PATIENCE: Duration = Duration::from_secs(900);

async fn history(api: &Api, events: usize) -> anyhow::Result<()> {
    let event = |n: usize| {
        json!({"event_id": format!("history-{n}"), "entity_id": format!("person-{}", n % 500),
            "messages": [{"role": "user", "content": format!("I like tea number {n}.")}, {"role": "assistant", "content": "Noted."}]})
    };
    for first in (0..events).step_by(BATCH) {
        let batch: Vec<Value> = (first..(first + BATCH).min(events)).map(event).collect();
        let answer = api.post("/v1/events/batch", &json!({"events": batch})).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
    }
    let since = Instant::now();
    let last: Vec<String> = (events.saturating_sub(500)..events).map(|n| format!("history-{n}")).collect();
    api.wait_final(&last, PATIENCE).await?;
    say(&format!("   {events} events of history, the last {:.1} s after they were accepted", since.elapsed().as_secs_f64()));
    Ok(())
}

/// How long a switch and the way back take, once all is there.
async fn switches(operator: &Operator, generation: i32, events: usize) -> anyhow::Result<()> {
    let since = Instant::now();
    replays::done(operator, generation, events).await?;
    say(&format!("   the rest was replayed in {:.1} s", since.elapsed().as_secs_f64()));
    for _ in 0..3 {
        let there = replays::cut_over(operator, generation, TENANT).await?;
        let back = replays::act(operator, generation, "roll-back", &json!({"tenants": [TENANT]})).await?;
        let of = |switched: &Value, name: &str| switched[name].as_f64().unwrap_or(0.0);
        let (waited, took) = (of(&there, "waited_ms"), of(&there, "took_ms"));
        let back = of(&back["tenants"][0], "took_ms");
        say(&format!("   looked in {waited:.0} ms whether all is there, cut over in {took:.0} ms, rolled back in {back:.0} ms"));
    }
    Ok(())
}

/// How long the live events of a round took from their acceptance to the end of their extraction: the first half of their way.
async fn extracted(shape: &Distributed<'_>, round: usize) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(&shape.database, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let took = "SELECT (ended_at_us - event_accepted_at_us)::float8 / 1000 FROM memori.outcomes WHERE generation = 1 AND event_id LIKE $1";
    let rows = client.query(took, &[&format!("bench-{round}-%")]).await?;
    let took: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
    say(&format!("   of that, until they were extracted: p50 {:.1}, p99 {:.1} ms", quantile(&took, 0.5), quantile(&took, 0.99)));
    drop(client);
    Ok(connection.await??)
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let (events, count) = if options.quick { (10_000, 20) } else { (100_000, 150) };
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[("MEMORI__LOG__LEVEL", "warn")]).await?;
    let (api, operator) = (shape.api(TENANT), Operator::at(&shape.ingest.api()));
    history(&api, events).await?;
    ours(&api, 20, usize::MAX).await?;
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for round in 0..options.runs {
        alone.push(ours(&api, count, 2 * round).await?);
        extracted(&shape, 2 * round).await?;
        let generation = replays::start(&operator, &json!({"tenants": [TENANT]})).await?;
        let (begun, since) = (replays::show(&operator, generation).await?, Instant::now());
        let done = |shown: &Value| shown["progress"]["done"].as_i64().context("how far it is");
        let mut shown = begun.clone();
        while done(&shown)? == 0 {
            ensure!(since.elapsed() < PATIENCE, "the replay does not begin: {shown}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            shown = replays::show(&operator, generation).await?;
        }
        let (from, since) = (done(&shown)?, Instant::now());
        beside.push(ours(&api, count, 2 * round + 1).await?);
        let took = since.elapsed().as_secs_f64();
        extracted(&shape, 2 * round + 1).await?;
        let shown = replays::show(&operator, generation).await?;
        let (done, all) = (done(&shown)?, shown["progress"]["events"].as_i64().unwrap_or(0));
        ensure!(done < all, "the replay was over before the live events were: more history, or fewer events");
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = (done - from) as f64 / took;
        say(&format!("   replayed {rate:.0} events/s beside them"));
        if round + 1 == options.runs {
            switches(&operator, generation, events).await?;
        } else {
            for act in ["cancel", "drop"] {
                replays::act(&operator, generation, act, &json!({})).await?;
            }
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |runs: &[Vec<f64>]| runs.iter().map(|run| quantile(run, share)).collect::<Vec<_>>();
        report.add("replay", &format!("recallable beside a replay, {name}"), "ms", Better::Lower, &of(&beside), &of(&alone));
    }
    Ok(())
}
