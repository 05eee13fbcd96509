//! The store on SQLite: tables beside the SQL log's in one file, or in a file of their own.
//!
//! The database has one writer at a time, so `BEGIN IMMEDIATE` is every lock that a flush needs. Statements run in this process;
//! their number per flush costs nothing worth saving.

mod packs;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use memori_event_log::sqlite::SqliteDatabase;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Row as _, Transaction};
use uuid::Uuid;

use super::cells::{Cell, Fields, Reader};
use super::tables::{Row, StoredMessageVector, Table};
use super::{
    Dump, InsertMode, LockedEntity, OffsetKey, OffsetMove, PlannedEntity, Store, StoreError, StoreTransaction, failpoint,
};
use crate::plan::{
    DeadLetterKey, DeadLetterRow, EntityRef, EntityView, EntityWrites, ErasureRow, EventRow, FactRow, ForgetRow, ImageChange,
    MentionRow, MessageRow, MessageVectorRow, Needs, OutcomeRow, StatsRow, StoredFact, Upserts, ValidityRow, WithdrawalRow,
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
/// Apart from the table of the log's migrations, which may live in the same file.
const MIGRATIONS_TABLE: &str = "store_migrations";
/// Of what is no view, so apart: it stays where the view is dropped.
static CONTROL_MIGRATIONS: Migrator = sqlx::migrate!("migrations/control/sqlite");
const CONTROL_MIGRATIONS_TABLE: &str = "control_migrations";

/// All but what is truth: `active_generations`, and what the control store keeps.
const VIEW_TABLES: [&str; 16] = [
    "log_offsets",
    "entities",
    "entity_changes",
    "packs",
    "events",
    "messages",
    "outcomes",
    "facts",
    "mentions",
    "message_vectors",
    "fact_stats",
    "validity",
    "erasures",
    "forgets",
    "withdrawals",
    "dead_letters",
];

/// The store in a SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    database: SqliteDatabase,
}

impl SqliteStore {
    /// On an open database; [`Store::migrate`] makes the tables.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self { database }
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            StoreError::Broken(error.to_string())
        }
        sqlx::Error::Database(database) => match primary_code(database.code().as_deref()) {
            Some(SQLITE_ERROR | SQLITE_READONLY | SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Broken(error.to_string()),
            Some(SQLITE_CONSTRAINT) => StoreError::Conflict(error.to_string()),
            _ => StoreError::Retry(error.to_string()),
        },
        _ => StoreError::Retry(error.to_string()),
    }
}

/// A statement or table that this file does not have. (This and the next: <https://www.sqlite.org/rescode.html>)
const SQLITE_ERROR: u32 = 1;
const SQLITE_READONLY: u32 = 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_CONSTRAINT: u32 = 19;
const SQLITE_NOTADB: u32 = 26;

/// The primary code: the low byte of the extended one, which sqlx shows as text.
fn primary_code(extended: Option<&str>) -> Option<u32> {
    extended?.parse::<u32>().ok().map(|code| code & 0xff)
}

impl Fields for SqliteRow {
    fn text(&self, at: usize) -> Result<Option<String>, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn uuid(&self, at: usize) -> Result<Option<Uuid>, StoreError> {
        let bytes: Option<Vec<u8>> = self.try_get(at).map_err(failed)?;
        bytes.map(|b| Uuid::from_slice(&b).map_err(|e| StoreError::Broken(e.to_string()))).transpose()
    }

