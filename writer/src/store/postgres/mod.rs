//! The store on Postgres: the number of statements of a flush does not grow with its rows.
//!
//! Keys are looked up by joins from UNNEST, new rows go by COPY straight into the indexed tables, changed ones by upserts from
//! UNNEST. Time-outs are the server's own (`statement_timeout`, `lock_timeout`); no statement is cut off from this side.

mod columns;
mod known;
pub mod listen;
mod packs;
mod pipeline;
mod read;
mod write;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::{Client, Object, Pool, PoolError};
use memori_event_log::LogError;
use memori_event_log::sql::postgres as log;
use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, SqlSafeStr as _};
use tokio_postgres::Error as PgError;
use tokio_postgres::error::SqlState;

use super::cells::Reader;
use super::tables::Row;
use super::{
    Dump, Foreseen, InsertMode, LockedEntity, OffsetKey, OffsetMove, PlannedEntity, Store, StoreError, StoreTransaction,
    failpoint,
};
use crate::plan::{
    DeadLetterKey, DeadLetterRow, EntityBatch, EntityRef, EntityView, ErasureRow, EventRow, FactRow, ForgetRow, MentionRow,
    MessageRow, MessageVectorRow, Needs, OutcomeRow, StatsRow, Upserts, ValidityRow, WithdrawalRow,
};
use columns::Arrays;
use known::{Known, Memory, Version};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
/// Inside the view's schema, so that dropping the view drops the memory of having made it.
const MIGRATIONS_TABLE: &str = "memori.store_migrations";
/// Of what is no view, so apart: it stays where the view is dropped.
static CONTROL_MIGRATIONS: Migrator = sqlx::migrate!("migrations/control/postgres");
const CONTROL_MIGRATIONS_TABLE: &str = "memori_control.control_migrations";
/// The view's, and that of what is not a view.
pub const SCHEMAS: [&str; 2] = ["memori", "memori_control"];

/// What recall reads.
const READABLE: [&str; 15] = [
    "entities",
    "events",
    "messages",
    "outcomes",
    "facts",
    "mentions",
    "fact_stats",
    "validity",
    "erasures",
    "forgets",
    "withdrawals",
    "dead_letters",
    "message_vectors",
    "entity_changes",
    "packs",
];

/// Begins a flush. The planner's guesses about a table that was empty yesterday must not turn key look-ups into scans. The lock is shared
/// by all flushes; a switch between generations has it alone ([`crate::generations`]).
const BEGIN: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '20s'; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off; \
    SELECT pg_advisory_xact_lock_shared(",
    crate::store::flushes_lock!(),
    ")"
);

/// The store in a Postgres database.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool,
    /// For migrations, which go over sqlx.
    admin_url: String,
    memory: Arc<Memory>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Flushes over `pool`; migrates with `admin_url`.
    #[must_use]
    pub fn new(pool: Pool, admin_url: impl Into<String>) -> Self {
        Self { pool, admin_url: admin_url.into(), memory: Arc::default() }
    }

    /// Lets a role read what recall reads, within the walls between tenants.
    ///
    /// # Errors
    /// There is no such role, or it may not be let in.
    pub async fn let_read(&self, role: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let role: String = client.query_one("SELECT quote_ident($1)", &[&role]).await.map_err(failed)?.get(0);
        let tables: Vec<String> = READABLE.iter().map(|table| format!("memori.{table}")).collect();
        let sql = format!(
            "GRANT USAGE ON SCHEMA memori, memori_control TO {role}; \
             GRANT SELECT ON {}, memori_control.active_generations, memori_control.trailing_entities TO {role}",
            tables.join(", ")
        );
        client.batch_execute(&sql).await.map_err(failed)
    }

    /// Makes the tables, as the administrator.
    async fn administer(&self, anew: bool) -> Result<(), StoreError> {
        let options: sqlx::postgres::PgConnectOptions = self.admin_url.parse().map_err(migration_failed)?;
        let mut connection = options.connect().await.map_err(|e| StoreError::Retry(e.to_string()))?;
        let ended = make_tables(&mut connection, anew).await;
        let _ = connection.close().await;
        ended
    }

    async fn client(&self) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => failed(e),
            e => StoreError::Retry(e.to_string()),
        })
    }
}

