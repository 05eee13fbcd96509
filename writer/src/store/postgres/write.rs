//! The plan's rows: deletions, then new rows by COPY, then changed ones by upserts from UNNEST.

use std::pin::pin;

use deadpool_postgres::Client;
use postgres_types::{ToSql, Type};
use tokio_postgres::binary_copy::BinaryCopyInWriter;

use super::columns::Arrays;
use super::failed;
use crate::plan::{ChangesRow, DeadLetterRow, EntityRef, EntityWrites, ImageChange, Upserts};
use crate::store::cells::{Cell, Kind};
use crate::store::failpoint::{self, Side};
use crate::store::tables::Row;
use crate::store::{InsertMode, PlannedEntity, StoreError};

pub(super) async fn execute(client: &Client, sql: &str, arrays: &Arrays) -> Result<(), StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    failpoint::around(sql, client.execute(&statement, &arrays.params())).await.map(drop).map_err(failed)
}

type Rows<'a, R> = Vec<(Option<&'a EntityRef>, &'a R)>;
type Writes<'a> = [PlannedEntity<'a>];

/// Straight into the indexed table; a key that is there fails the transaction.
async fn copy<R: Row>(client: &Client, rows: &Rows<'_, R>) -> Result<(), StoreError> {
    let table = R::TABLE;
    let sql = format!("COPY memori.{} ({}) FROM STDIN BINARY", table.name, table.column_list(""));
    let types: Vec<Type> = table.columns.iter().map(|(_, kind)| kind.pg_type()).collect();
    let statement = client.prepare_cached(&sql).await.map_err(failed)?;
    let sent = async {
        let sink = client.copy_in(&statement).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for (n, (owner, row)) in rows.iter().enumerate() {
            if n == rows.len() / 2 {
                failpoint::reach(Side::During, &sql);
            }
            let cells = row.cells(*owner);
            let values: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| cell as &(dyn ToSql + Sync)).collect();
            writer.as_mut().write(&values).await?;
        }
        writer.finish().await
    };
    failpoint::around(&sql, sent).await.map(drop).map_err(failed)
}

async fn upsert<R: Row>(client: &Client, rows: &Rows<'_, R>) -> Result<(), StoreError> {
    let table = R::TABLE;
    let kinds: Vec<Kind> = table.columns.iter().map(|(_, kind)| *kind).collect();
    let params: Vec<String> = kinds.iter().enumerate().map(|(i, kind)| format!("${}::{}[]", i + 1, kind.sql_type())).collect();
    let columns = table.column_list("");
    let sql = format!(
        "INSERT INTO memori.{} ({columns}) SELECT * FROM unnest({}) {}",
        table.name,
        params.join(", "),
        table.on_conflict()
    );
    let cells = rows.iter().map(|(owner, row)| row.cells(*owner)).collect();
    execute(client, &sql, &Arrays::of_rows(&kinds, cells)).await
}

async fn put<R: Row>(
    client: &Client,
    mode: InsertMode,
    mut insert: Rows<'_, R>,
    mut update: Rows<'_, R>,
) -> Result<(), StoreError> {
    if mode == InsertMode::Upsert {
        update.append(&mut insert);
    }
    if !insert.is_empty() {
        copy(client, &insert).await?;
    }
    if !update.is_empty() {
        upsert(client, &update).await?;
    }
    Ok(())
}

/// Deletes by tenant, entity and the given key columns.
async fn delete(client: &Client, table: &str, columns: &[(&str, Kind)], keys: Vec<Vec<Cell<'_>>>) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let columns = [&[("tenant", Kind::Text), ("entity_key", Kind::Bytes)], columns].concat();
    let params: Vec<String> =
        columns.iter().enumerate().map(|(i, (_, kind))| format!("${}::{}[]", i + 1, kind.sql_type())).collect();
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let equal: Vec<String> = names.iter().map(|name| format!("r.{name} = q.{name}")).collect();
    let sql = format!(
        "DELETE FROM memori.{table} r USING unnest({}) AS q({}) WHERE {}",
        params.join(", "),
        names.join(", "),
        equal.join(" AND ")
    );
    let kinds: Vec<Kind> = columns.iter().map(|(_, kind)| *kind).collect();
    execute(client, &sql, &Arrays::of_rows(&kinds, keys)).await
}

fn owner(entity: &EntityRef) -> Vec<Cell<'_>> {
    vec![Cell::Text(Some(&entity.tenant)), Cell::Bytes(Some(entity.key.as_bytes()))]
}

fn keys<'a, K: 'a>(
    writes: &'a Writes<'_>,
    of: impl Fn(&'a EntityWrites) -> &'a Vec<K>,
    cells: impl Fn(&'a K) -> Vec<Cell<'a>>,
) -> Vec<Vec<Cell<'a>>> {
    let mut out = Vec::new();
    for planned in writes {
        for key in of(&planned.writes) {
            let mut row = owner(planned.entity);
            row.extend(cells(key));
            out.push(row);
        }
    }
    out
}

fn rows<'a, R>(writes: &'a Writes<'_>, of: impl Fn(&'a EntityWrites) -> &'a Vec<R>) -> Rows<'a, R> {
    writes.iter().flat_map(|p| of(&p.writes).iter().map(move |row| (Some(p.entity), row))).collect()
}

const EVENT: [(&str, Kind); 2] = [("event_id", Kind::Text), ("content_hash", Kind::Bytes)];
const FACT: [(&str, Kind); 2] = [("generation", Kind::I32), ("fact_id", Kind::Uuid)];

