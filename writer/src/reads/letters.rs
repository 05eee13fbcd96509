//! Dead letters as operators see them: the rows with where their events stand now, page by page.
//!
//! A letter is never changed by what comes after it, so where its events stand is read anew each time, from their outcomes.

use std::collections::BTreeMap;

use memori_schemas::{ContentHash, DeadLetterClass, EntityKey, Lane};

use super::ReadError;
use super::db::{Database, Param, Row, Statement};
use super::sql::{SqlReads, all, generation_of, key, text};
use crate::plan::{DeadCover, DeadLetterKey, OutcomeKind};

/// Columns that every listing has, and what narrows it. Parameters 1 to 5 are the place after which it goes on.
macro_rules! letters {
    ($order:literal, $than:literal, $whose:literal) => {
        concat!(
            "SELECT d.source_topic_id, d.source_partition, d.source_offset, d.generation, d.tenant, d.entity_key, ",
            "(SELECT e.entity_id FROM @entities e WHERE e.tenant = d.tenant AND e.entity_key = d.entity_key), ",
            "d.source_topic, d.lane, d.class, d.reason, d.attempts, d.covers, d.erased, ",
            "coalesce(length(d.original_key), 0), coalesce(length(d.original_payload), 0), d.failed_at_us ",
            "FROM @dead_letters d WHERE ",
            "(d.failed_at_us, d.source_topic_id, d.source_partition, d.source_offset, d.generation) ",
            $than,
            " ($1, $2, $3, $4, $5) AND d.failed_at_us >= $6 AND d.failed_at_us < $7 ",
            "AND ($8 = '' OR d.class = $8) AND d.generation >= $9 AND d.generation <= $10 AND d.lane >= $11 AND d.lane <= $12 ",
            "AND ($13 = '' OR {strpos}(d.covers, $13) > 0)",
            $whose,
            " ORDER BY d.failed_at_us ",
            $order,
            ", d.source_topic_id ",
            $order,
            ", d.source_partition ",
            $order,
            ", d.source_offset ",
            $order,
            ", d.generation ",
            $order,
            " LIMIT $14"
        )
    };
}

const NEWEST_OF_ALL: &str = letters!("DESC", "<", "");
const OLDEST_OF_ALL: &str = letters!("ASC", ">", "");
const NEWEST_OF_TENANT: &str = letters!("DESC", "<", " AND d.tenant = $15 AND d.entity_key >= $16 AND d.entity_key <= $17");
const OLDEST_OF_TENANT: &str = letters!("ASC", ">", " AND d.tenant = $15 AND d.entity_key >= $16 AND d.entity_key <= $17");

const ONE: &str = "SELECT d.source_topic_id, d.source_partition, d.source_offset, d.generation, d.tenant, d.entity_key, \
    (SELECT e.entity_id FROM @entities e WHERE e.tenant = d.tenant AND e.entity_key = d.entity_key), \
    d.source_topic, d.lane, d.class, d.reason, d.attempts, d.covers, d.erased, \
    coalesce(length(d.original_key), 0), coalesce(length(d.original_payload), 0), d.failed_at_us \
    FROM @dead_letters d WHERE d.source_topic_id = $1 AND d.source_partition = $2 AND d.source_offset = $3 AND d.generation = $4";

const BYTES: &str = "SELECT d.original_key, d.original_payload FROM @dead_letters d \
    WHERE d.source_topic_id = $1 AND d.source_partition = $2 AND d.source_offset = $3 AND d.generation = $4";

const OUTCOMES: &str = "SELECT o.event_id, o.content_hash, o.generation, o.kind, o.event_lane, o.event_offset, o.attempt \
    FROM @outcomes o WHERE o.tenant = $1 AND o.entity_key = $2 AND o.event_id {any $3}";

/// Which letters a listing is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// `None`: everybody's, and those that nobody owns.
    pub tenant: Option<String>,
    /// Only with a tenant.
    pub entity_key: Option<EntityKey>,
    /// One of the events that end in it.
    pub event_id: Option<String>,
    /// Why.
    pub class: Option<DeadLetterClass>,
    /// Given up from then on.
    pub since_us: Option<i64>,
    /// Given up before then.
    pub until_us: Option<i64>,
    /// The generation that gave up.
    pub generation: Option<i32>,
    /// The lane of the record.
    pub lane: Option<Lane>,
    /// Where its events stand. Not a condition of the statement: whoever reads pages sieves them.
    pub state: Option<LetterState>,
}

/// The direction of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOrder {
    /// For people.
    NewestFirst,
    /// In the order in which they were given up, which is that of an entity's events.
    OldestFirst,
}

/// After which letter a page goes on: its time and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterPlace {
    /// When it was given up.
    pub failed_at_us: i64,
    /// Its key.
    pub key: DeadLetterKey,
}