/// What to do about an error, by its SQLSTATE; one without is the connection's.
fn failed(error: PgError) -> StoreError {
    let Some(db) = error.as_db_error() else {
        return StoreError::Retry(error.to_string());
    };
    let told = format!("{} ({})", db.message(), db.code().code());
    if *db.code() == SqlState::UNIQUE_VIOLATION {
        return StoreError::Conflict(told);
    }
    // Connection, resources, rolled back, cancelled or timed out, shutting down, system, read-only after a failover.
    let passing = ["08", "53", "40", "57", "58"].contains(&&db.code().code()[..2])
        || [SqlState::LOCK_NOT_AVAILABLE, SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT]
            .contains(db.code());
    if passing { StoreError::Retry(told) } else { StoreError::Broken(told) }
}

fn migration_failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("migrations: {error}"))
}

/// In one transaction under a lock that ends with it, so that two at once come one after the other.
async fn make_tables(connection: &mut PgConnection, anew: bool) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await.map_err(|e| StoreError::Retry(e.to_string()))?;
    let mut granted = Vec::new();
    if anew {
        let away = |e: sqlx::Error| StoreError::Retry(format!("the view cannot be emptied now: {e}"));
        sqlx::raw_sql("SET LOCAL lock_timeout = '20s'").execute(&mut *transaction).await.map_err(away)?;
        granted = sqlx::query_scalar::<_, String>(GRANTS).fetch_all(&mut *transaction).await.map_err(away)?;
        sqlx::raw_sql(AssertSqlSafe(drop_tables())).execute(&mut *transaction).await.map_err(away)?;
    }
    log::schema::prepare(&mut transaction, &SCHEMAS).await.map_err(|e| match e {
        LogError::Transient(e) => StoreError::Retry(e),
        e => StoreError::Broken(e.to_string()),
    })?;
    let mut migrations: Vec<Migration> = MIGRATIONS.iter().cloned().collect();
    for migration in &mut migrations {
        // The schemas are there. Postgres wants the right to make one even of who finds it made.
        let sql = SCHEMAS.iter().fold(migration.sql.as_str().to_owned(), |sql, schema| {
            sql.replace(&format!("CREATE SCHEMA IF NOT EXISTS {schema};"), "")
        });
        migration.sql = AssertSqlSafe(sql).into_sql_str();
    }
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.set_locking(false);
    migrator.run_direct(None, &mut *transaction, false).await.map_err(migration_failed)?;
    let mut migrator = Migrator::with_migrations(CONTROL_MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(CONTROL_MIGRATIONS_TABLE);
    migrator.set_locking(false);
    migrator.run_direct(None, &mut *transaction, false).await.map_err(migration_failed)?;
    for grant in granted {
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *transaction).await.map_err(migration_failed)?;
    }
    transaction.commit().await.map_err(migration_failed)
}

/// What roles other than the owner may do with the view's tables, as the statements that let them. Read before they are dropped.
const GRANTS: &str = "SELECT DISTINCT format('GRANT %s ON memori.%I TO %s', g.privilege_type, g.table_name, \
    CASE WHEN g.grantee = 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(g.grantee) END) \
    FROM information_schema.table_privileges g WHERE g.table_schema = 'memori' AND g.grantor <> g.grantee";

