//! The two databases behind one small seam: statements with parameters in, rows of plain values out.
//!
//! A statement is written once. `@name` is a table of the view, `@@name` one of the truth; `{any $n}` is membership in a list of
//! texts; `{alone among flushes}` is a statement; `{generation of $2}` is what an entity of the tenant `$1` reads; `{part of fact_id}`
//! and `{part of message_key}` keep what changed, where not everything is wanted ([`Part`]); what else differs is named in
//! [`Dialect::expand`].

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use super::ReadError;

/// Which SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One file.
    Sqlite,
    /// Schemas `memori` and `memori_control`.
    Postgres,
}

impl Dialect {
    /// A template as this database reads it; a part's version is the parameter after the first `params`.
    #[must_use]
    pub fn expand(self, template: &str, part: Part, params: usize) -> String {
        let (view, control, epoch, process, bytewise, strpos) = match self {
            Self::Sqlite => ("", "", "0", "json_extract(m.surface, '$.process_id')", "", "instr"),
            Self::Postgres => (
                "memori.",
                "memori_control.",
                "coalesce(pg_relation_filenode('memori.entities'), 0)::bigint",
                "(m.surface::jsonb)->>'process_id'",
                " COLLATE \"C\"",
                "strpos",
            ),
        };
        let mut sql = template
            .replace("{epoch}", epoch)
            .replace("{process of m}", process)
            .replace(" {bytewise}", bytewise)
            .replace("{strpos}", strpos)
            .replace(" {for update}", if self == Self::Postgres { " FOR UPDATE" } else { "" })
            .replace("{alone among flushes}", if self == Self::Postgres { FLUSHES_END } else { "SELECT 1" });
        while let Some((start, end, entity_key)) = named(&sql, "{generation of ") {
            sql.replace_range(start..end, &generation_of(&entity_key));
        }
        let mut sql = sql.replace("@@", control).replace('@', view);
        while let Some((start, end, column)) = named(&sql, "{part of ") {
            sql.replace_range(start..end, &self.changed(part, &column, params).replace('@', view));
        }
        while let Some((start, end, parameter)) = named(&sql, "{any ") {
            let membership = match self {
                Self::Sqlite => format!("IN (SELECT value FROM json_each({parameter}))"),
                Self::Postgres => format!("= ANY({parameter})"),
            };
            sql.replace_range(start..end, &membership);
        }
        sql
    }

    /// The condition that keeps rows whose `column`, a fact's id, is one of those in a parameter, one behind the other.
    fn named(self, column: &str, parameter: usize) -> String {
        match self {
            Self::Sqlite => format!(
                " AND {column} IN (WITH RECURSIVE places(place) AS (SELECT 1 UNION ALL SELECT place + 16 FROM places \
                 WHERE place + 16 <= length(${parameter})) SELECT substr(${parameter}, place, 16) FROM places)"
            ),
            Self::Postgres => format!(
                " AND {column} = ANY(ARRAY(SELECT encode(substr(${parameter}::bytea, place, 16), 'hex')::uuid \
                 FROM generate_series(1, octet_length(${parameter}::bytea), 16) place))"
            ),
        }
    }

    /// The condition that keeps rows whose `column`, a fact's id or a message's key, was named by a later flush; a name is 16 bytes.
    fn changed(self, part: Part, column: &str, params: usize) -> String {
        let names = if column.ends_with("fact_id") { "facts" } else { "messages" };
        let later = match part {
            Part::Whole => return String::new(),
            Part::Named => return self.named(column, params + 1),
            Part::Since(_) => format!("c.version > ${}", params + 1),
            Part::SincePack => {
                "c.version > (SELECT packed_version FROM @entities WHERE tenant = $1 AND entity_key = $2)".to_owned()
            }
        };
        let of_entity = format!("FROM @entity_changes c WHERE c.tenant = $1 AND c.entity_key = $2 AND {later}");
        match self {
            Self::Sqlite => format!(
                " AND {column} IN (WITH RECURSIVE changes(all_of) AS (SELECT c.{names} {of_entity}), \
                 places(place) AS (SELECT 1 UNION ALL SELECT place + 16 FROM places \
                 WHERE place + 16 <= (SELECT max(length(all_of)) FROM changes)) \
                 SELECT substr(all_of, place, 16) FROM changes JOIN places ON place <= length(all_of))"
            ),
            Self::Postgres => {
                let name = "substr(p.all_of, place, 16)";
                let name = if names == "facts" { format!("encode({name}, 'hex')::uuid") } else { name.to_owned() };
                // Joined to nothing so that a long value is fetched once, and apart so that this is not undone.
                format!(
                    " AND {column} = ANY(ARRAY(SELECT DISTINCT {name} FROM \
                     (SELECT c.{names} || ''::bytea AS all_of {of_entity} OFFSET 0) p, \
                     generate_series(1, octet_length(p.all_of), 16) place))"
                )
            }
        }
    }
}