/// A letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "columns of the table, whose migration describes them")]
pub struct LetterRow {
    pub key: DeadLetterKey,
    pub tenant: Option<String>,
    pub entity_key: Option<EntityKey>,
    /// Where the entity has still a name.
    pub entity_id: Option<String>,
    pub source_topic: String,
    pub lane: Lane,
    pub class: String,
    pub reason: String,
    pub attempts: i32,
    pub covers: Vec<DeadCover>,
    pub erased: bool,
    pub key_bytes: i64,
    pub payload_bytes: i64,
    pub failed_at_us: i64,
}

impl LetterRow {
    /// Where a listing goes on after it.
    #[must_use]
    pub fn place(&self) -> LetterPlace {
        LetterPlace { failed_at_us: self.failed_at_us, key: self.key.clone() }
    }

    fn is_of_conversations(&self) -> bool {
        self.source_topic.starts_with("conversations.")
    }
}

/// The record that a letter is about, byte for byte; less where it was too large to be kept whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct LetterBytes {
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Where a letter stands among what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LetterState {
    /// It is the current outcome of an event: that may be redriven.
    Open,
    /// A later letter is.
    Superseded,
    /// Its events have been applied since.
    Applied,
    /// Its events were erased; the bytes are gone.
    Erased,
    /// It names no event.
    Unreadable,
}

impl LetterState {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Open, Self::Superseded, Self::Applied, Self::Erased, Self::Unreadable];

    /// The name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Superseded => "superseded",
            Self::Applied => "applied",
            Self::Erased => "erased",
            Self::Unreadable => "unreadable",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// The current outcome of an event that ends in a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How it ended.
    pub kind: OutcomeKind,
    /// The copy that ended so: its lane,
    pub event_lane: Lane,
    /// its offset there,
    pub event_offset: i64,
    /// and how often it had been redriven.
    pub attempt: i32,
}

/// A letter with the outcomes of its events in the letter's generation, in the order of its covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The row.
    pub row: LetterRow,
    /// `None` where an event has none.
    pub standings: Vec<Option<Standing>>,
}

impl Letter {
    /// Where one of its events stands, by its place among the covers. A letter about facts stands for whichever copy of the event it
    /// was made from; one about a conversation record for that copy alone.
    #[must_use]
    pub fn state_of(&self, cover: usize) -> LetterState {
        if self.row.erased {
            return LetterState::Erased;
        }
        match self.standings.get(cover).copied().flatten() {
            Some(Standing { kind: OutcomeKind::Applied, .. }) => LetterState::Applied,
            Some(dead) if self.row.is_of_conversations() && !self.is_about(&dead) => LetterState::Superseded,
            _ => LetterState::Open,
        }
    }

    fn is_about(&self, standing: &Standing) -> bool {
        (standing.event_lane, standing.event_offset) == (self.row.lane, self.row.key.source_offset)
    }

    /// The most open of its events' states.
    #[must_use]
    pub fn state(&self) -> LetterState {
        if self.row.erased {
            return LetterState::Erased;
        }
        (0..self.row.covers.len()).map(|cover| self.state_of(cover)).min().unwrap_or(LetterState::Unreadable)
    }
}

fn letter_row(row: &mut Row) -> Result<LetterRow, ReadError> {
    let small = |n: i64| i32::try_from(n).map_err(|_| ReadError::Corrupt("a number out of range"));
    let (source_topic_id, source_partition, source_offset) = (row.text()?, small(row.int()?)?, row.int()?);
    let key = DeadLetterKey { source_topic_id, source_partition, source_offset, generation: generation_of(row.int()?)? };
    Ok(LetterRow {
        key,
        tenant: row.opt_text()?,
        entity_key: row.opt_bytes()?.and_then(|bytes| EntityKey::from_slice(&bytes)),
        entity_id: row.opt_text()?,
        source_topic: row.text()?,
        lane: row.one_of(Lane::ALL)?,
        class: row.text()?,
        reason: row.text()?,
        attempts: small(row.int()?)?,
        covers: serde_json::from_str(&row.text()?).map_err(|_| ReadError::Corrupt("the covers of a dead letter"))?,
        erased: row.int()? != 0,
        key_bytes: row.int()?,
        payload_bytes: row.int()?,
        failed_at_us: row.int()?,
    })
}

fn key_params(key: &DeadLetterKey) -> Vec<Param> {
    vec![
        text(&key.source_topic_id),
        Param::Int(key.source_partition.into()),
        Param::Int(key.source_offset),
        Param::Int(key.generation.into()),
    ]
}

