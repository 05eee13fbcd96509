//! What recall is set beside: the same question to the same facts as one SQL statement, with pgvector and full text search, in the
//! same Postgres. Exact over the entity's facts, as ours is: no index answers for the whole table.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::ensure;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use crate::input;

/// The facts of one entity as a table with a text search vector and an embedding, and the statement that ranks them.
pub(crate) struct Peer {
    client: Client,
    ranked: Statement,
}

const TABLE: &str = "
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE IF NOT EXISTS peer_facts (
        tenant text NOT NULL, entity_id text NOT NULL, fact_id bigint NOT NULL, body text NOT NULL,
        words tsvector NOT NULL, embedding vector(512) NOT NULL,
        PRIMARY KEY (tenant, entity_id, fact_id));
    ALTER TABLE peer_facts ALTER COLUMN embedding SET STORAGE PLAIN";

/// Random directions are as dear to compare as real ones.
const FILL: &str = "
    INSERT INTO peer_facts
    SELECT $1, $2, f.n, f.body, to_tsvector('english', f.body),
        (SELECT array_agg(c.x) FROM (SELECT random()::real - 0.5 AS x FROM generate_series(1, 512) AS i WHERE i + f.n > 0) AS c)::vector
    FROM unnest($3::text[]) WITH ORDINALITY AS f (body, n)";

const RANKED: &str = "
    SELECT fact_id, body, ts_rank_cd(words, q) + 0.4 * (1 - (embedding <=> $4::text::vector)) AS score
    FROM peer_facts, websearch_to_tsquery('english', $3) AS q
    WHERE tenant = $1 AND entity_id = $2 ORDER BY score DESC, fact_id LIMIT 5";

impl Peer {
    /// Its table, in a database that ours does not use.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(TABLE).await?;
        let ranked = client.prepare_typed(RANKED, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT]).await?;
        Ok(Self { client, ranked })
    }

    /// Fills in the facts that [`input::flush`] has for a tenant's one entity.
    pub(crate) async fn fill(&self, tenant: &str, entity_id: &str, events: usize, facts: usize) -> anyhow::Result<()> {
        for chunk in (0..events).collect::<Vec<_>>().chunks(2_500) {
            let texts: Vec<String> =
                chunk.iter().flat_map(|n| input::event(tenant, entity_id, *n, facts).1.facts).map(|fact| fact.text).collect();
            let from = i64::try_from(chunk[0] * facts)?;
            let fill = FILL.replace("f.n, f.body,", &format!("f.n + {from}, f.body,"));
            self.client.execute(&fill, &[&tenant, &entity_id, &texts]).await?;
        }
        self.client.batch_execute("VACUUM ANALYZE peer_facts").await?;
        Ok(())
    }

    /// Milliseconds of each of `count` questions.
    pub(crate) async fn ask(&self, tenant: &str, entity_id: &str, queries: &[&str], count: usize) -> anyhow::Result<Vec<f64>> {
        let mut question = String::from("[1");
        for n in 1..512 {
            write!(question, ",{}", f64::from(n % 13) / 13.0)?;
        }
        question.push(']');
        let mut took = Vec::with_capacity(count);
        for n in 0..count {
            let since = Instant::now();
            let rows = self.client.query(&self.ranked, &[&tenant, &entity_id, &queries[n % queries.len()], &question]).await?;
            took.push(since.elapsed().as_secs_f64() * 1e3);
            ensure!(!rows.is_empty(), "the peer recalls nothing");
        }
        Ok(took)
    }
}
