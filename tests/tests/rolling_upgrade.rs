//! A rolling upgrade as the chart does one, under load: front doors one after the other, each on its own spool; writers with a new one
//! first; workers one going while one comes. Each leaves the list of those that are called, drains on SIGTERM within its grace period and
//! ends well. First one kind after the other, then, as `helm upgrade` does it, all of them at once. In the end the memory is exactly what
//! was accepted implies, and nobody was refused.
//!
//! `MEMORI_SOAK=1` runs the large size, `MEMORI_SEED=n` another seed. That the chart's strategies and grace periods are those of this test,
//! `ops/platform.sh chart` holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::Log as _;
use memori_event_log::topic::{Topic, TopicPartition};
use memori_schemas::{LogRecordBody, framing};
use memori_tests::audit;
use memori_tests::client::Api;
use memori_tests::distributed::Ground;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::model::Model;
use memori_tests::process::Process;
use memori_tests::servers::Servers;
use memori_tests::service::Service;
use memori_tests::storm::tell;
use memori_tests::workload::{self, Expect, Post, Step, Workload, WorkloadConfig};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;

const FINAL_WITHIN: Duration = Duration::from_secs(300);
/// What the chart gives each: the deadline to drain, and ten seconds.
const GRACE: Duration = Duration::from_secs(35);
/// One request after the other is let go in this time: what clients do beside a replacement.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(80);
/// How many of each kind, as the chart has it by default.
const REPLICAS: usize = 2;

fn soak() -> bool {
    std::env::var_os("MEMORI_SOAK").is_some()
}

fn config() -> WorkloadConfig {
    let seed = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_311);
    let (events, entities) = if soak() { (5_000, 300) } else { (900, 50) };
    let config = WorkloadConfig { seed, events, tenants: 3, entities, clients_per_tenant: 2 };
    tell(&format!("rolling upgrade: {config:?}"));
    config
}

fn expected(workload: &Workload) -> Model {
    let mut model = Model::default();
    for ((tenant, _), body) in workload.accepted() {
        model.accept(&tenant, &body);
    }
    model
}

/// Takes out what is to be refused as a conflict: of two front doors one may not know yet what the other has just taken.
fn without_conflicts(workload: &mut Workload) -> Vec<(String, Post)> {
    let mut taken = Vec::new();
    for client in &mut workload.clients {
        let tenant = client.tenant.clone();
        let mut keeps = |post: &Post| {
            let keeps = post.expect != Expect::Conflict;
            if !keeps {
                taken.push((tenant.clone(), post.clone()));
            }
            keeps
        };
        client.steps.retain_mut(|step| match step {
            Step::Single(post) => keeps(post),
            Step::Batch(posts) | Step::Ndjson(posts) => {
                posts.retain(&mut keeps);
                !posts.is_empty()
            }
        });
    }
    taken
}

/// A release: its processes, and the two addresses that it is reached at.
struct Release<'s> {
    ground: Ground<'s>,
    doors: Service,
    writers: Service,
    made: AtomicUsize,
}

impl Release<'_> {
    fn name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    fn writer(&self) -> anyhow::Result<Process> {
        let writer = self.ground.writer(&self.name("writer"))?;
        self.writers.add(&writer.api())?;
        Ok(writer)
    }

    fn worker(&self) -> anyhow::Result<Process> {
        self.ground.worker(&self.name("worker"), &self.writers.url())
    }

    /// A new one first, then an old one goes: none is ever missing.
    fn roll_writers(&self, writers: &mut [Process]) -> anyhow::Result<()> {
        for writer in writers {
            let mut old = std::mem::replace(writer, self.writer()?);
            self.writers.remove(&old.api());
            settle();
            ends_well(&mut old, "a writer")?;
        }
        Ok(())
    }

    /// One comes while one goes.
    fn roll_workers(&self, workers: &mut [Process]) -> anyhow::Result<()> {
        for worker in workers {
            let new = std::thread::scope(|threads| {
                let new = threads.spawn(|| self.worker());
                let gone = ends_well(worker, "a worker");
                let new = new.join().map_err(|_| anyhow::anyhow!("panicked"))?;
                gone.and(new)
            })?;
            *worker = new;
        }
        Ok(())
    }

    /// One goes, and comes back on its own spool.
    fn roll_doors(&self, doors: &mut [Process]) -> anyhow::Result<()> {
        for door in doors {
            self.doors.remove(&door.api());
            settle();
            // The hook before its end.
            let health = self.ground.memori(&["health", "--url", &door.admin(), "--until-spool-empty", "30"])?;
            ensure!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
            ends_well(door, "a front door")?;
            door.start_again()?;
            self.doors.add(&door.api())?;
        }
        Ok(())
    }
}

/// Until nobody is sent there any more.
fn settle() {
    #[allow(clippy::disallowed_methods, reason = "this is a thread that may block")]
    std::thread::sleep(Duration::from_millis(500));
}

fn ends_well(process: &mut Process, what: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    let status = process.stop()?;
    ensure!(status.success(), "{what} ended with {status}\n{}", process.log_text());
    ensure!(since.elapsed() < GRACE, "{what} took {:?} to drain", since.elapsed());
    Ok(())
}