/// What stands in the column of covers where an event of this id is among them, and nowhere else: quotes inside of ids are escaped.
fn cover_of(event_id: &str) -> String {
    format!("\"event_id\":{}", serde_json::Value::from(event_id))
}

fn listing(filter: &LetterFilter, order: LetterOrder, after: Option<&LetterPlace>, limit: usize) -> Statement {
    let newest = order == LetterOrder::NewestFirst;
    let begin = || {
        let (failed_at_us, offset, number) = if newest { (i64::MAX, i64::MAX, i32::MAX) } else { (i64::MIN, i64::MIN, i32::MIN) };
        let key =
            DeadLetterKey { source_topic_id: String::new(), source_partition: number, source_offset: offset, generation: number };
        LetterPlace { failed_at_us, key }
    };
    let after = after.cloned().unwrap_or_else(begin);
    let lane = |all: usize| {
        let place = filter.lane.and_then(|lane| Lane::ALL.iter().position(|l| *l == lane)).unwrap_or(all);
        Param::Int(i64::try_from(place).unwrap_or_default())
    };
    let mut params = vec![Param::Int(after.failed_at_us)];
    params.extend(key_params(&after.key));
    params.extend([
        Param::Int(filter.since_us.unwrap_or(i64::MIN)),
        Param::Int(filter.until_us.unwrap_or(i64::MAX)),
        text(filter.class.map_or("", DeadLetterClass::as_str)),
        Param::Int(filter.generation.unwrap_or(i32::MIN).into()),
        Param::Int(filter.generation.unwrap_or(i32::MAX).into()),
        lane(0),
        lane(Lane::ALL.len() - 1),
        Param::Text(filter.event_id.as_deref().map(cover_of).unwrap_or_default()),
        Param::Int(i64::try_from(limit).unwrap_or(i64::MAX)),
    ]);
    let template = match (&filter.tenant, newest) {
        (None, true) => NEWEST_OF_ALL,
        (None, false) => OLDEST_OF_ALL,
        (Some(_), true) => NEWEST_OF_TENANT,
        (Some(_), false) => OLDEST_OF_TENANT,
    };
    if let Some(tenant) = &filter.tenant {
        let bound = |byte: u8| filter.entity_key.as_ref().map_or_else(|| Param::Bytes(vec![byte; EntityKey::LEN]), key);
        params.extend([text(tenant), bound(0), bound(u8::MAX)]);
    }
    Statement::across_tenants(template, params)
}

impl<D: Database> SqlReads<D> {
    pub(super) async fn read_letters(
        &self,
        filter: &LetterFilter,
        order: LetterOrder,
        after: Option<&LetterPlace>,
        limit: usize,
    ) -> Result<Vec<Letter>, ReadError> {
        let rows = all(self.database().query(listing(filter, order, after, limit)).await?, letter_row)?;
        self.with_standings(rows).await
    }

    pub(super) async fn read_letters_by_key(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<Letter>>, ReadError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let asked = keys.iter().map(|key| Statement::across_tenants(ONE, key_params(key))).collect();
        let mut found = Vec::with_capacity(keys.len());
        for rows in self.database().snapshot(asked).await? {
            found.push(all(rows, letter_row)?.pop());
        }
        let present: Vec<bool> = found.iter().map(Option::is_some).collect();
        let mut letters = self.with_standings(found.into_iter().flatten().collect()).await?.into_iter();
        Ok(present.into_iter().map(|there| if there { letters.next() } else { None }).collect())
    }

    pub(super) async fn read_letter_bytes(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<LetterBytes>>, ReadError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let asked = keys.iter().map(|key| Statement::across_tenants(BYTES, key_params(key))).collect();
        let mut found = Vec::with_capacity(keys.len());
        for rows in self.database().snapshot(asked).await? {
            let mut bytes = all(rows, |row| Ok((row.opt_bytes()?, row.opt_bytes()?)))?;
            found.push(match bytes.pop() {
                Some((Some(key), Some(payload))) => Some(LetterBytes { key, payload }),
                _ => None,
            });
        }
        Ok(found)
    }

