//! Packs on Postgres. What takes long, writing the new bytes and removing the old, happens while no flush waits for it.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Client;

use super::{PostgresStore, PostgresTransaction, failed};
use crate::plan::EntityRef;
use crate::store::packs::{self, NewPacks, PackState, PackStore, Packing};
use crate::store::{InsertMode, StoreError, StoreTransaction as _};

/// Whoever packs gives up rather than wait long for a lock.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '5s'; \
    SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL jit = off";

const STATE: &str = "SELECT g.generation, \
    (SELECT count(*) FROM memori.facts f WHERE f.tenant = e.tenant AND f.entity_key = e.entity_key \
    AND f.generation = g.generation) \
    + (SELECT count(*) FROM memori.messages m WHERE m.tenant = e.tenant AND m.entity_key = e.entity_key), \
    coalesce((SELECT sum(octet_length(c.facts) + octet_length(c.messages)) / 16 FROM memori.entity_changes c \
    WHERE c.tenant = e.tenant AND c.entity_key = e.entity_key AND c.version > coalesce(e.packed_version, -1)), 0)::int8, \
    p.generation, p.model FROM memori.entities e CROSS JOIN \
    (SELECT coalesce((SELECT generation FROM memori_control.active_generations WHERE tenant = $1), 1) AS generation) g \
    LEFT JOIN memori.packs p ON p.tenant = e.tenant AND p.entity_key = e.entity_key AND p.version = e.packed_version \
    WHERE e.tenant = $1 AND e.entity_key = $2 LIMIT 1";

const INSERT: &str = "INSERT INTO memori.packs (tenant, entity_key, version, generation, kind, chunk, model, bytes) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const LOCK: &str = "SELECT rebased_version, packed_version FROM memori.entities WHERE tenant = $1 AND entity_key = $2 FOR UPDATE";
const MARK: &str = "UPDATE memori.entities SET packed_version = $3, rebased_version = $4 WHERE tenant = $1 AND entity_key = $2";
const FORGET: &str = "DELETE FROM memori.entity_changes WHERE tenant = $1 AND entity_key = $2 AND version <= $3";
const SWEEP: &str = "DELETE FROM memori.packs p USING memori.entities e WHERE e.tenant = $1 AND e.entity_key = $2 \
    AND p.tenant = e.tenant AND p.entity_key = e.entity_key AND p.version < e.packed_version";

async fn put(client: &Client, packs: &NewPacks) -> Result<Packing, StoreError> {
    let (tenant, key) = (&packs.entity.tenant, &packs.entity.key.0[..]);
    let insert = client.prepare_cached(INSERT).await.map_err(failed)?;
    for (kind, chunk, bytes) in packs.numbered() {
        client
            .execute(&insert, &[tenant, &key, &packs.version, &packs.generation, &kind, &chunk, &packs.made_by, &bytes])
            .await
            .map_err(failed)?;
    }
    let lock = client.prepare_cached(LOCK).await.map_err(failed)?;
    let mark = client.prepare_cached(MARK).await.map_err(failed)?;
    let forget = client.prepare_cached(FORGET).await.map_err(failed)?;
    let Some(row) = client.query_opt(&lock, &[tenant, &key]).await.map_err(failed)? else { return Ok(Packing::Outrun) };
    let (rebased, packed): (i64, Option<i64>) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if !packs::may_follow(packs.version, rebased, packed) {
        return Ok(Packing::Outrun);
    }
    // Images older than the packs before these are read whole.
    let forgotten = packed.unwrap_or(rebased).max(rebased);
    client.execute(&mark, &[tenant, &key, &packs.version, &forgotten]).await.map_err(failed)?;
    client.execute(&forget, &[tenant, &key, &forgotten]).await.map_err(failed)?;
    Ok(Packing::Packed)
}

#[async_trait]
impl PackStore for PostgresStore {
    async fn pack_state(&self, entity: &EntityRef) -> Result<Option<PackState>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(STATE).await.map_err(failed)?;
        let key = &entity.key.0[..];
        let Some(row) = client.query_opt(&statement, &[&entity.tenant, &key]).await.map_err(failed)? else { return Ok(None) };
        let column = |error| failed(error);
        Ok(Some(packs::state_of((
            row.try_get(0).map_err(column)?,
            row.try_get(1).map_err(column)?,
            row.try_get(2).map_err(column)?,
            row.try_get(3).map_err(column)?,
            row.try_get(4).map_err(column)?,
        ))))
    }

    async fn put_packs(&self, packs: &NewPacks) -> Result<Packing, StoreError> {
        let transaction = PostgresTransaction::new(self.client().await?, InsertMode::Fast, Arc::default());
        transaction.client().batch_execute(BEGIN).await.map_err(failed)?;
        let ended = put(transaction.client(), packs).await;
        let transaction = Box::new(transaction);
        match ended {
            Ok(Packing::Packed) => transaction.commit().await?,
            Ok(Packing::Outrun) => transaction.rollback().await,
            // Another packer was at the same version.
            Err(StoreError::Conflict(_)) => {
                transaction.rollback().await;
                return Ok(Packing::Outrun);
            }
            Err(error) => {
                transaction.rollback().await;
                return Err(error);
            }
        }
        self.sweep(&packs.entity).await?;
        ended
    }
}

impl PostgresStore {
    /// Removes packs that newer ones have replaced.
    async fn sweep(&self, entity: &EntityRef) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(SWEEP).await.map_err(failed)?;
        let key = &entity.key.0[..];
        client.execute(&statement, &[&entity.tenant, &key]).await.map(drop).map_err(failed)
    }
}