    fn i64(&self, at: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn i32(&self, at: usize) -> Result<Option<i32>, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn i16(&self, at: usize) -> Result<Option<i16>, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn bool(&self, at: usize) -> Result<bool, StoreError> {
        self.try_get(at).map_err(failed)
    }

    fn f32(&self, at: usize) -> Result<Option<f32>, StoreError> {
        self.try_get(at).map_err(failed)
    }
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(query: Statement<'q>, cell: Cell<'_>) -> Statement<'q> {
    match cell {
        Cell::Text(text) => query.bind(text.map(str::to_owned)),
        Cell::OwnedText(text) => query.bind(text),
        Cell::Bytes(bytes) => query.bind(bytes.map(<[u8]>::to_vec)),
        Cell::OwnedBytes(bytes) => query.bind(bytes),
        Cell::Uuid(uuid) => query.bind(uuid.map(|u| u.as_bytes().to_vec())),
        Cell::I64(n) => query.bind(n),
        Cell::I32(n) => query.bind(n),
        Cell::I16(n) => query.bind(n),
        Cell::Bool(b) => query.bind(b),
        Cell::F32(x) => query.bind(x),
    }
}

/// Runs `sql` with the values.
async fn execute(connection: &mut SqliteConnection, sql: &str, values: Vec<Cell<'_>>) -> Result<(), StoreError> {
    let query = values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), bind);
    failpoint::around(sql, query.execute(connection)).await.map(drop).map_err(failed)
}

/// Rows of a table where `condition` holds.
async fn select<R: Row>(connection: &mut SqliteConnection, condition: &str, values: Vec<Cell<'_>>) -> Result<Vec<R>, StoreError> {
    let sql = format!("SELECT {} FROM {} WHERE {condition}", R::TABLE.lean_list("", |_| "NULL".to_owned()), R::TABLE.name);
    let query = values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql.as_str())), bind);
    let rows = failpoint::around(&sql, query.fetch_all(connection)).await.map_err(failed)?;
    rows.iter().map(|row| R::read(&mut Reader::new(row))).collect()
}

fn owner_cells(entity: &EntityRef) -> Vec<Cell<'_>> {
    vec![Cell::Text(Some(&entity.tenant)), Cell::Bytes(Some(entity.key.as_bytes()))]
}

fn with_owner<'a>(entity: &'a EntityRef, rest: impl IntoIterator<Item = Cell<'a>>) -> Vec<Cell<'a>> {
    let mut cells = owner_cells(entity);
    cells.extend(rest);
    cells
}

const OF_ENTITY: &str = "tenant = ? AND entity_key = ?";
const OF_FACT: &str = "tenant = ? AND entity_key = ? AND generation = ? AND fact_id = ?";
const OF_LETTER: &str = "source_topic_id = ? AND source_partition = ? AND source_offset = ? AND generation = ?";

fn letter_cells(key: &DeadLetterKey) -> Vec<Cell<'_>> {
    vec![
        Cell::Text(Some(&key.source_topic_id)),
        Cell::I32(key.source_partition),
        Cell::I64(Some(key.source_offset)),
        Cell::I32(key.generation),
    ]
}

