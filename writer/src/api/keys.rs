//! Keys of tenants, for operators; and what keys may do, for front doors.
//!
//! Promises: a secret is in one answer, that to its making; nobody makes a key that may do more than whoever administers its tenant.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use memori_schemas::Micros;
use memori_service::auth::{EVERY_TENANT, KeyId, NewKey, Right};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use rand::Rng as _;
use serde_json::{Value, json};

use super::request::{MAX_ENTITY_ID_BYTES, QueryParameters, json_body};
use super::tenants::{Administrator, MAX_BODY_BYTES, MAX_DISPLAY_NAME_BYTES, TenantPath, no_such_tenant, time};
use super::{ApiState, unreadable};
use crate::control::{KeyRow, MAX_KEYS_OF_TENANT, Made};

/// Keys of one question of a front door.
const MAX_GRANTS: usize = 100;
/// Uses of one message of a front door.
const MAX_USES: usize = 1_000;
/// How long both keys work after a rotation, in seconds, and at most.
const OVERLAP_SECONDS: i64 = 86_400;
const MAX_OVERLAP_SECONDS: i64 = 90 * 86_400;
const RIGHTS: &str = "one of events, recall, erase, gateway, admin";

fn no_such_key() -> Problem {
    Problem::not_found("the tenant has no such key")
}

/// A path that names a key. What cannot be a key's id names none.
pub(super) struct KeyPath(KeyId);

impl<S: Send + Sync> FromRequestParts<S> for KeyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<Vec<(String, String)>>, PathRejection> = Path::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(named)| named.into_iter().find(|(name, _)| name == "key_id"));
        id.and_then(|(_, id)| id.parse().ok()).map(Self).ok_or_else(no_such_key)
    }
}

fn shown(row: &KeyRow, now_us: i64) -> Value {
    let over = |at: Option<i64>| at.is_some_and(|at| at <= now_us);
    let state = match (over(row.revoked_at_us), over(row.expires_at_us)) {
        (true, _) => "revoked",
        (false, true) => "expired",
        (false, false) => "active",
    };
    json!({
        "key_id": row.key_id,
        "tenant": row.tenant,
        "name": row.display_name,
        "state": state,
        "rights": row.rights,
        "entity_id": row.entity_id,
        "entity_prefix": row.entity_prefix,
        "created_at": time(row.created_at_us),
        "expires_at": row.expires_at_us.map(time),
        "revoked_at": row.revoked_at_us.map(time),
        "replaced_by": row.replaced_by,
        "last_used_at": row.last_used_at_us.map(time),
    })
}

fn new_key() -> NewKey {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    let mut random = rand::rng();
    random.fill_bytes(&mut id);
    random.fill_bytes(&mut secret);
    NewKey::of_random(id, secret)
}

/// The only answer that holds the key itself.
fn with_secret(row: &KeyRow, key: &NewKey, now_us: i64) -> Response {
    let mut shown = shown(row, now_us);
    shown["key"] = key.key.expose().into();
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

pub(super) async fn list(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let after = parameters.take("cursor", "a cursor of this listing", |text| text.parse::<KeyId>().ok());
    parameters.finish()?;
    administrator.reach(&tenant)?;
    let control = state.control()?;
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let mut rows = control.keys(&tenant, &after, limit + 1).await.map_err(unreadable)?;
    if rows.is_empty() && tenant != EVERY_TENANT && control.tenant(&tenant).await.map_err(unreadable)?.is_none() {
        return Err(no_such_tenant());
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.key_id);
    let now_us = Micros::now().0;
    let keys: Vec<Value> = rows.iter().map(|row| shown(row, now_us)).collect();
    Ok(Json(json!({"keys": keys, "next_cursor": next_cursor})))
}

/// What a request says of a new key.
struct Wanted {
    name: Option<String>,
    rights: Vec<Right>,
    entity_id: Option<String>,
    entity_prefix: Option<String>,
    expires_at_us: Option<i64>,
}

fn expiry(fields: &mut Fields<'_>, now_us: i64) -> Option<i64> {
    fields.parsed("expires_at", "an RFC 3339 time to come", |text| {
        Micros::parse_rfc3339(text).map(|at| at.0).filter(|at| *at > now_us)
    })
}

impl Wanted {
    fn read(value: Value, tenant: &str, now_us: i64) -> Answer<Self> {
        let mut errors = FieldErrors::default();
        let wanted = Fields::of(value, "", &mut errors).map(|mut fields| {
            let name = fields.text("name", 0..=MAX_DISPLAY_NAME_BYTES);
            let entity_id = fields.text("entity_id", 1..=MAX_ENTITY_ID_BYTES);
            let entity_prefix = fields.text("entity_prefix", 1..=MAX_ENTITY_ID_BYTES);
            let expires_at_us = expiry(&mut fields, now_us);
            let mut rights: Vec<Right> = Vec::new();
            for (place, right) in fields.required_list("rights", 1..=Right::ALL.len()).unwrap_or_default().iter().enumerate() {
                match right.as_str().and_then(Right::parse) {
                    Some(right) if !rights.contains(&right) => rights.push(right),
                    Some(_) => fields.broken(&format!("rights[{place}]"), "is there twice"),
                    None => fields.broken(&format!("rights[{place}]"), format!("must be {RIGHTS}")),
                }
            }
            if entity_id.is_some() && entity_prefix.is_some() {
                fields.broken("entity_prefix", "does not go with `entity_id`");
            }
            let bound = entity_id.is_some() || entity_prefix.is_some();
            if bound && rights.contains(&Right::Admin) {
                fields.broken("rights", "a key that is bound to entities cannot administer");
            }
            if tenant == EVERY_TENANT && rights.iter().any(|right| *right != Right::Admin) {
                fields.broken("rights", "only admin can be bound to every tenant");
            }
            fields.finish();
            Self { name, rights, entity_id, entity_prefix, expires_at_us }
        });
        errors.into_result(wanted)?.ok_or_else(Problem::internal)
    }
}

pub(super) async fn create(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    administrator.reach(&tenant)?;
    let act = administrator.act();
    let wanted = Wanted::read(json_body(&headers, body, MAX_BODY_BYTES).await?, &tenant, act.at_us)?;
    let key = new_key();
    let row = KeyRow {
        key_id: key.id,
        tenant,
        display_name: wanted.name,
        sha256: hex::encode(key.sha256),
        rights: wanted.rights,
        entity_id: wanted.entity_id,
        entity_prefix: wanted.entity_prefix,
        created_at_us: act.at_us,
        expires_at_us: wanted.expires_at_us,
        revoked_at_us: None,
        replaced_by: None,
        last_used_at_us: None,
    };
    match state.control()?.create_key(&row, &act).await.map_err(unreadable)? {
        Made::Yes => Ok(with_secret(&row, &key, act.at_us)),
        Made::NoTenant => Err(no_such_tenant()),
        Made::TooMany => Err(Problem::conflict(format!("the tenant has {MAX_KEYS_OF_TENANT} keys, the most that there may be"))),
        Made::Exists => Err(Problem::unavailable("the key's id is taken; ask again", 1)),
    }
}

pub(super) async fn show(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    KeyPath(key_id): KeyPath,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    administrator.reach(&tenant)?;
    let row = state.control()?.key(&tenant, key_id).await.map_err(unreadable)?.ok_or_else(no_such_key)?;
    Ok(Json(shown(&row, Micros::now().0)))
}

pub(super) async fn revoke(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    KeyPath(key_id): KeyPath,
) -> Answer<StatusCode> {
    administrator.reach(&tenant)?;
    let revoked = state.control()?.revoke_key(&tenant, key_id, &administrator.act()).await.map_err(unreadable)?;
    if revoked { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_key()) }
}