async fn deletions(client: &Client, writes: &Writes<'_>) -> Result<(), StoreError> {
    let events = keys(
        writes,
        |w| &w.messages_deleted,
        |e| vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes()))],
    );
    delete(client, "messages", &EVENT, events).await?;
    let outcomes = keys(
        writes,
        |w| &w.outcomes_deleted,
        |(e, generation)| {
            vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes())), Cell::I32(*generation)]
        },
    );
    delete(client, "outcomes", &[EVENT[0], EVENT[1], FACT[0]], outcomes).await?;
    let mentions = keys(
        writes,
        |w| &w.mentions_deleted,
        |m| {
            vec![
                Cell::I32(m.generation),
                Cell::Uuid(Some(m.fact_id.0)),
                Cell::Bytes(Some(m.message_key.as_bytes())),
                Cell::Text(Some(&m.event.event_id)),
                Cell::Bytes(Some(m.event.content_hash.as_bytes())),
            ]
        },
    );
    delete(client, "mentions", &[FACT[0], FACT[1], ("message_key", Kind::Bytes), EVENT[0], EVENT[1]], mentions).await?;
    let vectors = keys(
        writes,
        |w| &w.message_vectors_deleted,
        |m| {
            vec![
                Cell::I32(m.generation),
                Cell::Bytes(Some(m.message_key.as_bytes())),
                Cell::Text(Some(&m.event.event_id)),
                Cell::Bytes(Some(m.event.content_hash.as_bytes())),
            ]
        },
    );
    delete(client, "message_vectors", &[FACT[0], ("message_key", Kind::Bytes), EVENT[0], EVENT[1]], vectors).await?;
    let facts = || keys(writes, |w| &w.facts_deleted, |f| vec![Cell::I32(f.0), Cell::Uuid(Some(f.1.0))]);
    delete(client, "facts", &FACT, facts()).await?;
    delete(client, "fact_stats", &FACT, facts()).await?;
    let mut intervals = facts();
    intervals.extend(keys(writes, |w| &w.validity_deleted, |f| vec![Cell::I32(f.0), Cell::Uuid(Some(f.1.0))]));
    delete(client, "validity", &FACT, intervals).await
}

/// What images have to read: named, or, where something went, everything; then what was packed of it goes, too.
async fn image_changes(client: &Client, mode: InsertMode, writes: &Writes<'_>) -> Result<(), StoreError> {
    let rebased: Vec<Vec<Cell<'_>>> =
        writes.iter().filter(|p| p.images == ImageChange::Rebased).map(|p| owner(p.entity)).collect();
    if !rebased.is_empty() {
        delete(client, "entity_changes", &[], rebased.clone()).await?;
        delete(client, "packs", &[], rebased.clone()).await?;
        let sql = "UPDATE memori.entities r SET rebased_version = r.version, packed_version = NULL \
            FROM unnest($1::text[], $2::bytea[]) AS q(t, k) WHERE r.tenant = q.t AND r.entity_key = q.k";
        execute(client, sql, &Arrays::of_rows(&[Kind::Text, Kind::Bytes], rebased)).await?;
    }
    let mut changed: Rows<'_, ChangesRow> = Vec::with_capacity(writes.len());
    for planned in writes {
        if let ImageChange::Named(row) = &planned.images {
            changed.push((Some(planned.entity), row));
        }
    }
    put(client, mode, changed, Vec::new()).await
}

/// Everything but the offsets.
pub(super) async fn all(
    client: &Client,
    mode: InsertMode,
    writes: &Writes<'_>,
    unowned: &Upserts<DeadLetterRow>,
) -> Result<(), StoreError> {
    let renamed: Vec<Vec<Cell<'_>>> = writes
        .iter()
        .filter_map(|planned| {
            let id = planned.writes.entity_id.as_ref()?;
            let mut row = owner(planned.entity);
            row.push(Cell::Text(id.as_deref()));
            Some(row)
        })
        .collect();
    if !renamed.is_empty() {
        let sql = "UPDATE memori.entities r SET entity_id = q.id FROM unnest($1::text[], $2::bytea[], $3::text[]) AS q(t, k, id) \
            WHERE r.tenant = q.t AND r.entity_key = q.k";
        execute(client, sql, &Arrays::of_rows(&[Kind::Text, Kind::Bytes, Kind::Text], renamed)).await?;
    }
    deletions(client, writes).await?;
    put(client, mode, rows(writes, |w| &w.events.insert), rows(writes, |w| &w.events.update)).await?;
    put(client, mode, rows(writes, |w| &w.messages), Vec::new()).await?;
    put(client, mode, rows(writes, |w| &w.outcomes.insert), rows(writes, |w| &w.outcomes.update)).await?;
    put(client, mode, rows(writes, |w| &w.mentions), Vec::new()).await?;
    put(client, mode, rows(writes, |w| &w.message_vectors), Vec::new()).await?;
    put(client, mode, rows(writes, |w| &w.facts.insert), rows(writes, |w| &w.facts.update)).await?;
    put(client, mode, rows(writes, |w| &w.stats.insert), rows(writes, |w| &w.stats.update)).await?;
    put(client, mode, rows(writes, |w| &w.validity), Vec::new()).await?;
    put(client, mode, rows(writes, |w| &w.erasures.insert), rows(writes, |w| &w.erasures.update)).await?;
    put(client, mode, rows(writes, |w| &w.forgets.insert), rows(writes, |w| &w.forgets.update)).await?;
    let mut new_letters = rows(writes, |w| &w.dead_letters.insert);
    new_letters.extend(unowned.insert.iter().map(|row| (None, row)));
    let mut letters = rows(writes, |w| &w.dead_letters.update);
    letters.extend(unowned.update.iter().map(|row| (None, row)));
    put(client, mode, new_letters, letters).await?;
    image_changes(client, mode, writes).await
}
