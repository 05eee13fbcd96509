//! A member that was given up for dead and wakes up: a writer and a worker are stopped (SIGSTOP) under load for longer than their
//! session lasts, so that others take over what they were in the middle of, and are then woken. What they still try to write
//! changes nothing.

use std::time::Duration;

use anyhow::ensure;
use memori_tests::audit;
use memori_tests::client::{Api, metric};
use memori_tests::distributed::Distributed;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::model::Model;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_tests::workload::{self, WorkloadConfig};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;

const WITHIN: Duration = Duration::from_secs(180);
/// Longer than the session that these processes are given.
const ASLEEP: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_zombie_writes_changes_nothing() -> anyhow::Result<()> {
    let workload = workload::generate(WorkloadConfig { seed: 23, events: 240, tenants: 2, entities: 20, clients_per_tenant: 2 });
    let mut model = Model::default();
    for ((tenant, _), body) in workload.accepted() {
        model.accept(&tenant, &body);
    }
    let servers = tokio::task::block_in_place(Servers::shared)?;
    // A batch that is gathered for long is likely to be cut off in the middle.
    let shape = Distributed::start(servers, &workload.tenants, 2, &[("MEMORI__WRITER__BATCH_MAX_AGE_MS", "300")]).await?;
    let second = shape.another_writer("writer-2")?;
    let requests = workload.requests();
    let pace = Pace::up_to(requests / 4);

    let sleepers = async {
        for (n, (what, process)) in [("writer", &second), ("worker", &shape.workers[0])].into_iter().enumerate() {
            pace.reached(requests * (n + 1) / 4 - requests / 8).await;
            process.freeze(true)?;
            tell(&format!("zombie: a {what} sleeps"));
            pace.allow(requests * (n + 2) / 4);
            // Not an event but its absence is waited for: the group gives the sleeper up.
            tokio::time::sleep(ASLEEP).await;
            process.freeze(false)?;
            tell(&format!("zombie: the {what} is awake"));
        }
        pace.allow(usize::MAX);
        anyhow::Ok(())
    };
    futures::future::try_join(
        drive::drive(&workload, |tenant| shape.api(tenant), &pace, Weather::Storm { exact_door: false }),
        sleepers,
    )
    .await?;

    let mut found = Vec::new();
    for tenant in &workload.tenants {
        let observed = audit::observe(&shape.api(tenant), &drive::event_ids(&workload, tenant), WITHIN).await?;
        found.extend(audit::differences(&model, tenant, &observed));
    }
    let store = PostgresStore::new(PostgresTarget::parse(&shape.database, "audit")?.pool(1)?, &shape.database);
    found.extend(audit::table_differences(&model, &store.dump().await?));
    audit::none(&found)?;
    // Both are members again and alive.
    for process in [&second, &shape.workers[0]] {
        let text = Api::new(&process.admin(), None).metrics().await?;
        ensure!(metric(&text, "memori_worker_halted_partitions", &[]).unwrap_or(0.0) == 0.0, "a partition stands still");
    }
    Ok(())
}