/// Drops the view's tables. Not the schema: the log may stand beside the view, which is rebuilt from it. The offsets go first, so that
/// a flush, which locks them first too, is waited for or waits.
fn drop_tables() -> String {
    format!(
        "DO $$ DECLARE t name; BEGIN \
           FOR t IN SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'memori' AND c.relkind IN ('r', 'p') AND c.relname <> ALL ('{{{}}}'::name[]) \
             ORDER BY c.relname <> 'log_offsets', c.relname \
           LOOP EXECUTE format('DROP TABLE memori.%I CASCADE', t); END LOOP; END $$",
        log::TABLES.join(",")
    )
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.administer(false).await
    }

    async fn drop_view(&self) -> Result<(), StoreError> {
        self.memory.clear();
        self.client().await?.batch_execute(&drop_tables()).await.map_err(failed)
    }

    async fn empty_view(&self) -> Result<(), StoreError> {
        self.memory.clear();
        self.administer(true).await
    }

    async fn epoch(&self) -> Result<i64, StoreError> {
        let row = self.client().await?.query_one("SELECT coalesce(to_regclass('memori.entities')::oid, 0)::bigint", &[]).await;
        row.map_err(failed)?.try_get(0).map_err(failed)
    }

    async fn next_offsets(&self, keys: &[OffsetKey]) -> Result<Vec<Option<i64>>, StoreError> {
        let client = self.client().await?;
        let held = offsets(&client, keys, "").await?;
        Ok(keys.iter().map(|key| held.get(key).copied()).collect())
    }

    async fn begin(&self, mode: InsertMode) -> Result<Box<dyn StoreTransaction>, StoreError> {
        let client = self.client().await?;
        Ok(Box::new(PostgresTransaction::new(client, mode, self.memory.clone())))
    }

    async fn announce(&self) -> Result<(), StoreError> {
        self.client().await?.batch_execute(listen::NOTIFY).await.map_err(failed)
    }

    async fn dump(&self) -> Result<Dump, StoreError> {
        let client = self.client().await?;
        let c: &Client = &client;
        let mut dump = Dump::default();
        dump.add(&all::<EventRow>(c).await?);
        dump.add(&all::<MessageRow>(c).await?);
        dump.add(&all::<OutcomeRow>(c).await?);
        dump.add(&all::<MentionRow>(c).await?);
        dump.add(&all::<MessageVectorRow>(c).await?);
        dump.add(&all::<FactRow>(c).await?);
        dump.add(&all::<StatsRow>(c).await?);
        dump.add(&all::<ValidityRow>(c).await?);
        dump.add(&all::<ErasureRow>(c).await?);
        dump.add(&all::<ForgetRow>(c).await?);
        dump.add(&all::<WithdrawalRow>(c).await?);
        dump.add(&all::<DeadLetterRow>(c).await?);
        let rows = c.query("SELECT tenant, entity_key, entity_id FROM memori.entities", &[]).await.map_err(failed)?;
        let entity = |row: &tokio_postgres::Row| Ok((Reader::new(row).owner()?, row.try_get(2).map_err(failed)?));
        dump.add_entities(rows.iter().map(entity).collect::<Result<_, StoreError>>()?);
        Ok(dump)
    }
}

async fn all<R: Row>(client: &Client) -> Result<Vec<(Option<EntityRef>, R)>, StoreError> {
    let sql = format!("SELECT {} FROM memori.{}", R::TABLE.column_list(""), R::TABLE.name);
    let rows = client.query(&sql, &[]).await.map_err(failed)?;
    let owner = |row: &tokio_postgres::Row| -> Result<Option<EntityRef>, StoreError> {
        let tenant: Option<String> = row.try_get(0).map_err(failed)?;
        tenant.map(|_| Reader::new(row).owner()).transpose()
    };
    rows.iter().map(|row| Ok((owner(row)?, R::read(&mut Reader::new(row))?))).collect()
}

fn offset_arrays<'a>(keys: impl IntoIterator<Item = &'a OffsetKey>) -> Arrays {
    let (mut clusters, mut topics, mut partitions) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        clusters.push(key.cluster_id.to_string());
        topics.push(key.topic_id.to_string());
        partitions.push(key.partition);
    }
    Arrays::new().with(clusters).with(topics).with(partitions)
}