    /// Asks for the outcomes of what the letters cover, once per entity.
    async fn with_standings(&self, rows: Vec<LetterRow>) -> Result<Vec<Letter>, ReadError> {
        let mut asked: BTreeMap<(String, EntityKey), Vec<String>> = BTreeMap::new();
        for row in rows.iter().filter(|row| !row.erased) {
            let (Some(tenant), Some(entity_key)) = (&row.tenant, row.entity_key) else { continue };
            let ids = asked.entry((tenant.clone(), entity_key)).or_default();
            ids.extend(row.covers.iter().map(|cover| cover.event_id.clone()));
        }
        asked.retain(|_, ids| {
            ids.sort_unstable();
            ids.dedup();
            !ids.is_empty()
        });
        let mut known: BTreeMap<(EntityKey, String, String, i32), Standing> = BTreeMap::new();
        if !asked.is_empty() {
            let owners: Vec<EntityKey> = asked.keys().map(|(_, entity_key)| *entity_key).collect();
            let statements = asked
                .into_iter()
                .map(|((tenant, entity_key), ids)| {
                    Statement::whole(OUTCOMES, vec![text(&tenant), key(&entity_key), Param::Texts(ids)])
                })
                .collect();
            for (entity_key, rows) in owners.into_iter().zip(self.database().snapshot(statements).await?) {
                for mut row in rows {
                    let event_id = row.text()?;
                    let content_hash = row.hash(ContentHash::from_slice)?.to_string();
                    let generation = generation_of(row.int()?)?;
                    let kind = i16::try_from(row.int()?).ok().and_then(OutcomeKind::from_code);
                    let standing = Standing {
                        kind: kind.ok_or(ReadError::Corrupt("an unknown kind of outcome"))?,
                        event_lane: row.one_of(Lane::ALL)?,
                        event_offset: row.int()?,
                        attempt: i32::try_from(row.int()?).map_err(|_| ReadError::Corrupt("a number out of range"))?,
                    };
                    known.insert((entity_key, event_id, content_hash, generation), standing);
                }
            }
        }
        let standing = |row: &LetterRow, cover: &DeadCover| {
            let name = (row.entity_key?, cover.event_id.clone(), cover.content_hash.clone(), row.key.generation);
            known.get(&name).copied()
        };
        Ok(rows
            .into_iter()
            .map(|row| Letter { standings: row.covers.iter().map(|cover| standing(&row, cover)).collect(), row })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(topic: &str, erased: bool, standings: Vec<Option<Standing>>) -> Letter {
        let key = DeadLetterKey { source_topic_id: "t".into(), source_partition: 0, source_offset: 7, generation: 1 };
        let cover = |n: usize| DeadCover {
            event_id: format!("e{n}"),
            content_hash: "00".into(),
            first_live_offset: Some(7),
            first_backfill_offset: None,
            first_spooled_at_us: None,
        };
        let row = LetterRow {
            key,
            tenant: Some("acme".into()),
            entity_key: Some(EntityKey([1; 16])),
            entity_id: None,
            source_topic: topic.into(),
            lane: Lane::Live,
            class: "refused".into(),
            reason: String::new(),
            attempts: 1,
            covers: (0..standings.len()).map(cover).collect(),
            erased,
            key_bytes: 0,
            payload_bytes: 0,
            failed_at_us: 0,
        };
        Letter { row, standings }
    }

    fn dead(event_offset: i64) -> Option<Standing> {
        Some(Standing { kind: OutcomeKind::Dead, event_lane: Lane::Live, event_offset, attempt: 0 })
    }

    #[test]
    fn a_letter_stands_where_its_most_open_event_stands() {
        let applied = Some(Standing { kind: OutcomeKind::Applied, event_lane: Lane::Live, event_offset: 9, attempt: 1 });
        for (topic, erased, standings, state) in [
            ("conversations.live", false, vec![dead(7)], LetterState::Open),
            ("conversations.live", false, vec![dead(9)], LetterState::Superseded),
            ("conversations.live", false, vec![applied], LetterState::Applied),
            ("conversations.live", true, vec![dead(7)], LetterState::Erased),
            ("conversations.live", false, vec![], LetterState::Unreadable),
            // Nothing has been heard of it, so nothing beats a redrive.
            ("conversations.live", false, vec![None], LetterState::Open),
            // The record is one of facts: the offset is another topic's.
            ("facts.live", false, vec![dead(9)], LetterState::Open),
            ("facts.live", false, vec![applied, dead(9)], LetterState::Open),
            ("facts.live", false, vec![applied, applied], LetterState::Applied),
        ] {
            assert_eq!(letter(topic, erased, standings.clone()).state(), state, "{topic} {erased} {standings:?}");
        }
    }

    #[test]
    fn an_event_is_found_among_covers_by_its_whole_id() {
        let covers = |id: &str| {
            let mut cover = letter("conversations.live", false, vec![None]).row.covers.remove(0);
            cover.event_id = id.into();
            serde_json::to_string(&[cover]).unwrap()
        };
        for id in ["e", "with \"quotes\"", "back\\slash", "\",\"event_id\":\"e\"", "日本", "\u{1}"] {
            for other in ["e", "with \"quotes\"", "back\\slash", "\",\"event_id\":\"e\"", "日本", "\u{1}", "ee"] {
                assert_eq!(covers(id).contains(&cover_of(other)), id == other, "{id:?} {other:?}");
            }
        }
    }
}
