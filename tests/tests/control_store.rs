//! The control store, on SQLite and on Postgres alike: what an act changes and the line that tells of it are one; of two that rotate a
//! key at once one does; usage is counted once, and stays.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use memori_event_log::sqlite::SqliteDatabase;
use memori_service::auth::{KeyId, NewKey, PresentedKey, Right};
use memori_tests::servers::Servers;
use memori_writer::control::{
    Act, AuditFilter, ControlStore, DAY_US, KeyRow, Made, PostgresControl, Quotas, SqliteControl, TenantChange, TenantRow,
};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;

/// The two databases.
enum Raw {
    Sqlite(SqliteDatabase),
    Postgres(String),
}

impl Raw {
    /// Runs a statement by hand; `@` stands before tables of the view.
    async fn run(&self, sql: &str) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(database) => {
                let sql = sql.replace('@', "").replace("bytea", "blob");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(database.writes()).await?;
            }
            Self::Postgres(url) => {
                let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
                tokio::spawn(connection);
                client.batch_execute(&sql.replace('@', "memori.")).await?;
            }
        }
        Ok(())
    }
}

async fn both() -> anyhow::Result<Vec<(&'static str, Arc<dyn ControlStore>, Raw, Option<tempfile::TempDir>)>> {
    let dir = tempfile::tempdir()?;
    let database = SqliteDatabase::open(&dir.path().join("control.db")).await?;
    SqliteStore::new(database.clone()).migrate().await?;
    let sqlite: Arc<dyn ControlStore> = Arc::new(SqliteControl::new(database.clone()));
    let url = Servers::shared()?.empty_database().await?;
    let pool = PostgresTarget::parse(&url, "memori-tests")?.pool(4)?;
    let store = PostgresStore::new(pool.clone(), &url);
    // Twice is once; and truth outlives the view.
    store.migrate().await?;
    store.migrate().await?;
    let postgres: Arc<dyn ControlStore> = Arc::new(PostgresControl::new(pool));
    let now = act(1);
    ensure!(postgres.create_tenant(&tenant("survivor"), &now).await? == Made::Yes);
    store.drop_view().await?;
    store.migrate().await?;
    ensure!(postgres.tenant("survivor").await?.is_some(), "dropping the view took a tenant");
    Ok(vec![("sqlite", sqlite, Raw::Sqlite(database), Some(dir)), ("postgres", postgres, Raw::Postgres(url), None)])
}

fn act(at_us: i64) -> Act {
    Act { id: uuid::Uuid::now_v7().to_string(), at_us, actor: "tests".into(), actor_tenant: "*".into() }
}

fn tenant(name: &str) -> TenantRow {
    TenantRow { tenant: name.into(), display_name: Some(format!("{name} Ltd")), created_at_us: 1, suspended_at_us: None }
}

fn key(number: u8, tenant: &str) -> (KeyRow, PresentedKey) {
    let key = NewKey::of_random([number; 8], [number; 32]);
    let presented = PresentedKey::read(key.key.expose().as_bytes()).expect("a key");
    let row = KeyRow {
        key_id: key.id,
        tenant: tenant.into(),
        display_name: None,
        sha256: hex::encode(key.sha256),
        rights: vec![Right::Events, Right::Erase],
        entity_id: None,
        entity_prefix: Some("eu/".into()),
        created_at_us: 10,
        expires_at_us: Some(1_000),
        revoked_at_us: None,
        replaced_by: None,
        last_used_at_us: None,
    };
    (row, presented)
}

