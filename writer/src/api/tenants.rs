//! Tenants and their quotas, for operators; and how tenants stand, for front doors.
//!
//! Promises: who administers one tenant reaches nothing of another, nor whether there is one; what a tenant may use is the operator's
//! to say. Every change is a line of the audit log.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use memori_schemas::Micros;
use memori_service::auth::is_tenant_name;
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::request::{QueryParameters, Tenant, json_body};
use super::{ACTOR_HEADER, ApiState, EVERY_TENANT, unreadable};
use crate::control::{Act, DAY_US, Made, Quotas, TenantChange, TenantRow};

/// Bytes of a request of these.
pub(super) const MAX_BODY_BYTES: usize = 2 << 20;
/// Bytes of a tenant's or a key's name for people.
pub(super) const MAX_DISPLAY_NAME_BYTES: usize = 256;
/// Tenants of one question of a front door.
const MAX_STANDINGS: usize = 1_000;
/// The largest quota: far above what can be reached, and exact in any JSON reader.
const MAX_QUOTA: i64 = 1 << 50;

/// Who administers.
pub(super) struct Administrator {
    tenant: String,
    actor: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Tenant(tenant) = Tenant::from_request_parts(parts, state).await?;
        let actor = parts.headers.get(ACTOR_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("unknown").to_owned();
        Ok(Self { tenant, actor })
    }
}

impl Administrator {
    /// Passes where this tenant is its own, or all are.
    pub(super) fn reach(&self, tenant: &str) -> Answer<()> {
        if self.is_operator() || self.tenant == tenant { Ok(()) } else { Err(no_such_tenant()) }
    }

    /// Passes where all tenants are its own.
    pub(super) fn operate(&self) -> Answer<()> {
        if self.is_operator() {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "the key administers one tenant; this takes a key that is bound to `*`"))
    }

    /// The tenant that it administers, or the name of all.
    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn is_operator(&self) -> bool {
        self.tenant == EVERY_TENANT
    }

    /// The one tenant that it administers; `None`: all.
    pub(super) fn own_tenant(&self) -> Option<&str> {
        (!self.is_operator()).then_some(&self.tenant)
    }

    /// What it does now.
    pub(super) fn act(&self) -> Act {
        Act {
            id: uuid::Uuid::now_v7().to_string(),
            at_us: Micros::now().0,
            actor: self.actor.clone(),
            actor_tenant: self.tenant.clone(),
        }
    }
}

pub(super) fn no_such_tenant() -> Problem {
    Problem::not_found("there is no such tenant")
}

/// A path that names a tenant. What cannot be a tenant's name names none.
pub(super) struct TenantPath(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for TenantPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<Vec<(String, String)>>, PathRejection> = Path::from_request_parts(parts, state).await;
        let tenant = path.ok().and_then(|Path(named)| named.into_iter().find(|(name, _)| name == "tenant"));
        tenant.map(|(_, tenant)| Self(tenant)).filter(|path| is_tenant_name(&path.0)).ok_or_else(no_such_tenant)
    }
}

pub(super) fn time(us: i64) -> String {
    Micros(us).to_rfc3339()
}

fn shown(row: &TenantRow) -> Value {
    json!({
        "tenant": row.tenant,
        "name": row.display_name,
        "created_at": time(row.created_at_us),
        "suspended_at": row.suspended_at_us.map(time),
    })
}

pub(super) async fn list(
    State(state): State<ApiState>,
    administrator: Administrator,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let after = parameters.take("cursor", "a cursor of this listing", |text| is_tenant_name(text).then(|| text.to_owned()));
    parameters.finish()?;
    let control = state.control()?;
    let rows = match administrator.own_tenant() {
        Some(own) => {
            let own = control.tenant(own).await.map_err(unreadable)?;
            Vec::from_iter(own.filter(|row| after.as_ref().is_none_or(|after| row.tenant > *after)))
        }
        None => control.tenants(after.as_deref().unwrap_or_default(), limit + 1).await.map_err(unreadable)?,
    };
    let more = rows.len() > limit;
    let page = &rows[..rows.len().min(limit)];
    let next_cursor = page.last().filter(|_| more).map(|row| &row.tenant);
    Ok(Json(json!({"tenants": page.iter().map(shown).collect::<Vec<_>>(), "next_cursor": next_cursor})))
}

