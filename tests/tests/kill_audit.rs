//! The kill audit: clients post while every process is killed without warning, again and again; in the end the memory is exactly
//! what was accepted implies, and exactly what a calm run of the same input leaves.
//!
//! `MEMORI_SOAK=1` runs the large size, `MEMORI_SEED=n` another seed.

use std::collections::BTreeMap;
use std::time::Duration;

use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::audit::{self, Observed};
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::embedded::Embedded;
use memori_tests::model::Model;
use memori_tests::servers::Servers;
use memori_tests::storm::{self, Victims, tell};
use memori_tests::workload::{self, Workload, WorkloadConfig};

use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;

const FINAL_WITHIN: Duration = Duration::from_secs(300);

fn soak() -> bool {
    std::env::var_os("MEMORI_SOAK").is_some()
}

fn config() -> WorkloadConfig {
    let seed = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_105);
    let (events, entities) = if soak() { (5_000, 300) } else { (300, 30) };
    let config = WorkloadConfig { seed, events, tenants: 3, entities, clients_per_tenant: 2 };
    tell(&format!("kill audit: {config:?}"));
    config
}

fn expected(workload: &Workload) -> Model {
    let mut model = Model::default();
    for ((tenant, _), body) in workload.accepted() {
        model.accept(&tenant, &body);
    }
    model
}

async fn observe_all(workload: &Workload, api: impl Fn(&str) -> Api) -> anyhow::Result<Vec<(String, Observed)>> {
    let mut observed = Vec::new();
    for tenant in &workload.tenants {
        let ids = drive::event_ids(workload, tenant);
        observed.push((tenant.clone(), audit::observe(&api(tenant), &ids, FINAL_WITHIN).await?));
    }
    Ok(observed)
}

fn check(what: &str, model: &Model, observed: &[(String, Observed)]) -> anyhow::Result<()> {
    let found: Vec<String> = observed.iter().flat_map(|(tenant, observed)| audit::differences(model, tenant, observed)).collect();
    audit::none(&found).map_err(|e| e.context(format!("{what}: the memory is not what the input implies")))?;
    let lines: usize = observed.iter().flat_map(|(_, o)| o.entities.values()).map(Vec::len).sum();
    anyhow::ensure!(lines > 0, "{what}: nothing was learned at all");
    tell(&format!(
        "{what}: {} entities and {lines} export lines are as implied",
        observed.iter().map(|(_, o)| o.entities.len()).sum::<usize>()
    ));
    Ok(())
}

fn check_alike(calm: &[(String, Observed)], stormy: &[(String, Observed)]) -> anyhow::Result<()> {
    let found: Vec<String> = calm.iter().zip(stormy).flat_map(|((_, calm), (_, stormy))| audit::unlike(calm, stormy)).collect();
    audit::none(&found).map_err(|e| e.context("the storm left another memory than the calm"))
}

struct OneProcess(Embedded);

impl Victims for OneProcess {
    fn victims(&self) -> Vec<(String, usize)> {
        vec![("memori".to_owned(), if soak() { 12 } else { 5 })]
    }

    fn kill_and_restart(&mut self, _: &str) -> anyhow::Result<()> {
        self.0.process.kill_and_restart()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let workload = workload::generate(config());
    let model = expected(&workload);

    let calm = Embedded::start(&workload.tenants, &[])?;
    drive::drive(&workload, |tenant| calm.api(tenant), &Pace::free(), Weather::Calm).await?;
    let calm_seen = observe_all(&workload, |tenant| calm.api(tenant)).await?;
    check("embedded, calm", &model, &calm_seen)?;
    drop(calm);

    let mut shape = OneProcess(Embedded::start(&workload.tenants, &[])?);
    let kills = shape.victims()[0].1;
    let pace = Pace::up_to(0);
    // It comes back on its address, so that every client finds it again.
    let apis: BTreeMap<String, Api> = workload.tenants.iter().map(|tenant| (tenant.clone(), shape.0.api(tenant))).collect();
    let api = |tenant: &str| apis[tenant].clone();
    futures::future::try_join(
        drive::drive(&workload, api, &pace, Weather::Storm { exact_door: true }),
        storm::strike(&mut shape, &pace, workload.requests(), workload.config.seed),
    )
    .await?;
    anyhow::ensure!(shape.0.process.starts() == kills + 1, "killed {} times", shape.0.process.starts() - 1);
    let stormy_seen = observe_all(&workload, api).await?;
    check("embedded, killed", &model, &stormy_seen)?;
    check_alike(&calm_seen, &stormy_seen)?;

    // What was acknowledged before a clean stop is there after it, too.
    anyhow::ensure!(shape.0.process.stop()?.success(), "SIGTERM does not end in exit 0");
    let database = SqliteDatabase::open(&shape.0.database()?).await?;
    let tables = SqliteStore::new(database.clone()).dump().await?;
    database.reads().close().await;
    database.writes().close().await;
    audit::none(&audit::table_differences(&model, &tables))?;
    shape.0.process.start_again()?;
    let again = observe_all(&workload, api).await?;
    check_alike(&stormy_seen, &again)
}

/// One process on a database that is killed, too.
struct OnPostgres<'s>(Embedded, &'s Servers);