async fn lines(control: &dyn ControlStore, tenant: &str) -> anyhow::Result<Vec<String>> {
    let filter = AuditFilter { tenant: Some(tenant.into()), ..AuditFilter::default() };
    Ok(control.audit(&filter, 100).await?.into_iter().map(|line| line.act).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_and_their_lines_are_one() -> anyhow::Result<()> {
    for (what, control, _, _dir) in both().await? {
        let c = &*control;
        ensure!(c.create_tenant(&tenant("acme"), &act(1)).await? == Made::Yes);
        ensure!(c.create_tenant(&tenant("acme"), &act(2)).await? == Made::Exists);
        ensure!(!c.change_tenant("nobody", &TenantChange { suspended: Some(true), ..TenantChange::default() }, &act(3)).await?);
        ensure!(lines(c, "acme").await? == ["tenant.create"], "{what}: what changed nothing has a line");
        ensure!(lines(c, "nobody").await?.is_empty());
        let renamed = TenantChange { display_name: Some(None), suspended: None };
        ensure!(c.change_tenant("acme", &renamed, &act(4)).await?);
        let suspended = TenantChange { display_name: None, suspended: Some(true) };
        ensure!(c.change_tenant("acme", &suspended, &act(5)).await? && c.change_tenant("acme", &suspended, &act(6)).await?);
        let row = c.tenant("acme").await?.context("acme")?;
        ensure!(row.display_name.is_none() && row.suspended_at_us == Some(5), "{what}: {row:?}");

        let (row, presented) = key(1, "acme");
        ensure!(c.create_key(&row, &act(7)).await? == Made::Yes);
        ensure!(c.create_key(&key(2, "nobody").0, &act(8)).await? == Made::NoTenant);
        ensure!(c.key("acme", row.key_id).await? == Some(row.clone()), "{what}: a key is not as it was made");
        ensure!(c.key("nobody", row.key_id).await?.is_none() && !c.revoke_key("nobody", row.key_id, &act(9)).await?);
        let grant = c.grants(&[row.key_id, key(9, "acme").0.key_id]).await?;
        ensure!(grant.len() == 1 && grant[0].tenant_suspended && grant[0].admit(&presented, 20).is_err(), "{what}: {grant:?}");
        ensure!(c.change_tenant("acme", &TenantChange { suspended: Some(false), ..TenantChange::default() }, &act(10)).await?);
        let principal =
            c.grants(&[row.key_id]).await?[0].admit(&presented, 20).map_err(|denied| anyhow::anyhow!("{denied:?}"))?;
        ensure!(principal.may(Right::Erase) && !principal.may(Right::Recall) && !principal.binding.covers("us/x"));

        c.note_uses(&[(row.key_id, 50), (key(9, "x").0.key_id, 1)]).await?;
        c.note_uses(&[(row.key_id, 40)]).await?;
        ensure!(c.key("acme", row.key_id).await?.and_then(|row| row.last_used_at_us) == Some(50), "{what}: a use goes back");
        ensure!(c.revoke_key("acme", row.key_id, &act(60)).await? && c.revoke_key("acme", row.key_id, &act(70)).await?);
        ensure!(c.key("acme", row.key_id).await?.and_then(|row| row.revoked_at_us) == Some(60));

        ensure!(c.quotas("acme").await? == Some(Quotas::default()) && c.quotas("nobody").await?.is_none());
        let quotas = Quotas { events_per_second: Some(5), spool_percent: Some(0), ..Quotas::default() };
        ensure!(c.set_quotas("acme", &quotas, &act(80)).await? && !c.set_quotas("nobody", &quotas, &act(81)).await?);
        ensure!(c.quotas("acme").await? == Some(quotas));
        let expected = [
            "quotas.set",
            "key.revoke",
            "tenant.change",
            "key.create",
            "tenant.change",
            "tenant.change",
            "tenant.change",
            "tenant.create",
        ];
        ensure!(lines(c, "acme").await? == expected, "{what}: {:?}", lines(c, "acme").await?);

        // Page by page nothing is left out or told twice.
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let filter = AuditFilter { tenant: Some("acme".into()), before: before.clone(), ..AuditFilter::default() };
            let page = c.audit(&filter, 3).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.act_id.clone());
            seen.extend(page.into_iter().map(|line| line.act));
        }
        ensure!(seen == expected, "{what}: {seen:?}");
        for name in ["B", "a", "b c", "z"] {
            c.create_tenant(&tenant(name), &act(90)).await?;
        }
        let names: Vec<String> =
            c.tenants("", 100).await?.into_iter().map(|row| row.tenant).filter(|name| name != "survivor").collect();
        ensure!(names == ["B", "a", "acme", "b c", "z"], "{what}: {names:?}");
        ensure!(c.tenants("acme", 1).await?[0].tenant == "b c");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_rotate_a_key_one_does() -> anyhow::Result<()> {
    for (what, control, _, _dir) in both().await? {
        control.create_tenant(&tenant("acme"), &act(1)).await?;
        let (old, _) = key(1, "acme");
        control.create_key(&old, &act(2)).await?;
        let rotations = (2..10).map(|number| {
            let control = control.clone();
            tokio::spawn(async move { control.rotate_key(old_id(), &key(number, "acme").0, 500, &act(100)).await })
        });
        let mut done = 0;
        for rotation in join_all(rotations).await {
            done += usize::from(rotation??);
        }
        ensure!(done == 1, "{what}: {done} rotations of one key");
        let keys = control.keys("acme", "", 100).await?;
        ensure!(keys.len() == 2, "{what}: {keys:?}");
        let (ended, new) = (&keys[0], &keys[1]);
        ensure!(ended.key_id == old.key_id && ended.replaced_by == Some(new.key_id) && ended.expires_at_us == Some(500));
        ensure!(new.rights == old.rights && new.entity_prefix == old.entity_prefix, "{what}: {new:?}");
        ensure!(lines(&*control, "acme").await?.iter().filter(|act| *act == "key.rotate").count() == 1);
        // What is over, or ends sooner than the overlap, is not made longer.
        ensure!(
            !control.rotate_key(new.key_id, &key(20, "acme").0, 5_000, &act(2_000)).await?,
            "{what}: an expired key is rotated"
        );
        let (short, _) = key(30, "acme");
        control.create_key(&KeyRow { expires_at_us: Some(200), ..short.clone() }, &act(100)).await?;
        ensure!(control.rotate_key(short.key_id, &key(31, "acme").0, 5_000, &act(150)).await?);
        ensure!(control.key("acme", short.key_id).await?.and_then(|row| row.expires_at_us) == Some(200));
    }
    Ok(())
}

fn old_id() -> KeyId {
    key(1, "acme").0.key_id
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_once_and_stays() -> anyhow::Result<()> {
    for (what, control, raw, _dir) in both().await? {
        let c = &*control;
        let today = 20_000;
        for name in ["acme", "globex"] {
            c.create_tenant(&tenant(name), &act(1)).await?;
        }
        let key = if matches!(raw, Raw::Sqlite(_)) { "x'00'" } else { "'\\x00'::bytea" };
        let event = |tenant: &str, id: usize, day: i64| {
            format!(
                "INSERT INTO @events (tenant, event_id, entity_key, content_hash, erased, occurred_at_us, accepted_at_us, spooled, lane, \
                 log_partition, log_offset, attempt) VALUES ('{tenant}', 'e{id}', {key}, {key}, false, 1, {}, false, 0, 0, {id}, 0)",
                day * DAY_US + 7
            )
        };
        // Of one call for three events each outcome tells all its tokens.
        let outcome = |tenant: &str, id: usize, offset: usize, day: i64| {
            format!(
                "INSERT INTO @outcomes (tenant, entity_key, generation, event_id, content_hash, kind, lane, log_topic_id, log_partition, \
                 log_offset, event_lane, event_offset, event_spooled, event_accepted_at_us, attempt, tokens_in, tokens_out, cost_micros, \
                 ended_at_us) VALUES ('{tenant}', {key}, 1, 'e{id}', {key}, 1, 0, 'facts', 0, {offset}, 0, {id}, false, 1, 0, 100, 10, 5, {})",
                day * DAY_US + 9
            )
        };
        for id in 0..3 {
            raw.run(&event("acme", id, today)).await?;
            raw.run(&outcome("acme", id, 0, today)).await?;
        }
        raw.run(&event("acme", 3, today - 1)).await?;
        raw.run(&outcome("acme", 3, 1, today)).await?;
        raw.run(&event("globex", 4, today)).await?;
        for _ in 0..2 {
            c.roll_up(today - 1, today).await?;
        }
        let of = |rows: Vec<memori_writer::control::UsageRow>| -> Vec<(i64, i64, i64, i64, i64)> {
            rows.iter().map(|row| (row.day - today, row.events, row.tokens_in, row.tokens_out, row.cost_micros)).collect()
        };
        let acme = of(c.usage(Some("acme"), today - 9, today, 100).await?);
        ensure!(acme == [(-1, 1, 0, 0, 0), (0, 3, 200, 20, 10)], "{what}: {acme:?}");
        ensure!(c.usage(None, today, today, 100).await?.len() == 2 && c.usage(None, today, today, 1).await?.len() == 1);
        let standing = &c.standings(&["acme".into(), "nobody".into()], today).await?;
        ensure!(standing.len() == 1 && standing[0].tokens == 220, "{what}: {standing:?}");
        ensure!(c.standings(&["acme".into()], today + 1).await?[0].tokens == 0, "{what}: a new day begins with nothing");
        // Erased, and counted again.
        raw.run("DELETE FROM @outcomes").await?;
        raw.run("DELETE FROM @events").await?;
        c.roll_up(today - 1, today).await?;
        ensure!(of(c.usage(Some("acme"), today - 9, today, 100).await?) == acme, "{what}: what is erased is off the bill");
    }
    Ok(())
}