pub(super) async fn create(
    State(state): State<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    administrator.operate()?;
    let mut errors = FieldErrors::default();
    let named = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let tenant = fields.required_text("tenant", 1..=128);
        if tenant.as_ref().is_some_and(|tenant| !is_tenant_name(tenant) || tenant == EVERY_TENANT) {
            fields.broken("tenant", "must be printable ASCII without spaces at its ends, and not `*`");
        }
        let name = fields.text("name", 0..=MAX_DISPLAY_NAME_BYTES);
        fields.finish();
        tenant.map(|tenant| (tenant, name))
    });
    let (tenant, display_name) = errors.into_result(named)?.ok_or_else(Problem::internal)?;
    let act = administrator.act();
    let row = TenantRow { tenant, display_name, created_at_us: act.at_us, suspended_at_us: None };
    match state.control()?.create_tenant(&row, &act).await.map_err(unreadable)? {
        Made::Exists => Err(Problem::conflict("there is a tenant of this name")),
        _ => Ok((StatusCode::CREATED, Json(shown(&row))).into_response()),
    }
}

pub(super) async fn show(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    administrator.reach(&tenant)?;
    let row = state.control()?.tenant(&tenant).await.map_err(unreadable)?.ok_or_else(no_such_tenant)?;
    Ok(Json(shown(&row)))
}

pub(super) async fn change(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    administrator.reach(&tenant)?;
    administrator.operate()?;
    let value = json_body(&headers, body, MAX_BODY_BYTES).await?;
    let names = value.get("name").is_some();
    let mut errors = FieldErrors::default();
    let change = Fields::of(value, "", &mut errors).map(|mut fields| {
        let name = fields.text("name", 0..=MAX_DISPLAY_NAME_BYTES);
        let suspended = fields.boolean("suspended");
        fields.finish();
        TenantChange { display_name: names.then_some(name), suspended }
    });
    let change = errors.into_result(change)?.ok_or_else(Problem::internal)?;
    let control = state.control()?;
    if !control.change_tenant(&tenant, &change, &administrator.act()).await.map_err(unreadable)? {
        return Err(no_such_tenant());
    }
    let row = control.tenant(&tenant).await.map_err(unreadable)?.ok_or_else(no_such_tenant)?;
    Ok(Json(shown(&row)))
}

/// Quotas with how the tenant stands.
async fn standing(state: &ApiState, tenant: &str) -> Answer<Json<Value>> {
    let today = Micros::now().0 / DAY_US;
    let standings = state.control()?.standings(&[tenant.to_owned()], today).await.map_err(unreadable)?;
    let standing = standings.into_iter().next().ok_or_else(no_such_tenant)?;
    Ok(Json(json!({
        "tenant": standing.tenant,
        "quotas": standing.quotas,
        "used": {"stored_facts": standing.facts, "llm_tokens_today": standing.tokens},
    })))
}

pub(super) async fn quotas(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    administrator.reach(&tenant)?;
    standing(&state, &tenant).await
}

pub(super) async fn set_quotas(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    administrator.reach(&tenant)?;
    administrator.operate()?;
    let mut errors = FieldErrors::default();
    let quotas = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let quotas = Quotas {
            events_per_second: fields.integer("events_per_second", 0..=MAX_QUOTA),
            recalls_per_second: fields.integer("recalls_per_second", 0..=MAX_QUOTA),
            stored_facts: fields.integer("stored_facts", 0..=MAX_QUOTA),
            llm_tokens_per_day: fields.integer("llm_tokens_per_day", 0..=MAX_QUOTA),
            spool_percent: fields.integer("spool_percent", 0..=100),
        };
        fields.finish();
        quotas
    });
    let quotas = errors.into_result(quotas)?.ok_or_else(Problem::internal)?;
    if !state.control()?.set_quotas(&tenant, &quotas, &administrator.act()).await.map_err(unreadable)? {
        return Err(no_such_tenant());
    }
    standing(&state, &tenant).await
}

/// What a front door asks about the tenants that it serves.
pub(super) async fn standings(State(state): State<ApiState>, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let tenants = Fields::of(json_body(&headers, body, 1 << 20).await?, "", &mut errors).and_then(|mut fields| {
        let tenants = fields.required_list("tenants", 0..=MAX_STANDINGS);
        fields.finish();
        tenants
    });
    let tenants = errors.into_result(tenants)?.unwrap_or_default();
    let tenants: Vec<String> = tenants.iter().filter_map(|tenant| tenant.as_str().map(str::to_owned)).collect();
    let today = Micros::now().0 / DAY_US;
    let standings = state.control()?.standings(&tenants, today).await.map_err(unreadable)?;
    Ok(Json(json!({"day": today, "standings": standings})))
}