/// Waits until no flush runs, and holds up those that begin, until the transaction ends. In SQLite whoever writes is alone.
const FLUSHES_END: &str = concat!("SELECT CAST(pg_advisory_xact_lock(", crate::store::flushes_lock!(), ") AS text)");

/// Where the first place that begins so is in a statement, and what it names.
fn named(sql: &str, opening: &str) -> Option<(usize, usize, String)> {
    let start = sql.find(opening)?;
    let length = sql[start..].find('}')?;
    Some((start, start + length + 1, sql[start + opening.len()..start + length].to_owned()))
}

/// What an entity of the tenant `$1` reads: what its tenant does, but for moments after a switch. Who has no row reads the first.
fn generation_of(entity_key: &str) -> String {
    format!(
        "coalesce((SELECT t.generation FROM @@trailing_entities t WHERE t.tenant = $1 AND t.entity_key = {entity_key}), \
         (SELECT t.generation FROM @@active_generations t WHERE t.tenant = $1), 1)"
    )
}

/// Which of the rows that a template is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// What a flush after this version names.
    Since(i64),
    /// What a flush after the packs' version names; nothing where there are no packs.
    SincePack,
    /// What the last parameter names.
    Named,
}

impl Part {
    /// Parts of one number have one statement.
    fn number(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Since(_) => 1,
            Self::SincePack => 2,
            Self::Named => 3,
        }
    }
}

/// Expanded statements, each made once.
#[derive(Debug)]
pub struct Statements {
    dialect: Dialect,
    expanded: RwLock<HashMap<(&'static str, u8), Arc<str>>>,
}

impl Statements {
    /// None yet.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, expanded: RwLock::default() }
    }

    /// The SQL of a statement; one template always has as many parameters.
    #[must_use]
    pub fn of(&self, statement: &Statement) -> Arc<str> {
        let key = (statement.template, statement.part.number());
        if let Some(known) = self.expanded.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let own = statement.params.len() - usize::from(matches!(statement.part, Part::Since(_) | Part::Named));
        let expanded: Arc<str> = self.dialect.expand(statement.template, statement.part, own).into();
        self.expanded.write().unwrap_or_else(PoisonError::into_inner).insert(key, expanded.clone());
        expanded
    }
}

/// A parameter.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Param {
    Text(String),
    Int(i64),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
    OptText(Option<String>),
    OptInt(Option<i64>),
}

/// A statement with its parameters, `$1` first.
#[derive(Clone, Debug)]
pub struct Statement {
    /// See the module.
    pub template: &'static str,
    /// In order; the last is the version of [`Part::Since`], or the names of [`Part::Named`].
    pub params: Vec<Param>,
    /// Which rows.
    pub part: Part,
    /// It is about rows of whatever tenant; else its first parameter names the tenant.
    pub across_tenants: bool,
}

impl Statement {
    /// Of all rows.
    #[must_use]
    pub fn whole(template: &'static str, params: Vec<Param>) -> Self {
        Self { template, params, part: Part::Whole, across_tenants: false }
    }

    /// Of whatever tenant, as operators ask.
    #[must_use]
    pub fn across_tenants(template: &'static str, params: Vec<Param>) -> Self {
        Self { across_tenants: true, ..Self::whole(template, params) }
    }

    /// Whose rows it is about; `None`: of whatever tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        match self.params.first() {
            Some(Param::Text(tenant)) if !self.across_tenants => Some(tenant),
            _ => None,
        }
    }

    /// Of the rows that these ids name, of 16 bytes each.
    #[must_use]
    pub fn named(template: &'static str, mut params: Vec<Param>, ids: Vec<u8>) -> Self {
        params.push(Param::Bytes(ids));
        Self { template, params, part: Part::Named, across_tenants: false }
    }

    /// Of a part of the rows.
    #[must_use]
    pub fn part(template: &'static str, mut params: Vec<Param>, part: Part) -> Self {
        if let Part::Since(version) = part {
            params.push(Param::Int(version));
        }
        Self { template, params, part, across_tenants: false }
    }
}

/// A value of a row. Booleans are integers, UUIDs their 16 bytes.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Bytes that stay where they were received.
    Chunk(Bytes),
}

/// A row, taken column by column.
#[derive(Debug)]
pub struct Row(std::vec::IntoIter<Value>);

impl Row {
    /// Of these values.
    #[must_use]
    pub fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    fn next(&mut self) -> Result<Value, ReadError> {
        self.0.next().ok_or(ReadError::Corrupt("a column is missing"))
    }

    /// A text or null.
    ///
    /// # Errors
    /// It is something else.
    pub fn opt_text(&mut self) -> Result<Option<String>, ReadError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(ReadError::Corrupt("a column is not a text")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&mut self) -> Result<String, ReadError> {
        self.opt_text()?.ok_or(ReadError::Corrupt("a text is null"))
    }