async fn offsets(client: &Client, keys: &[OffsetKey], lock: &str) -> Result<BTreeMap<OffsetKey, i64>, StoreError> {
    let sql = format!(
        "SELECT o.cluster_id, o.topic_id, o.log_partition, o.next_offset FROM memori.log_offsets o \
         JOIN unnest($1::text[], $2::text[], $3::int4[]) AS q(c, t, p) \
           ON o.cluster_id = q.c AND o.topic_id = q.t AND o.log_partition = q.p \
         ORDER BY o.cluster_id, o.topic_id, o.log_partition {lock}"
    );
    let rows = read::query(client, &sql, &offset_arrays(keys)).await?;
    let mut out = BTreeMap::new();
    for row in rows {
        let (cluster, topic): (String, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let key = OffsetKey { cluster_id: cluster.into(), topic_id: topic.into(), partition: row.try_get(2).map_err(failed)? };
        out.insert(key, row.try_get(3).map_err(failed)?);
    }
    Ok(out)
}

struct PostgresTransaction {
    /// Given back to the pool only after the transaction's end.
    client: Option<Client>,
    mode: InsertMode,
    memory: Arc<Memory>,
    /// What was remembered of the entities that it will lock.
    remembered: HashMap<EntityRef, (Version, Known)>,
    /// The entities that it has locked, with what is stored of each, where that is known.
    locked: BTreeMap<EntityRef, (Version, Option<Known>)>,
}

impl Drop for PostgresTransaction {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Inside a transaction: closed, which rolls it back, rather than lent to the next.
            drop(Object::take(client));
        }
    }
}

impl PostgresTransaction {
    fn new(client: Client, mode: InsertMode, memory: Arc<Memory>) -> Self {
        Self { client: Some(client), mode, memory, remembered: HashMap::new(), locked: BTreeMap::new() }
    }

    /// What is stored of a locked entity, where that is known.
    fn known(&self, entity: &EntityRef) -> Option<&Known> {
        self.locked.get(entity).and_then(|(_, known)| known.as_ref())
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("taken only by the transaction's end, which consumes it")
    }
}

#[async_trait]
impl StoreTransaction for PostgresTransaction {
    async fn lock_offsets(&mut self, keys: &[OffsetKey]) -> Result<Vec<i64>, StoreError> {
        // BEGIN and the first statement go out together.
        let client = self.client();
        let (begun, held) =
            futures::join!(failpoint::around(BEGIN, client.batch_execute(BEGIN)), offsets(client, keys, "FOR UPDATE OF o"));
        begun.map_err(failed)?;
        let mut held = held?;
        if held.len() < keys.len() {
            let missing: BTreeSet<&OffsetKey> = keys.iter().filter(|key| !held.contains_key(key)).collect();
            let sql = "INSERT INTO memori.log_offsets (cluster_id, topic_id, log_partition, next_offset) \
                SELECT c, t, p, 0 FROM unnest($1::text[], $2::text[], $3::int4[]) AS q(c, t, p) ON CONFLICT DO NOTHING";
            write::execute(self.client(), sql, &offset_arrays(missing)).await?;
            held = offsets(self.client(), keys, "FOR UPDATE OF o").await?;
        }
        Ok(keys.iter().map(|key| held.get(key).copied().unwrap_or(0)).collect())
    }

