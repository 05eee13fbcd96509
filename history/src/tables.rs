//! Rows of tables that are no text: Parquet files, SQLite files, Postgres.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ColumnIndex, ConnectOptions as _, Connection as _, Database, Decode, Type};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cut::Cut;
use crate::input::{Input, InputPlace, spooled};
use crate::options::Options;
use crate::record::{Body, Raw, Row};
use crate::source::{self, FACTS_SQL, Format, MESSAGES_SQL, Shape};

/// Rows that are read ahead.
const ROWS_AHEAD: usize = 1_000;

/// The columns of a row of the library Memori.
const COLUMNS: [&str; 9] = ["kind", "conversation", "session", "entity", "process", "id", "role", "content", "at"];

type Rows = Sender<io::Result<Row>>;

/// Rows as a task reads them from a database.
struct Queried {
    rows: Receiver<io::Result<Row>>,
    number: u64,
}

impl Cut for Queried {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        let Some(row) = self.rows.blocking_recv().transpose()? else { return Ok(None) };
        self.number += 1;
        Ok(Some(Raw::at(self.number, Body::Rows(vec![row]))))
    }
}

fn row<R>(read: &R) -> io::Result<Row>
where
    R: sqlx::Row,
    for<'n> &'n str: ColumnIndex<R>,
    for<'d> Option<String>: Decode<'d, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    let mut row = Row::new();
    for name in COLUMNS {
        let cell: Option<String> = read.try_get(name).map_err(io::Error::other)?;
        row.insert(name.to_owned(), cell.map_or(Value::Null, Value::from));
    }
    Ok(row)
}

fn statements(options: &Options) -> Vec<&'static str> {
    if options.facts { vec![MESSAGES_SQL, FACTS_SQL] } else { vec![MESSAGES_SQL] }
}