/// In one immediate transaction of the caller's, because the migrator itself takes no lock on SQLite.
async fn make_tables(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let broken = |e: MigrateError| StoreError::Broken(format!("migrations: {e}"));
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.run_direct(None, &mut *connection, false).await.map_err(broken)?;
    let mut migrator = Migrator::with_migrations(CONTROL_MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(CONTROL_MIGRATIONS_TABLE);
    migrator.run_direct(None, &mut *connection, false).await.map_err(broken)
}

async fn drop_tables(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for table in VIEW_TABLES.iter().chain(&[MIGRATIONS_TABLE]) {
        execute(connection, &format!("DROP TABLE IF EXISTS {table}"), Vec::new()).await?;
    }
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        let mut transaction = self.database.writes().begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        make_tables(&mut transaction).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn drop_view(&self) -> Result<(), StoreError> {
        let mut transaction = self.database.writes().begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        drop_tables(&mut transaction).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn empty_view(&self) -> Result<(), StoreError> {
        let mut transaction = self.database.writes().begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        drop_tables(&mut transaction).await?;
        make_tables(&mut transaction).await?;
        transaction.commit().await.map_err(failed)
    }

    /// Counts changes of the tables' forms; making them anew is some.
    async fn epoch(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("PRAGMA schema_version").fetch_one(self.database.reads()).await.map_err(failed)
    }

    async fn next_offsets(&self, keys: &[OffsetKey]) -> Result<Vec<Option<i64>>, StoreError> {
        let mut connection = self.database.reads().acquire().await.map_err(failed)?;
        let mut out = Vec::with_capacity(keys.len());
        for key in keys {
            out.push(offset_of(&mut connection, key).await?);
        }
        Ok(out)
    }

    async fn begin(&self, _mode: InsertMode) -> Result<Box<dyn StoreTransaction>, StoreError> {
        let begun = self.database.writes().begin_with("BEGIN IMMEDIATE");
        let transaction = failpoint::around("BEGIN", begun).await.map_err(failed)?;
        Ok(Box::new(SqliteTransaction { transaction }))
    }

    async fn dump(&self) -> Result<Dump, StoreError> {
        let mut transaction = self.database.reads().begin().await.map_err(failed)?;
        let c = &mut *transaction;
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
        let rows = sqlx::query("SELECT tenant, entity_key, entity_id FROM entities").fetch_all(&mut *c).await.map_err(failed)?;
        let entities = rows.iter().map(|row| Ok((Reader::new(row).owner()?, row.text(2)?))).collect::<Result<_, StoreError>>()?;
        dump.add_entities(entities);
        transaction.rollback().await.map_err(failed)?;
        Ok(dump)
    }
}

async fn all<R: Row>(connection: &mut SqliteConnection) -> Result<Vec<(Option<EntityRef>, R)>, StoreError> {
    let sql = format!("SELECT {} FROM {}", R::TABLE.column_list(""), R::TABLE.name);
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await.map_err(failed)?;
    let owner = |row: &SqliteRow| row.text(0)?.map(|_| Reader::new(row).owner()).transpose();
    rows.iter().map(|row| Ok((owner(row)?, R::read(&mut Reader::new(row))?))).collect()
}

async fn offset_of(connection: &mut SqliteConnection, key: &OffsetKey) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT next_offset FROM log_offsets WHERE cluster_id = ? AND topic_id = ? AND log_partition = ?";
    let query = sqlx::query_scalar(sql).bind(key.cluster_id.to_string()).bind(key.topic_id.to_string()).bind(key.partition);
    failpoint::around(sql, query.fetch_optional(connection)).await.map_err(failed)
}

struct SqliteTransaction {
    transaction: Transaction<'static, Sqlite>,
}

impl SqliteTransaction {
    /// Inserts or replaces rows.
    async fn upsert<R: Row>(&mut self, owner: Option<&EntityRef>, insert: &[R], update: &[R]) -> Result<(), StoreError> {
        let table: Table = R::TABLE;
        let mut sql = None;
        for row in insert.iter().chain(update) {
            let sql = sql.get_or_insert_with(|| {
                let marks = vec!["?"; table.columns.len()].join(", ");
                format!("INSERT INTO {} ({}) VALUES ({marks}) {}", table.name, table.column_list(""), table.on_conflict())
            });
            execute(&mut self.transaction, sql, row.cells(owner)).await?;
        }
        Ok(())
    }

    async fn delete(
        &mut self,
        entity: &EntityRef,
        table: &str,
        condition: &str,
        keys: Vec<Vec<Cell<'_>>>,
    ) -> Result<(), StoreError> {
        let sql = format!("DELETE FROM {table} WHERE {OF_ENTITY} AND {condition}");
        for key in keys {
            execute(&mut self.transaction, &sql, with_owner(entity, key)).await?;
        }
        Ok(())
    }

    async fn read_entity(
        &mut self,
        entity: &EntityRef,
        needs: &Needs,
        first: bool,
        view: &mut EntityView,
    ) -> Result<(), StoreError> {
        let c = &mut *self.transaction;
        if first {
            view.erasures = select(c, OF_ENTITY, owner_cells(entity)).await?;
            view.forgets = select(c, OF_ENTITY, owner_cells(entity)).await?;
            view.withdrawals = select(c, OF_ENTITY, owner_cells(entity)).await?;
        }
        for event in &needs.events {
            let key =
                || with_owner(entity, [Cell::Text(Some(&event.event_id)), Cell::Bytes(Some(event.content_hash.as_bytes()))]);
            let condition = "tenant = ? AND entity_key = ? AND event_id = ? AND content_hash = ?";
            for row in select::<EventRow>(c, condition, key()).await? {
                view.events.insert(row.event.clone(), row);
            }
            for row in select::<OutcomeRow>(c, condition, key()).await? {
                view.outcomes.insert(row.key(), row);
            }
        }
        for fact in &needs.facts {
            let key = || with_owner(entity, [Cell::I32(fact.0), Cell::Uuid(Some(fact.1.0))]);
            let row = select::<FactRow>(c, OF_FACT, key()).await?.pop();
            let stats = select::<StatsRow>(c, OF_FACT, key()).await?.pop();
            if let (Some(row), Some(stats)) = (row, stats) {
                let validity = select::<ValidityRow>(c, &format!("{OF_FACT} ORDER BY valid_from_us"), key()).await?;
                view.facts.insert(*fact, StoredFact { row, stats, validity });
            }
        }
        for (fact, message_key) in &needs.pairs {
            let key =
                with_owner(entity, [Cell::I32(fact.0), Cell::Uuid(Some(fact.1.0)), Cell::Bytes(Some(message_key.as_bytes()))]);
            for row in select::<MentionRow>(c, &format!("{OF_FACT} AND message_key = ?"), key).await? {
                view.pairs.insert(row.key.clone(), row);
            }
        }
        for letter in &needs.dead_letters {
            for row in select::<DeadLetterRow>(c, OF_LETTER, letter_cells(letter)).await? {
                view.dead_letters.insert(row.key.clone(), row);
            }
        }
        let mut mentions: Vec<MentionRow> = Vec::new();
        if needs.whole {
            let events = select::<EventRow>(c, OF_ENTITY, owner_cells(entity)).await?;
            view.events.extend(events.into_iter().map(|row| (row.event.clone(), row)));
            let outcomes = select::<OutcomeRow>(c, OF_ENTITY, owner_cells(entity)).await?;
            view.outcomes.extend(outcomes.into_iter().map(|row| (row.key(), row)));
            let letters = select::<DeadLetterRow>(c, OF_ENTITY, owner_cells(entity)).await?;
            view.dead_letters.extend(letters.into_iter().map(|row| (row.key.clone(), row)));
            mentions.extend(select::<MentionRow>(c, OF_ENTITY, owner_cells(entity)).await?);
            let vectors = select::<StoredMessageVector>(c, OF_ENTITY, owner_cells(entity)).await?;
            view.message_vectors.extend(vectors.into_iter().map(|row| row.key));
            view.whole = true;
        }
        for (generation, slot) in &needs.slots {
            let condition = "tenant = ?1 AND entity_key = ?2 AND generation = ?3 AND fact_id IN \
                (SELECT fact_id FROM facts WHERE tenant = ?1 AND entity_key = ?2 AND generation = ?3 AND slot = ?4)";
            let key = with_owner(entity, [Cell::I32(*generation), Cell::Text(Some(slot))]);
            mentions.extend(select::<MentionRow>(c, condition, key).await?);
            view.slots.insert((*generation, slot.clone()));
        }
        for fact in &needs.full_facts {
            let key = with_owner(entity, [Cell::I32(fact.0), Cell::Uuid(Some(fact.1.0))]);
            mentions.extend(select::<MentionRow>(c, OF_FACT, key).await?);
            view.full_facts.insert(*fact);
        }
        view.mentions.extend(mentions.into_iter().map(|row| (row.key.clone(), row)));
        Ok(())
    }

    async fn write_entity(&mut self, entity: &EntityRef, w: &EntityWrites) -> Result<(), StoreError> {
        let o = Some(entity);
        if let Some(id) = &w.entity_id {
            let values =
                vec![Cell::Text(id.as_deref()), Cell::Text(Some(&entity.tenant)), Cell::Bytes(Some(entity.key.as_bytes()))];
            execute(&mut self.transaction, "UPDATE entities SET entity_id = ? WHERE tenant = ? AND entity_key = ?", values)
                .await?;
        }
        let events = w
            .messages_deleted
            .iter()
            .map(|e| vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes()))])
            .collect();
        self.delete(entity, "messages", "event_id = ? AND content_hash = ?", events).await?;
        let outcomes = w
            .outcomes_deleted
            .iter()
            .map(|(e, generation)| {
                vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes())), Cell::I32(*generation)]
            })
            .collect();
        self.delete(entity, "outcomes", "event_id = ? AND content_hash = ? AND generation = ?", outcomes).await?;
        let mentions = w
            .mentions_deleted
            .iter()
            .map(|m| {
                vec![
                    Cell::I32(m.generation),
                    Cell::Uuid(Some(m.fact_id.0)),
                    Cell::Bytes(Some(m.message_key.as_bytes())),
                    Cell::Text(Some(&m.event.event_id)),
                    Cell::Bytes(Some(m.event.content_hash.as_bytes())),
                ]
            })
            .collect();
        let condition = "generation = ? AND fact_id = ? AND message_key = ? AND event_id = ? AND content_hash = ?";
        self.delete(entity, "mentions", condition, mentions).await?;
        let vectors = w
            .message_vectors_deleted
            .iter()
            .map(|m| {
                vec![
                    Cell::I32(m.generation),
                    Cell::Bytes(Some(m.message_key.as_bytes())),
                    Cell::Text(Some(&m.event.event_id)),
                    Cell::Bytes(Some(m.event.content_hash.as_bytes())),
                ]
            })
            .collect();
        let condition = "generation = ? AND message_key = ? AND event_id = ? AND content_hash = ?";
        self.delete(entity, "message_vectors", condition, vectors).await?;
        fn fact(f: &crate::plan::FactKey) -> Vec<Cell<'static>> {
            vec![Cell::I32(f.0), Cell::Uuid(Some(f.1.0))]
        }
        for table in ["facts", "fact_stats"] {
            self.delete(entity, table, "generation = ? AND fact_id = ?", w.facts_deleted.iter().map(fact).collect()).await?;
        }
        let intervals = w.validity_deleted.iter().chain(&w.facts_deleted).map(fact).collect();
        self.delete(entity, "validity", "generation = ? AND fact_id = ?", intervals).await?;

        self.upsert(o, &w.events.insert, &w.events.update).await?;
        self.upsert(o, &w.messages, &[]).await?;
        self.upsert(o, &w.outcomes.insert, &w.outcomes.update).await?;
        self.upsert(o, &w.mentions, &[]).await?;
        self.upsert(o, &w.message_vectors, &[]).await?;
        self.upsert(o, &w.facts.insert, &w.facts.update).await?;
        self.upsert(o, &w.stats.insert, &w.stats.update).await?;
        self.upsert(o, &w.validity, &[]).await?;
        self.upsert(o, &w.erasures.insert, &w.erasures.update).await?;
        self.upsert(o, &w.forgets.insert, &w.forgets.update).await?;
        self.upsert(o, &w.withdrawals.insert, &w.withdrawals.update).await?;
        self.upsert(o, &w.dead_letters.insert, &w.dead_letters.update).await
    }
}

