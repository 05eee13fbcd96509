//! What the planner asks for, a fixed number of statements for any number of keys; independent ones go out together.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Client;
use memori_schemas::MessageKey;
use uuid::Uuid;

use super::columns::Arrays;
use super::failed;
use crate::plan::{
    DeadLetterKey, DeadLetterRow, EntityRef, EntityView, ErasureRow, EventRef, EventRow, FactKey, FactRow, ForgetRow, MentionRow,
    Needs, OutcomeRow, StatsRow, StoredFact, ValidityRow, WithdrawalRow,
};
use crate::store::cells::Reader;
use crate::store::tables::{Row, StoredMessageVector};
use crate::store::{StoreError, failpoint};

type Views = BTreeMap<EntityRef, EntityView>;
type Found<R> = Vec<(EntityRef, R)>;

pub(super) async fn query(client: &Client, sql: &str, arrays: &Arrays) -> Result<Vec<tokio_postgres::Row>, StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    failpoint::around(sql, client.query(&statement, &arrays.params())).await.map_err(failed)
}

/// Rows of a table, aliased `r`, that `join` finds; nothing is asked where there are no keys.
async fn fetch<R: Row>(client: &Client, keys: usize, join: &str, arrays: &Arrays) -> Result<Found<R>, StoreError> {
    if keys == 0 {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {} FROM {join}", R::TABLE.lean_list("r.", |kind| format!("NULL::{}", kind.sql_type())));
    let rows = query(client, &sql, arrays).await?;
    rows.iter().map(|row| Ok((Reader::new(row).owner()?, R::read(&mut Reader::new(row))?))).collect()
}

pub(super) fn owners<'a>(entities: impl IntoIterator<Item = &'a EntityRef>) -> Arrays {
    let (mut tenants, mut keys) = (Vec::new(), Vec::new());
    for entity in entities {
        tenants.push(entity.tenant.clone());
        keys.push(entity.key.as_bytes().to_vec());
    }
    Arrays::new().with(tenants).with(keys)
}

fn of_events(events: &[(&EntityRef, &EventRef)]) -> Arrays {
    owners(events.iter().map(|(entity, _)| *entity))
        .with(events.iter().map(|(_, e)| e.event_id.clone()).collect())
        .with(events.iter().map(|(_, e)| e.content_hash.as_bytes().to_vec()).collect())
}

fn of_facts(facts: &[(&EntityRef, FactKey)]) -> Arrays {
    owners(facts.iter().map(|(entity, _)| *entity))
        .with(facts.iter().map(|(_, f)| f.0).collect())
        .with(facts.iter().map(|(_, f)| f.1.0).collect::<Vec<Uuid>>())
}

fn of_pairs(pairs: &[(&EntityRef, (FactKey, MessageKey))]) -> Arrays {
    let facts: Vec<(&EntityRef, FactKey)> = pairs.iter().map(|(entity, (fact, _))| (*entity, *fact)).collect();
    of_facts(&facts).with(pairs.iter().map(|(_, (_, m))| m.as_bytes().to_vec()).collect())
}

const ENTITIES: &str = "unnest($1::text[], $2::bytea[]) AS q(t, k)";
const EVENTS: &str = "unnest($1::text[], $2::bytea[], $3::text[], $4::bytea[]) AS q(t, k, e, h)";
const FACTS: &str = "unnest($1::text[], $2::bytea[], $3::int4[], $4::uuid[]) AS q(t, k, g, f)";
const PAIRS: &str = "unnest($1::text[], $2::bytea[], $3::int4[], $4::uuid[], $5::bytea[]) AS q(t, k, g, f, m)";
const SLOTS: &str = "unnest($1::text[], $2::bytea[], $3::int4[], $4::text[]) AS q(t, k, g, s)";
const LETTERS: &str = "unnest($1::text[], $2::int4[], $3::int8[], $4::int4[]) AS q(t, p, o, g)";

const IS_ENTITY: &str = "r.tenant = q.t AND r.entity_key = q.k";
const IS_EVENT: &str = "r.tenant = q.t AND r.entity_key = q.k AND r.event_id = q.e AND r.content_hash = q.h";
const IS_FACT: &str = "r.tenant = q.t AND r.entity_key = q.k AND r.generation = q.g AND r.fact_id = q.f";
const IS_LETTER: &str = "r.source_topic_id = q.t AND r.source_partition = q.p AND r.source_offset = q.o AND r.generation = q.g";

fn join(keys: &str, table: &str, condition: &str) -> String {
    format!("{keys} JOIN memori.{table} r ON {condition}")
}

