//! Packs on SQLite. The database has one writer at a time: a flush that comes meanwhile waits for the whole of it.

use async_trait::async_trait;

use super::{SqliteStore, execute, failed, owner_cells, with_owner};
use crate::plan::EntityRef;
use crate::store::cells::Cell;
use crate::store::packs::{NewPacks, PackState, PackStore, Packing};
use crate::store::{StoreError, packs};

const STATE: &str = "SELECT g.generation, \
    (SELECT count(*) FROM facts f WHERE f.tenant = e.tenant AND f.entity_key = e.entity_key AND f.generation = g.generation) \
    + (SELECT count(*) FROM messages m WHERE m.tenant = e.tenant AND m.entity_key = e.entity_key), \
    coalesce((SELECT sum(length(c.facts) + length(c.messages)) / 16 FROM entity_changes c WHERE c.tenant = e.tenant \
    AND c.entity_key = e.entity_key AND c.version > coalesce(e.packed_version, -1)), 0), p.generation, p.model \
    FROM entities e \
    JOIN (SELECT coalesce((SELECT generation FROM active_generations WHERE tenant = ?1), 1) AS generation) g \
    LEFT JOIN packs p ON p.tenant = e.tenant AND p.entity_key = e.entity_key AND p.version = e.packed_version \
    WHERE e.tenant = ?1 AND e.entity_key = ?2 LIMIT 1";

#[async_trait]
impl PackStore for SqliteStore {
    async fn pack_state(&self, entity: &EntityRef) -> Result<Option<PackState>, StoreError> {
        let query = sqlx::query_as(STATE).bind(&entity.tenant).bind(&entity.key.0[..]);
        let found: Option<packs::StateColumns> = query.fetch_optional(self.database.reads()).await.map_err(failed)?;
        Ok(found.map(packs::state_of))
    }

    async fn put_packs(&self, packs: &NewPacks) -> Result<Packing, StoreError> {
        let mut transaction = self.database.writes().begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let c = &mut *transaction;
        let ended = async {
            let sql = "SELECT rebased_version, packed_version FROM entities WHERE tenant = ? AND entity_key = ?";
            let query = sqlx::query_as(sql).bind(&packs.entity.tenant).bind(&packs.entity.key.0[..]);
            let row: Option<(i64, Option<i64>)> = query.fetch_optional(&mut *c).await.map_err(failed)?;
            let Some((rebased, packed)) = row else { return Ok(Packing::Outrun) };
            if !packs::may_follow(packs.version, rebased, packed) {
                return Ok(Packing::Outrun);
            }
            execute(&mut *c, "DELETE FROM packs WHERE tenant = ? AND entity_key = ?", owner_cells(&packs.entity)).await?;
            for (kind, chunk, bytes) in packs.numbered() {
                let values = with_owner(
                    &packs.entity,
                    [
                        Cell::I64(Some(packs.version)),
                        Cell::I32(packs.generation),
                        Cell::I16(Some(kind)),
                        Cell::I32(chunk),
                        Cell::Text(Some(&packs.made_by)),
                        Cell::Bytes(Some(bytes)),
                    ],
                );
                let sql = "INSERT INTO packs (tenant, entity_key, version, generation, kind, chunk, model, bytes) \
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
                execute(&mut *c, sql, values).await?;
            }
            let forgotten = packed.unwrap_or(rebased).max(rebased);
            let values = vec![
                Cell::I64(Some(packs.version)),
                Cell::I64(Some(forgotten)),
                Cell::Text(Some(&packs.entity.tenant)),
                Cell::Bytes(Some(packs.entity.key.as_bytes())),
            ];
            let sql = "UPDATE entities SET packed_version = ?, rebased_version = ? WHERE tenant = ? AND entity_key = ?";
            execute(&mut *c, sql, values).await?;
            let values = with_owner(&packs.entity, [Cell::I64(Some(forgotten))]);
            let sql = "DELETE FROM entity_changes WHERE tenant = ? AND entity_key = ? AND version <= ?";
            execute(&mut *c, sql, values).await?;
            Ok(Packing::Packed)
        }
        .await;
        match ended {
            Ok(Packing::Packed) => transaction.commit().await.map_err(failed)?,
            _ => transaction.rollback().await.map_err(failed)?,
        }
        ended
    }
}
