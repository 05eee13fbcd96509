//! The plan's rows: deletions, then new rows by COPY, then changed ones by upserts from UNNEST.

use deadpool_postgres::Client;

use super::columns::Arrays;
use super::failed;
use super::pipeline::{Pipeline, Rows};
use crate::plan::{ChangesRow, DeadLetterRow, EntityRef, EntityWrites, ImageChange, Upserts};
use crate::store::cells::{Cell, Kind};
use crate::store::failpoint;
use crate::store::tables::Row;
use crate::store::{InsertMode, PlannedEntity, StoreError};

pub(super) async fn execute(client: &Client, sql: &str, arrays: &Arrays) -> Result<(), StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    failpoint::around(sql, client.execute(&statement, &arrays.params())).await.map(drop).map_err(failed)
}

type Writes<'a> = [PlannedEntity<'a>];

/// Changed rows; so many parameters as the table has columns, for any number of rows.
fn upsert<'a, R: Row + Sync>(pipeline: &mut Pipeline<'a>, rows: Rows<'a, R>) {
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
    pipeline.execute(sql, move || {
        let cells = rows.iter().map(|(owner, row)| row.cells(*owner)).collect();
        Arrays::of_rows(&kinds, cells)
    });
}

fn put<'a, R: Row + Sync>(pipeline: &mut Pipeline<'a>, mode: InsertMode, mut insert: Rows<'a, R>, mut update: Rows<'a, R>) {
    if mode == InsertMode::Upsert {
        update.append(&mut insert);
    }
    if !insert.is_empty() {
        pipeline.copy(insert);
    }
    if !update.is_empty() {
        upsert(pipeline, update);
    }
}

/// Deletes by tenant, entity and the given key columns.
fn delete(pipeline: &mut Pipeline<'_>, table: &str, columns: &[(&str, Kind)], keys: Vec<Vec<Cell<'_>>>) {
    if keys.is_empty() {
        return;
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
    let arrays = Arrays::of_rows(&kinds, keys);
    pipeline.execute(sql, move || arrays);
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

fn deletions(pipeline: &mut Pipeline<'_>, writes: &Writes<'_>) {
    let events = keys(
        writes,
        |w| &w.messages_deleted,
        |e| vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes()))],
    );
    delete(pipeline, "messages", &EVENT, events);
    let outcomes = keys(
        writes,
        |w| &w.outcomes_deleted,
        |(e, generation)| {
            vec![Cell::Text(Some(&e.event_id)), Cell::Bytes(Some(e.content_hash.as_bytes())), Cell::I32(*generation)]
        },
    );
    delete(pipeline, "outcomes", &[EVENT[0], EVENT[1], FACT[0]], outcomes);
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
    delete(pipeline, "mentions", &[FACT[0], FACT[1], ("message_key", Kind::Bytes), EVENT[0], EVENT[1]], mentions);
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
    delete(pipeline, "message_vectors", &[FACT[0], ("message_key", Kind::Bytes), EVENT[0], EVENT[1]], vectors);
    let facts = || keys(writes, |w| &w.facts_deleted, |f| vec![Cell::I32(f.0), Cell::Uuid(Some(f.1.0))]);
    delete(pipeline, "facts", &FACT, facts());
    delete(pipeline, "fact_stats", &FACT, facts());
    let mut intervals = facts();
    intervals.extend(keys(writes, |w| &w.validity_deleted, |f| vec![Cell::I32(f.0), Cell::Uuid(Some(f.1.0))]));
    delete(pipeline, "validity", &FACT, intervals);
}

/// What images have to read: named, or, where something went, everything; then what was packed of it goes, too.
fn image_changes<'a>(pipeline: &mut Pipeline<'a>, mode: InsertMode, writes: &'a Writes<'_>) {
    let rebased: Vec<Vec<Cell<'_>>> =
        writes.iter().filter(|p| p.images == ImageChange::Rebased).map(|p| owner(p.entity)).collect();
    if !rebased.is_empty() {
        delete(pipeline, "entity_changes", &[], rebased.clone());
        delete(pipeline, "packs", &[], rebased.clone());
        let sql = "UPDATE memori.entities r SET rebased_version = r.version, packed_version = NULL \
            FROM unnest($1::text[], $2::bytea[]) AS q(t, k) WHERE r.tenant = q.t AND r.entity_key = q.k";
        let arrays = Arrays::of_rows(&[Kind::Text, Kind::Bytes], rebased);
        pipeline.execute(sql.to_owned(), move || arrays);
    }
    let mut changed: Rows<'a, ChangesRow> = Vec::with_capacity(writes.len());
    for planned in writes {
        if let ImageChange::Named(row) = &planned.images {
            changed.push((Some(planned.entity), row));
        }
    }
    put(pipeline, mode, changed, Vec::new());
}

/// Everything but the offsets.
pub(super) async fn all(
    client: &Client,
    mode: InsertMode,
    writes: &Writes<'_>,
    unowned: &Upserts<DeadLetterRow>,
) -> Result<(), StoreError> {
    let mut pipeline = Pipeline::new(client);
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
        let arrays = Arrays::of_rows(&[Kind::Text, Kind::Bytes, Kind::Text], renamed);
        pipeline.execute(sql.to_owned(), move || arrays);
    }
    deletions(&mut pipeline, writes);
    put(&mut pipeline, mode, rows(writes, |w| &w.events.insert), rows(writes, |w| &w.events.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.messages), Vec::new());
    put(&mut pipeline, mode, rows(writes, |w| &w.outcomes.insert), rows(writes, |w| &w.outcomes.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.mentions), Vec::new());
    put(&mut pipeline, mode, rows(writes, |w| &w.message_vectors), Vec::new());
    put(&mut pipeline, mode, rows(writes, |w| &w.facts.insert), rows(writes, |w| &w.facts.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.stats.insert), rows(writes, |w| &w.stats.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.validity), Vec::new());
    put(&mut pipeline, mode, rows(writes, |w| &w.erasures.insert), rows(writes, |w| &w.erasures.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.forgets.insert), rows(writes, |w| &w.forgets.update));
    put(&mut pipeline, mode, rows(writes, |w| &w.withdrawals.insert), rows(writes, |w| &w.withdrawals.update));
    let mut new_letters = rows(writes, |w| &w.dead_letters.insert);
    new_letters.extend(unowned.insert.iter().map(|row| (None, row)));
    let mut letters = rows(writes, |w| &w.dead_letters.update);
    letters.extend(unowned.update.iter().map(|row| (None, row)));
    put(&mut pipeline, mode, new_letters, letters);
    image_changes(&mut pipeline, mode, writes);
    pipeline.finish().await
}