    fn foresee<'a>(&mut self, batches: &'a BTreeMap<EntityRef, EntityBatch>) -> BTreeMap<&'a EntityRef, Foreseen> {
        self.remembered = self.memory.take(batches.keys());
        let foreseen = batches.iter().filter_map(|(entity, batch)| {
            let (version, known) = self.remembered.get(entity)?;
            Some((entity, self.memory.foresee(known, *version, batch)?))
        });
        foreseen.collect()
    }

    async fn lock_entities(&mut self, entities: &[&EntityRef]) -> Result<Vec<LockedEntity>, StoreError> {
        let sql = "INSERT INTO memori.entities AS e (tenant, entity_key, entity_id, version) \
            SELECT t, k, NULL, 1 FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS q(t, k, i) ORDER BY i \
            ON CONFLICT (tenant, entity_key) DO UPDATE SET version = e.version + 1 \
            RETURNING e.tenant, e.entity_key, e.entity_id, e.version, e.tableoid";
        let rows = read::query(self.client(), sql, &read::owners(entities.iter().copied())).await?;
        let mut locked: BTreeMap<EntityRef, LockedEntity> = BTreeMap::new();
        for row in rows {
            let entity = Reader::new(&row).owner()?;
            let version = Version { table: row.try_get(4).map_err(failed)?, number: row.try_get(3).map_err(failed)? };
            let known = self.remembered.remove(&entity).filter(|(remembered, _)| *remembered == version.before());
            let held = LockedEntity {
                entity_id: row.try_get(2).map_err(failed)?,
                version: version.number,
                as_foreseen: known.is_some(),
            };
            // Nothing is stored of one that was just made.
            let known = known.map(|(_, known)| known).or_else(|| (version.number == 1).then(Known::default));
            self.locked.insert(entity.clone(), (version, known));
            locked.insert(entity, held);
        }
        let all: Option<Vec<LockedEntity>> = entities.iter().map(|entity| locked.remove(*entity)).collect();
        all.ok_or_else(|| StoreError::Broken("an entity's row was locked and not answered".to_owned()))
    }

    async fn read(
        &mut self,
        needs: &BTreeMap<&EntityRef, Needs>,
        first: bool,
        views: &mut BTreeMap<EntityRef, EntityView>,
    ) -> Result<(), StoreError> {
        let unknown: Vec<&EntityRef> = needs.keys().copied().filter(|entity| self.known(entity).is_none()).collect();
        let stored = needs.iter().map(|(entity, needs)| match self.known(entity) {
            Some(known) => (*entity, Cow::Owned(self.memory.stored(known, needs))),
            None => (*entity, Cow::Borrowed(needs)),
        });
        let stored: BTreeMap<&EntityRef, Cow<'_, Needs>> = stored.collect();
        let removals = if first { unknown } else { Vec::new() };
        read::keys(self.client(), &removals, &stored, views).await?;
        read::wholes(self.client(), needs, views).await
    }

    async fn read_letters(
        &mut self,
        keys: &BTreeSet<&DeadLetterKey>,
    ) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError> {
        read::letters(self.client(), keys.iter().copied()).await
    }

    async fn write(&mut self, writes: &[PlannedEntity<'_>], unowned: &Upserts<DeadLetterRow>) -> Result<(), StoreError> {
        let (memory, mut locked) = (self.memory.clone(), std::mem::take(&mut self.locked));
        // While the server works.
        let remember = async {
            for planned in writes {
                if let Some((_, known)) = locked.get_mut(planned.entity) {
                    *known = known.take().and_then(|known| memory.after(known, &planned.writes));
                }
            }
        };
        let (written, ()) = futures::join!(write::all(self.client(), self.mode, writes, unowned), remember);
        self.locked = locked;
        written
    }

    async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        let sql = "UPDATE memori.log_offsets o SET next_offset = q.n \
            FROM unnest($1::text[], $2::text[], $3::int4[], $4::int8[]) AS q(c, t, p, n) \
            WHERE o.cluster_id = q.c AND o.topic_id = q.t AND o.log_partition = q.p";
        let next: Vec<i64> = moves.iter().map(|m| m.next).collect();
        write::execute(self.client(), sql, &offset_arrays(moves.iter().map(|m| &m.key)).with(next)).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        match failpoint::around("COMMIT", self.client().batch_execute("COMMIT")).await {
            Ok(()) => {
                drop(self.client.take());
                for (entity, (version, known)) in std::mem::take(&mut self.locked) {
                    if let Some(known) = known {
                        self.memory.put(entity, version, known);
                    }
                }
                Ok(())
            }
            // The server says that it did not happen; but a lost connection (class 08) is what a pooler says in its place.
            Err(error) if error.code().is_some_and(|code| !code.code().starts_with("08")) => Err(failed(error)),
            Err(error) => Err(StoreError::CommitUnknown(error.to_string())),
        }
    }

    async fn rollback(mut self: Box<Self>) {
        // Where a flush fails, what was remembered may be of a history that the server has lost.
        self.memory.clear();
        match failpoint::around("ROLLBACK", self.client().batch_execute("ROLLBACK")).await {
            Ok(()) => drop(self.client.take()),
            Err(error) => tracing::warn!(%error, "a rollback failed; the connection is closed"),
        }
    }
}