/// How many events were extracted, and how often one was again.
async fn extracted(log: &KafkaLog, partitions: i32) -> anyhow::Result<(usize, usize)> {
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    for partition in 0..partitions {
        let place = TopicPartition { topic: Topic::FactsLive, partition };
        let (mut from, end) = log.watermarks(place).await?;
        while from < end {
            let records = log.read(place, from, 1_000).await?;
            from = records.last().context("records up to the end")?.offset + 1;
            for record in records {
                let LogRecordBody::Facts(outcome) = framing::decode(&record.payload)? else { continue };
                for cover in &outcome.covers {
                    *seen.entry((outcome.tenant.clone(), cover.event_id.clone())).or_default() += 1;
                }
            }
        }
    }
    Ok((seen.len(), seen.values().map(|times| times - 1).sum()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_upgrade_loses_and_repeats_nothing() -> anyhow::Result<()> {
    let mut workload = workload::generate(config());
    let conflicts = without_conflicts(&mut workload);
    let model = expected(&workload);
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let release = Release {
        ground: Ground::prepare(
            servers,
            servers.empty_database().await?,
            &workload.tenants,
            &[("MEMORI__EMBEDDING__KIND", "none")],
        )?,
        doors: Service::start().await?,
        writers: Service::start().await?,
        made: AtomicUsize::new(0),
    };
    let mut writers = (0..REPLICAS).map(|_| release.writer()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut workers = (0..REPLICAS).map(|_| release.worker()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut doors = Vec::new();
    for _ in 0..REPLICAS {
        let door = release.ground.door(&release.name("ingest"), &release.writers.url())?;
        release.doors.add(&door.api())?;
        doors.push(door);
    }

    let apis: BTreeMap<String, Api> =
        workload.tenants.iter().map(|tenant| (tenant.clone(), release.ground.api_at(&release.doors.url(), tenant))).collect();
    let api = |tenant: &str| apis[tenant].clone();
    let pace = Pace::up_to(0);
    let stretch = workload.requests() / 5;
    let cap = AtomicUsize::new(0);
    // Clients go on all the while, at a rate that lasts for about as long as each part does, and never run ahead of it.
    let load = async {
        let mut allowed = 0;
        loop {
            tokio::time::sleep(BETWEEN_REQUESTS).await;
            allowed = (allowed + 1).min(cap.load(Ordering::Relaxed));
            pace.allow(allowed);
        }
    };
    let rolled = async {
        let step = AtomicUsize::new(0);
        let next = async |what: &str| {
            let n = step.fetch_add(1, Ordering::Relaxed);
            cap.store((n + 1) * stretch, Ordering::Relaxed);
            pace.reached(n * stretch + stretch / 8).await;
            tell(&format!("{what}, after {} of {} requests", n * stretch + stretch / 8, workload.requests()));
        };
        next("writers").await;
        tokio::task::block_in_place(|| release.roll_writers(&mut writers))?;
        next("workers").await;
        tokio::task::block_in_place(|| release.roll_workers(&mut workers))?;
        next("front doors").await;
        tokio::task::block_in_place(|| release.roll_doors(&mut doors))?;
        next("all of them").await;
        tokio::task::block_in_place(|| {
            std::thread::scope(|threads| {
                let kinds = [
                    threads.spawn(|| release.roll_writers(&mut writers)),
                    threads.spawn(|| release.roll_workers(&mut workers)),
                    threads.spawn(|| release.roll_doors(&mut doors)),
                ];
                kinds.into_iter().try_for_each(|kind| kind.join().map_err(|_| anyhow::anyhow!("panicked"))?)
            })
        })?;
        anyhow::Ok(())
    };
    let rolled = async {
        tokio::select! {
            never = load => never,
            rolled = rolled => rolled?,
        }
        pace.allow(usize::MAX);
        anyhow::Ok(())
    };
    // Two front doors: what one has just taken the other may not know yet.
    futures::future::try_join(drive::drive(&workload, api, &pace, Weather::Storm { exact_door: false }), rolled).await?;

    let mut found = Vec::new();
    let (mut entities, mut lines) = (0, 0);
    for tenant in &workload.tenants {
        let observed = audit::observe(&apis[tenant], &drive::event_ids(&workload, tenant), FINAL_WITHIN).await?;
        found.extend(audit::differences(&model, tenant, &observed));
        entities += observed.entities.len();
        lines += observed.entities.values().map(Vec::len).sum::<usize>();
    }
    audit::none(&found).context("the memory is not what the input implies")?;
    ensure!(lines > 0, "nothing was learned at all");
    let store = PostgresStore::new(PostgresTarget::parse(&release.ground.database, "audit")?.pool(1)?, &release.ground.database);
    audit::none(&audit::table_differences(&model, &store.dump().await?))?;

    // Once all is applied, every door knows.
    ensure!(!conflicts.is_empty(), "no conflict was tried");
    for (tenant, post) in conflicts {
        let answer = apis[&tenant].post("/v1/events", &post.body).await?;
        ensure!(answer.status == 409, "{}: {}", answer.status, answer.body);
    }

    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &release.ground.prefix)).await?;
    let (events, again) = extracted(&log, 6).await?;
    let (mut refused, mut unanswered) = (0, 0);
    for api in apis.values() {
        refused += api.repeated().refused.load(Ordering::Relaxed);
        unanswered += api.repeated().unanswered.load(Ordering::Relaxed);
    }
    tell(&format!(
        "{} processes replaced under {} requests: {entities} entities and {lines} export lines are as implied; {events} events extracted, \
         {again} again; {refused} requests refused, {unanswered} cut off and sent again",
        2 * 3 * REPLICAS,
        workload.requests()
    ));
    ensure!(refused == 0, "{refused} requests were refused");
    for process in writers.iter_mut().chain(&mut workers).chain(&mut doors) {
        ends_well(process, "the last release")?;
    }
    Ok(())
}