    /// A whole number or null.
    ///
    /// # Errors
    /// It is something else.
    pub fn opt_int(&mut self) -> Result<Option<i64>, ReadError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Int(n) => Ok(Some(n)),
            _ => Err(ReadError::Corrupt("a column is not a whole number")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is something else.
    pub fn int(&mut self) -> Result<i64, ReadError> {
        self.opt_int()?.ok_or(ReadError::Corrupt("a number is null"))
    }

    /// A number.
    ///
    /// # Errors
    /// It is something else.
    pub fn real(&mut self) -> Result<f64, ReadError> {
        self.opt_real()?.ok_or(ReadError::Corrupt("a number is null"))
    }

    /// A number or null.
    ///
    /// # Errors
    /// It is something else.
    #[allow(clippy::cast_precision_loss)] // whole numbers here are small
    pub fn opt_real(&mut self) -> Result<Option<f64>, ReadError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Int(n) => Ok(Some(n as f64)),
            Value::Real(n) => Ok(Some(n)),
            _ => Err(ReadError::Corrupt("a column is not a number")),
        }
    }

    /// Bytes or null.
    ///
    /// # Errors
    /// It is something else.
    pub fn opt_bytes(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        match self.next()? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::Chunk(bytes) => Ok(Some(bytes.into())),
            _ => Err(ReadError::Corrupt("a column is not bytes")),
        }
    }

    /// Bytes, not copied where they are many.
    ///
    /// # Errors
    /// It is something else, or null.
    pub fn bytes(&mut self) -> Result<Bytes, ReadError> {
        match self.next()? {
            Value::Chunk(bytes) => Ok(bytes),
            Value::Bytes(bytes) => Ok(bytes.into()),
            _ => Err(ReadError::Corrupt("a column is not bytes")),
        }
    }

    /// Bytes that make a `T`, such as a hash.
    ///
    /// # Errors
    /// They do not, or are null.
    pub fn hash<T>(&mut self, make: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, ReadError> {
        self.opt_bytes()?.and_then(|bytes| make(&bytes)).ok_or(ReadError::Corrupt("a hash has another length"))
    }

    /// One of the values of an enum, by its place in their list.
    ///
    /// # Errors
    /// There is no such place.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> Result<T, ReadError> {
        let place = usize::try_from(self.int()?).ok();
        place.and_then(|place| all.get(place)).copied().ok_or(ReadError::Corrupt("an unknown kind"))
    }
}

/// A database that can be read.
#[async_trait]
pub trait Database: Send + Sync {
    /// Runs one statement.
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, ReadError>;

    /// Runs one statement and hands on each row as it comes, so that what is done with it and what is still under way overlap.
    /// After an error no more rows are handed on.
    async fn each(
        &self,
        statement: Statement,
        take: &mut (dyn FnMut(Row) -> Result<(), ReadError> + Send),
    ) -> Result<(), ReadError> {
        self.query(statement).await?.into_iter().try_for_each(take)
    }

    /// Runs statements that see one instant. Runs to its end even where the caller goes away.
    async fn snapshot(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_become_either_dialect() {
        let template = "SELECT {epoch} FROM @facts f JOIN @@active_generations g WHERE event_id {any $2} AND x = $3";
        assert_eq!(
            Dialect::Sqlite.expand(template, Part::Whole, 3),
            "SELECT 0 FROM facts f JOIN active_generations g WHERE event_id IN (SELECT value FROM json_each($2)) AND x = $3"
        );
        assert_eq!(
            Dialect::Postgres.expand(template, Part::Whole, 3),
            "SELECT coalesce(pg_relation_filenode('memori.entities'), 0)::bigint FROM memori.facts f \
             JOIN memori_control.active_generations g WHERE event_id = ANY($2) AND x = $3"
        );
    }

    #[test]
    fn what_an_entity_reads_is_its_own_before_its_tenants() {
        let template = "SELECT {generation of e.entity_key} FROM @entities e WHERE e.tenant = $1";
        assert_eq!(
            Dialect::Sqlite.expand(template, Part::Whole, 1),
            "SELECT coalesce((SELECT t.generation FROM trailing_entities t WHERE t.tenant = $1 AND t.entity_key = e.entity_key), \
             (SELECT t.generation FROM active_generations t WHERE t.tenant = $1), 1) FROM entities e WHERE e.tenant = $1"
        );
    }

    #[test]
    fn a_row_of_other_types_is_an_error_and_not_a_panic() {
        let mut row = Row::new(vec![Value::Int(1), Value::Null, Value::Bytes(vec![1, 2])]);
        assert!(row.text().is_err());
        assert_eq!(row.opt_text().unwrap(), None);
        assert!(row.hash(memori_schemas::MessageKey::from_slice).is_err());
        assert!(row.int().is_err());
    }
}