pub(super) async fn rotate(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    KeyPath(key_id): KeyPath,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    administrator.reach(&tenant)?;
    let act = administrator.act();
    let mut errors = FieldErrors::default();
    let asked = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let overlap = fields.integer("overlap_seconds", 0..=MAX_OVERLAP_SECONDS).unwrap_or(OVERLAP_SECONDS);
        let expires_at_us = expiry(&mut fields, act.at_us);
        fields.finish();
        (overlap, expires_at_us)
    });
    let (overlap_seconds, expires_at_us) = errors.into_result(asked)?.ok_or_else(Problem::internal)?;
    let control = state.control()?;
    let old = control.key(&tenant, key_id).await.map_err(unreadable)?.ok_or_else(no_such_key)?;
    let key = new_key();
    // A key that was made for a time is followed by one for as long a time.
    let lifetime_us = old.expires_at_us.map(|at| at - old.created_at_us);
    let row = KeyRow {
        key_id: key.id,
        sha256: hex::encode(key.sha256),
        created_at_us: act.at_us,
        expires_at_us: expires_at_us.or(lifetime_us.map(|us| act.at_us + us)),
        revoked_at_us: None,
        replaced_by: None,
        last_used_at_us: None,
        ..old
    };
    let old_ends_at_us = act.at_us + overlap_seconds * 1_000_000;
    if !control.rotate_key(key_id, &row, old_ends_at_us, &act).await.map_err(unreadable)? {
        return Err(Problem::conflict("the key is over, or was rotated before: `replaced_by` names its successor"));
    }
    Ok(with_secret(&row, &key, act.at_us))
}

/// What a front door asks about keys that it was shown.
pub(super) async fn grants(State(state): State<ApiState>, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let ids = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let ids = fields.required_list("key_ids", 1..=MAX_GRANTS);
        fields.finish();
        ids
    });
    let ids = errors.into_result(ids)?.unwrap_or_default();
    let ids: Vec<KeyId> = ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
    let grants = state.control()?.grants(&ids).await.map_err(unreadable)?;
    Ok(Json(json!({"grants": grants})))
}

/// What a front door tells of keys that were used.
pub(super) async fn used(State(state): State<ApiState>, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let uses = Fields::of(json_body(&headers, body, 1 << 20).await?, "", &mut errors).and_then(|mut fields| {
        let uses = fields.required_list("uses", 0..=MAX_USES);
        fields.finish();
        uses
    });
    let uses = errors.into_result(uses)?.unwrap_or_default();
    let uses: Vec<(KeyId, i64)> =
        uses.iter().filter_map(|used| Some((used["key_id"].as_str()?.parse().ok()?, used["at_us"].as_i64()?))).collect();
    state.control()?.note_uses(&uses).await.map_err(unreadable)?;
    Ok(Json(json!({"noted": uses.len()})))
}