/// Runs `reading` on the runtime of this thread, and `work` over the rows that it sends.
fn queried<T, F>(options: &Options, skip: u64, reading: impl FnOnce(Rows) -> F, work: impl FnOnce(&mut dyn Cut) -> T) -> T
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (sender, rows) = channel(ROWS_AHEAD);
    let reading = reading(sender.clone());
    tokio::runtime::Handle::current().spawn(async move {
        if let Err(error) = reading.await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let mut cut = source::grouped(Box::new(Queried { rows, number: 0 }), Format::Memori, options, skip);
    work(&mut *cut)
}

/// The conversations of a database of the library Memori on Postgres.
///
/// # Errors
/// The URL cannot be used.
pub(crate) fn postgres<T>(url: &str, options: &Options, skip: u64, work: impl FnOnce(&mut dyn Cut) -> T) -> io::Result<T> {
    let target: PgConnectOptions = url.parse().map_err(|error| io::Error::other(format!("the URL cannot be used: {error}")))?;
    let statements = statements(options);
    let reading = |out: Rows| async move {
        let mut connection = target.connect().await.map_err(io::Error::other)?;
        // One instant of all tables.
        let mut snapshot = connection.begin().await.map_err(io::Error::other)?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *snapshot)
            .await
            .map_err(io::Error::other)?;
        for statement in statements {
            let mut found = sqlx::query(statement).fetch(&mut *snapshot);
            while let Some(read) = found.next().await {
                let read: PgRow = read.map_err(io::Error::other)?;
                if out.send(row(&read)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    Ok(queried(options, skip, reading, work))
}

/// Records of an input that is no text. One that lies in a file as it is is read there, another from a copy.
///
/// # Errors
/// It cannot be read.
pub(crate) fn binary<T>(
    input: &Input,
    reader: impl Read,
    shape: Shape,
    options: &Options,
    skip: u64,
    work: impl FnOnce(&mut dyn Cut) -> T,
) -> io::Result<T> {
    let (path, _copy): (PathBuf, _) = match &input.place {
        InputPlace::File(path) if is_plain(path)? => (path.clone(), None),
        _ => {
            let copy = spooled(reader)?;
            (copy.path().to_owned(), Some(copy))
        }
    };
    match shape.layout {
        source::Layout::Sqlite => sqlite(&path, options, skip, work),
        _ => {
            let rows = ParquetRows::open(&path)?;
            Ok(work(&mut *source::grouped(Box::new(rows), shape.format, options, skip)))
        }
    }
}

/// The rows of a Parquet file, column by column within a group of rows.
struct ParquetRows {
    rows: RowIter<'static>,
    number: u64,
}

impl ParquetRows {
    fn open(path: &Path) -> io::Result<Self> {
        let reader = SerializedFileReader::new(std::fs::File::open(path)?).map_err(broken)?;
        Ok(Self { rows: reader.into_iter(), number: 0 })
    }
}

fn broken(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => io::Error::other(error),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl Cut for ParquetRows {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        let Some(row) = self.rows.next().transpose().map_err(broken)? else { return Ok(None) };
        self.number += 1;
        let row: Row = row.get_column_iter().map(|(name, field)| (name.clone(), cell(field))).collect();
        Ok(Some(Raw::at(self.number, Body::Rows(vec![row]))))
    }
}

/// A cell as JSON; times and dates as numbers since 1970.
fn cell(field: &Field) -> Value {
    match field {
        Field::TimestampMillis(at) | Field::TimestampMicros(at) => Value::from(*at),
        Field::Date(days) => Value::from(i64::from(*days) * 86_400),
        other => other.to_json_value(),
    }
}

/// Whether a file is what it holds, and not compressed.
fn is_plain(path: &Path) -> io::Result<bool> {
    let mut magic = [0_u8; 4];
    let mut file = std::fs::File::open(path)?;
    Ok(file.read_exact(&mut magic).is_ok() && (magic == *b"SQLi" || magic == *b"PAR1"))
}

fn sqlite<T>(path: &Path, options: &Options, skip: u64, work: impl FnOnce(&mut dyn Cut) -> T) -> io::Result<T> {
    let statements = statements(options);
    let target = SqliteConnectOptions::new().filename(path).read_only(true);
    let reading = |out: Rows| async move {
        let mut connection = target.connect().await.map_err(io::Error::other)?;
        let mut snapshot = connection.begin().await.map_err(io::Error::other)?;
        for statement in statements {
            let mut found = sqlx::query(statement).fetch(&mut *snapshot);
            while let Some(read) = found.next().await {
                let read: SqliteRow = read.map_err(io::Error::other)?;
                if out.send(row(&read)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    Ok(queried(options, skip, reading, work))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use sqlx::Executor as _;

    use super::*;
    use crate::feed::feed;
    use crate::frontier::Place;
    use crate::input::expand;
    use crate::source::convert;

    /// Every event of a file: what was said, by whom, to whom, when.
    async fn read(path: &Path, options: Options) -> Vec<Value> {
        let source = path.display().to_string();
        let (sender, mut chunks) = channel(4);
        let reading = tokio::task::spawn_blocking(move || {
            let inputs = expand(&[source]).unwrap();
            feed(&inputs, &options, Place::default(), &sender);
            options
        });
        let mut raws = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.unwrap();
            raws.extend(chunk.raws.into_iter().map(|raw| (chunk.format, raw)));
        }
        let options = reading.await.unwrap();
        let converted = raws.into_iter().map(|(format, raw)| convert(format, raw.body, &options));
        converted
            .flat_map(|converted| {
                assert_eq!(converted.bad, []);
                converted.events
            })
            .collect()
    }

    fn told(events: &[Value]) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let of = |event: &Value| {
            let messages = event["messages"].as_array().unwrap();
            let said: Vec<String> = messages.iter().map(|m| format!("{}: {}", text(&m["role"]), text(&m["content"]))).collect();
            let [entity, session, at] = ["entity_id", "session_id", "occurred_at"].map(|name| text(&event[name]));
            format!("{entity}/{session}/{at}/{}", said.join(" | "))
        };
        events.iter().map(of).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_of_parquet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chats.parquet");
        let schema = "message chats { required binary who (UTF8); required binary said (UTF8); required binary person (UTF8); \
                      required int64 at (TIMESTAMP(MILLIS, true)); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let text = |cells: [&str; 3]| cells.map(ByteArray::from).to_vec();
        for cells in [["user", "assistant", "user"], ["I sail.", "Where?", "At sea."], ["ivy", "ivy", "jon"]] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&text(cells), None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[1_714_979_289_000, 1_714_979_290_000, 1_714_979_291_000], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();

        let options = Options { map: "entity=person,role=who,content=said,time=at".parse().unwrap(), ..Options::default() };
        let expected =
            ["ivy/-/2024-05-06T07:08:09Z/user: I sail. | assistant: Where?", "jon/-/2024-05-06T07:08:11Z/user: At sea."];
        assert_eq!(told(&read(&path, options.clone()).await), expected);
        // Compressed, it is read from a copy.
        let packed = dir.path().join("chats.parquet.zst");
        std::fs::write(&packed, zstd::encode_all(std::fs::File::open(&path).unwrap(), 0).unwrap()).unwrap();
        assert_eq!(told(&read(&packed, options).await), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_database_of_the_library_memori() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memori.db");
        let mut database = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
        database.execute(include_str!("../../tests/backfill/memori.sql")).await.unwrap();
        database.close().await.unwrap();
        let conversations = [
            "customer-7/s-uuid/2025-03-01T09:00:00Z/user: I keep bees. | assistant: How many hives?",
            "customer-7/s-uuid/2025-03-01T09:01:00Z/user: I own three hives.",
        ];
        let events = read(&path, Options::default()).await;
        assert_eq!(told(&events), conversations);
        assert_eq!((&events[0]["process_id"], &events[0]["messages"][0]["message_id"]), (&"beekeeper".into(), &"m-1".into()));
        let with_facts = read(&path, Options { facts: true, ..Options::default() }).await;
        assert_eq!(told(&with_facts[2..]), ["customer-7/memori-facts/2025-03-01T09:02:00Z/user: The user keeps bees"]);
    }
}