impl Victims for OnPostgres<'_> {
    fn victims(&self) -> Vec<(String, usize)> {
        let (process, server) = if soak() { (12, 4) } else { (4, 1) };
        vec![("memori".to_owned(), process), ("postgres".to_owned(), server)]
    }

    fn kill_and_restart(&mut self, victim: &str) -> anyhow::Result<()> {
        if victim == "memori" {
            return self.0.process.kill_and_restart();
        }
        self.1.kill_postgres()?;
        self.1.restart_postgres()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_on_postgres() -> anyhow::Result<()> {
    let workload = workload::generate(config());
    let model = expected(&workload);
    // Its own, to be killed, and with fsync on.
    let servers = tokio::task::block_in_place(Servers::start)?;
    let url = servers.empty_database().await?;
    let mut shape = OnPostgres(Embedded::on_postgres(&workload.tenants, &url, &[])?, &servers);
    let pace = Pace::up_to(0);
    let apis: BTreeMap<String, Api> = workload.tenants.iter().map(|tenant| (tenant.clone(), shape.0.api(tenant))).collect();
    let api = |tenant: &str| apis[tenant].clone();
    futures::future::try_join(
        drive::drive(&workload, api, &pace, Weather::Storm { exact_door: false }),
        storm::strike(&mut shape, &pace, workload.requests(), workload.config.seed),
    )
    .await?;
    anyhow::ensure!(shape.0.process.starts() > 4, "killed {} times", shape.0.process.starts() - 1);
    let stormy_seen = observe_all(&workload, api).await?;
    check("embedded on Postgres, killed", &model, &stormy_seen)?;

    anyhow::ensure!(shape.0.process.stop()?.success(), "SIGTERM does not end in exit 0");
    let store = PostgresStore::new(PostgresTarget::parse(&url, "audit")?.pool(1)?, &url);
    audit::none(&audit::table_differences(&model, &store.dump().await?))?;
    shape.0.process.start_again()?;
    let again = observe_all(&workload, api).await?;
    check_alike(&stormy_seen, &again)
}

struct Processes<'s>(Distributed<'s>);

impl Victims for Processes<'_> {
    fn victims(&self) -> Vec<(String, usize)> {
        let each = if soak() { 4 } else { 3 };
        let mut victims =
            vec![("ingest".to_owned(), each), ("writer".to_owned(), each), ("kafka".to_owned(), 1), ("postgres".to_owned(), 1)];
        victims.extend((0..self.0.workers.len()).map(|n| (format!("worker-{n}"), each)));
        victims
    }

    fn kill_and_restart(&mut self, victim: &str) -> anyhow::Result<()> {
        let shape = &mut self.0;
        match victim {
            "ingest" => shape.ingest.kill_and_restart(),
            "writer" => shape.writer.kill_and_restart(),
            "kafka" => {
                shape.servers.kill9_kafka()?;
                shape.servers.restart_kafka()
            }
            "postgres" => {
                shape.servers.kill_postgres()?;
                shape.servers.restart_postgres()
            }
            worker => {
                let index: usize = worker.trim_start_matches("worker-").parse()?;
                shape.workers[index].kill_and_restart()
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed() -> anyhow::Result<()> {
    let workload = workload::generate(config());
    let model = expected(&workload);
    // Its own, to be killed, and with fsync on.
    let servers = tokio::task::block_in_place(Servers::start)?;

    let calm = Distributed::start(&servers, &workload.tenants, 2, &[]).await?;
    drive::drive(&workload, |tenant| calm.api(tenant), &Pace::free(), Weather::Calm).await?;
    let calm_seen = observe_all(&workload, |tenant| calm.api(tenant)).await?;
    check("distributed, calm", &model, &calm_seen)?;
    drop(calm);

    let mut shape = Processes(Distributed::start(&servers, &workload.tenants, 2, &[]).await?);
    let pace = Pace::up_to(0);
    let apis: BTreeMap<String, Api> = workload.tenants.iter().map(|tenant| (tenant.clone(), shape.0.api(tenant))).collect();
    let api = |tenant: &str| apis[tenant].clone();
    futures::future::try_join(
        drive::drive(&workload, api, &pace, Weather::Storm { exact_door: false }),
        storm::strike(&mut shape, &pace, workload.requests(), workload.config.seed),
    )
    .await?;
    for process in [&shape.0.ingest, &shape.0.writer].into_iter().chain(&shape.0.workers) {
        anyhow::ensure!(process.starts() > 3, "a process was killed {} times only", process.starts() - 1);
    }
    let stormy_seen = observe_all(&workload, api).await?;
    check("distributed, killed", &model, &stormy_seen)?;
    let store = PostgresStore::new(PostgresTarget::parse(&shape.0.database, "audit")?.pool(1)?, &shape.0.database);
    audit::none(&audit::table_differences(&model, &store.dump().await?))?;
    check_alike(&calm_seen, &stormy_seen)
}