/// The erasures, forgets and withdrawals of `entities`, and what is named. What is kept of a fact beside its row is asked for where there is
/// one: no row, no mention.
pub(super) async fn keys(
    client: &Client,
    entities: &[&EntityRef],
    needs: &BTreeMap<&EntityRef, Cow<'_, Needs>>,
    views: &mut Views,
) -> Result<(), StoreError> {
    let events: Vec<_> = needs.iter().flat_map(|(entity, n)| n.events.iter().map(move |e| (*entity, e))).collect();
    let facts: Vec<_> = needs.iter().flat_map(|(entity, n)| n.facts.iter().map(move |f| (*entity, *f))).collect();
    let letter_keys: Vec<&DeadLetterKey> = needs.values().flat_map(|n| n.dead_letters.iter()).collect();
    let (of_entities, of_events, facts_asked) = (owners(entities.iter().copied()), of_events(&events), of_facts(&facts));
    let erasures_sql = join(ENTITIES, "erasures", IS_ENTITY);
    let forgets_sql = join(ENTITIES, "forgets", IS_ENTITY);
    let withdrawals_sql = join(ENTITIES, "withdrawals", IS_ENTITY);
    let events_sql = join(EVENTS, "events", IS_EVENT);
    let outcomes_sql = join(EVENTS, "outcomes", IS_EVENT);
    let facts_sql = join(FACTS, "facts", IS_FACT);
    let stats_sql = join(FACTS, "fact_stats", IS_FACT);
    let validity_sql = format!("{} ORDER BY r.valid_from_us", join(FACTS, "validity", IS_FACT));
    let pairs_sql = join(PAIRS, "mentions", &format!("{IS_FACT} AND r.message_key = q.m"));
    let (erasures, forgets, withdrawals, event_rows, outcomes, fact_rows, letters) = futures::try_join!(
        fetch::<ErasureRow>(client, entities.len(), &erasures_sql, &of_entities),
        fetch::<ForgetRow>(client, entities.len(), &forgets_sql, &of_entities),
        fetch::<WithdrawalRow>(client, entities.len(), &withdrawals_sql, &of_entities),
        fetch::<EventRow>(client, events.len(), &events_sql, &of_events),
        fetch::<OutcomeRow>(client, events.len(), &outcomes_sql, &of_events),
        fetch::<FactRow>(client, facts.len(), &facts_sql, &facts_asked),
        async {
            let join = join(LETTERS, "dead_letters", IS_LETTER);
            fetch::<DeadLetterRow>(client, letter_keys.len(), &join, &letter_arrays(&letter_keys)).await
        },
    )?;
    let known: BTreeSet<(&EntityRef, FactKey)> =
        fact_rows.iter().map(|(entity, row)| (entity, (row.generation, row.fact_id))).collect();
    let (facts, pairs): (Vec<_>, Vec<_>) = (
        facts.into_iter().filter(|key| known.contains(key)).collect(),
        needs
            .iter()
            .flat_map(|(entity, n)| n.pairs.iter().map(move |p| (*entity, *p)))
            .filter(|(entity, (fact, _))| known.contains(&(*entity, *fact)))
            .collect(),
    );
    let (of_facts, of_pairs) = (of_facts(&facts), of_pairs(&pairs));
    let (stats, validity, mentions) = futures::try_join!(
        fetch::<StatsRow>(client, facts.len(), &stats_sql, &of_facts),
        fetch::<ValidityRow>(client, facts.len(), &validity_sql, &of_facts),
        fetch::<MentionRow>(client, pairs.len(), &pairs_sql, &of_pairs),
    )?;
    put(views, erasures, |view, row| view.erasures.push(row));
    put(views, forgets, |view, row| view.forgets.push(row));
    put(views, withdrawals, |view, row| view.withdrawals.push(row));
    put(views, event_rows, |view, row| drop(view.events.insert(row.event.clone(), row)));
    put(views, outcomes, |view, row| drop(view.outcomes.insert(row.key(), row)));
    put(views, mentions, |view, row| drop(view.pairs.insert(row.key.clone(), row)));
    put(views, letters, |view, row| drop(view.dead_letters.insert(row.key.clone(), row)));

    let mut stats: BTreeMap<(EntityRef, FactKey), StatsRow> =
        stats.into_iter().map(|(entity, row)| ((entity, (row.generation, row.fact_id)), row)).collect();
    let mut intervals: BTreeMap<(EntityRef, FactKey), Vec<ValidityRow>> = BTreeMap::new();
    for (entity, row) in validity {
        intervals.entry((entity, (row.generation, row.fact_id))).or_default().push(row);
    }
    for (entity, row) in fact_rows {
        let fact = (row.generation, row.fact_id);
        let key = (entity, fact);
        let stats = stats.remove(&key).ok_or_else(|| StoreError::Broken(format!("fact {} has no counts", fact.1)))?;
        let validity = intervals.remove(&key).unwrap_or_default();
        views.entry(key.0).or_default().facts.insert(fact, StoredFact { row, stats, validity });
    }
    Ok(())
}