impl SqliteTransaction {
    async fn write_image_change(&mut self, entity: &EntityRef, change: &ImageChange) -> Result<(), StoreError> {
        match change {
            ImageChange::Nothing => {}
            ImageChange::Named(row) => self.upsert(Some(entity), std::slice::from_ref(row), &[]).await?,
            ImageChange::Rebased => {
                for sql in [
                    "DELETE FROM entity_changes WHERE tenant = ? AND entity_key = ?",
                    "DELETE FROM packs WHERE tenant = ? AND entity_key = ?",
                    "UPDATE entities SET rebased_version = version, packed_version = NULL WHERE tenant = ? AND entity_key = ?",
                ] {
                    execute(&mut self.transaction, sql, owner_cells(entity)).await?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl StoreTransaction for SqliteTransaction {
    async fn lock_offsets(&mut self, keys: &[OffsetKey]) -> Result<Vec<i64>, StoreError> {
        let mut out = Vec::with_capacity(keys.len());
        for key in keys {
            out.push(offset_of(&mut self.transaction, key).await?.unwrap_or(0));
        }
        Ok(out)
    }

    async fn lock_entities(&mut self, entities: &[&EntityRef]) -> Result<Vec<LockedEntity>, StoreError> {
        let sql = "INSERT INTO entities (tenant, entity_key, entity_id, version) VALUES (?, ?, NULL, 1) \
            ON CONFLICT (tenant, entity_key) DO UPDATE SET version = version + 1 RETURNING entity_id, version";
        let mut out = Vec::with_capacity(entities.len());
        for entity in entities {
            let query = owner_cells(entity).into_iter().fold(sqlx::query(sql), bind);
            let row = failpoint::around(sql, query.fetch_one(&mut *self.transaction)).await.map_err(failed)?;
            out.push(LockedEntity { entity_id: row.text(0)?, version: row.try_get(1).map_err(failed)?, as_foreseen: false });
        }
        Ok(out)
    }

    async fn read(
        &mut self,
        needs: &BTreeMap<&EntityRef, Needs>,
        first: bool,
        views: &mut BTreeMap<EntityRef, EntityView>,
    ) -> Result<(), StoreError> {
        for (entity, needs) in needs {
            let view = views.entry((*entity).clone()).or_default();
            self.read_entity(entity, needs, first, view).await?;
        }
        Ok(())
    }

    async fn read_letters(
        &mut self,
        keys: &BTreeSet<&DeadLetterKey>,
    ) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError> {
        let mut out = BTreeMap::new();
        for key in keys {
            let rows = select::<DeadLetterRow>(&mut self.transaction, OF_LETTER, letter_cells(key)).await?;
            out.extend(rows.into_iter().map(|row| (row.key.clone(), row)));
        }
        Ok(out)
    }

    async fn write(&mut self, writes: &[PlannedEntity<'_>], unowned: &Upserts<DeadLetterRow>) -> Result<(), StoreError> {
        for PlannedEntity { entity, writes, images } in writes {
            self.write_entity(entity, writes).await?;
            self.write_image_change(entity, images).await?;
        }
        self.upsert(None, &unowned.insert, &unowned.update).await
    }

    async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        let sql = "INSERT INTO log_offsets (cluster_id, topic_id, log_partition, next_offset) VALUES (?, ?, ?, ?) \
            ON CONFLICT (cluster_id, topic_id, log_partition) DO UPDATE SET next_offset = excluded.next_offset";
        for m in moves {
            let values = vec![
                Cell::Text(Some(&m.key.cluster_id)),
                Cell::Text(Some(&m.key.topic_id)),
                Cell::I32(m.key.partition),
                Cell::I64(Some(m.next)),
            ];
            execute(&mut self.transaction, sql, values).await?;
        }
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        failpoint::around("COMMIT", self.transaction.commit()).await.map_err(|e| StoreError::CommitUnknown(e.to_string()))
    }

    async fn rollback(self: Box<Self>) {
        if let Err(error) = failpoint::around("ROLLBACK", self.transaction.rollback()).await {
            tracing::warn!(%error, "a rollback failed");
        }
    }
}