fn put<R>(views: &mut Views, found: Found<R>, mut take: impl FnMut(&mut EntityView, R)) {
    for (entity, row) in found {
        take(views.entry(entity).or_default(), row);
    }
}

/// Whole entities, whole slots, whole facts.
pub(super) async fn wholes(client: &Client, needs: &BTreeMap<&EntityRef, Needs>, views: &mut Views) -> Result<(), StoreError> {
    let whole: Vec<&EntityRef> = needs.iter().filter(|(_, n)| n.whole).map(|(entity, _)| *entity).collect();
    let slots: Vec<_> = needs.iter().flat_map(|(entity, n)| n.slots.iter().map(move |s| (*entity, s))).collect();
    let facts: Vec<_> = needs.iter().flat_map(|(entity, n)| n.full_facts.iter().map(move |f| (*entity, *f))).collect();
    let of_entities = owners(whole.iter().copied());
    let of_slots = owners(slots.iter().map(|(entity, _)| *entity))
        .with(slots.iter().map(|(_, s)| s.0).collect())
        .with(slots.iter().map(|(_, s)| s.1.clone()).collect());
    let of_facts = of_facts(&facts);
    let events_sql = join(ENTITIES, "events", IS_ENTITY);
    let outcomes_sql = join(ENTITIES, "outcomes", IS_ENTITY);
    let letters_sql = join(ENTITIES, "dead_letters", IS_ENTITY);
    let mentions_sql = join(ENTITIES, "mentions", IS_ENTITY);
    let slots_sql = format!(
        "{SLOTS} JOIN memori.facts f ON f.tenant = q.t AND f.entity_key = q.k AND f.generation = q.g AND f.slot = q.s \
         JOIN memori.mentions r ON r.tenant = f.tenant AND r.entity_key = f.entity_key AND r.generation = f.generation \
           AND r.fact_id = f.fact_id"
    );
    let facts_sql = join(FACTS, "mentions", IS_FACT);
    let vectors_sql = join(ENTITIES, "message_vectors", IS_ENTITY);
    let (events, outcomes, letters, mentions, vectors, of_slots, of_facts) = futures::try_join!(
        fetch::<EventRow>(client, whole.len(), &events_sql, &of_entities),
        fetch::<OutcomeRow>(client, whole.len(), &outcomes_sql, &of_entities),
        fetch::<DeadLetterRow>(client, whole.len(), &letters_sql, &of_entities),
        fetch::<MentionRow>(client, whole.len(), &mentions_sql, &of_entities),
        fetch::<StoredMessageVector>(client, whole.len(), &vectors_sql, &of_entities),
        fetch::<MentionRow>(client, slots.len(), &slots_sql, &of_slots),
        fetch::<MentionRow>(client, facts.len(), &facts_sql, &of_facts),
    )?;
    put(views, events, |view, row| drop(view.events.insert(row.event.clone(), row)));
    put(views, outcomes, |view, row| drop(view.outcomes.insert(row.key(), row)));
    put(views, letters, |view, row| drop(view.dead_letters.insert(row.key.clone(), row)));
    put(views, vectors, |view, row| view.message_vectors.extend([row.key]));
    for found in [mentions, of_slots, of_facts] {
        put(views, found, |view, row| drop(view.mentions.insert(row.key.clone(), row)));
    }
    for (entity, needs) in needs {
        let view = views.entry((*entity).clone()).or_default();
        view.whole |= needs.whole;
        view.slots.extend(needs.slots.iter().cloned());
        view.full_facts.extend(needs.full_facts.iter().copied());
    }
    Ok(())
}

fn letter_arrays(keys: &[&DeadLetterKey]) -> Arrays {
    Arrays::new()
        .with(keys.iter().map(|k| k.source_topic_id.clone()).collect())
        .with(keys.iter().map(|k| k.source_partition).collect())
        .with(keys.iter().map(|k| k.source_offset).collect())
        .with(keys.iter().map(|k| k.generation).collect())
}

/// Dead letters without owner.
pub(super) async fn letters<'a>(
    client: &Client,
    keys: impl IntoIterator<Item = &'a DeadLetterKey>,
) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError> {
    let keys: Vec<&DeadLetterKey> = keys.into_iter().collect();
    let sql = format!("SELECT {} FROM {}", DeadLetterRow::TABLE.column_list("r."), join(LETTERS, "dead_letters", IS_LETTER));
    let mut out = BTreeMap::new();
    for row in query(client, &sql, &letter_arrays(&keys)).await? {
        let letter = DeadLetterRow::read(&mut Reader::new(&row))?;
        out.insert(letter.key.clone(), letter);
    }
    Ok(out)
}
