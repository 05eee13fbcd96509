//! Imports that are started over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use memori_service::problem::{Answer, ContentKind, Problem, content_kind, parse_json};
use serde_json::{Value, json};

use super::path_id;
use crate::app::Caller;
use crate::audit;
use crate::backfill::jobs::{Act, Backfills};
use crate::backfill::{Asked, BackfillsConfig};
use crate::events::MAX_BATCH_BYTES;
use crate::state::IngestState;

/// Bytes of a request that names a source.
const MAX_BYTES: usize = 64 << 10;

fn of(state: &IngestState) -> Answer<&Arc<Backfills>> {
    let none =
        || Problem::not_found("this front door keeps no backfills: ingest.backfill_dir says where, or use `memori backfill`");
    state.backfills.as_ref().ok_or_else(none)
}

/// Whose imports a caller sees; an operator everybody's.
fn sees(caller: &Caller) -> Option<&str> {
    (!caller.is_operator()).then_some(&*caller.tenant)
}

/// `POST /v1/admin/backfills`.
pub(crate) async fn begin(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let backfills = Arc::clone(of(&state)?);
    let (asked, upload) = match content_kind(&headers) {
        Some(ContentKind::Json) => {
            if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
                let name = query.split(['=', '&']).next().unwrap_or_default();
                return Err(Problem::invalid_field(
                    memori_service::problem::join("", name),
                    "is for uploads; JSON says it in its body",
                ));
            }
            let held = state.limits.read(&headers, body, MAX_BYTES).await?;
            (Asked::read(parse_json(&held.bytes)?)?, None)
        }
        Some(ContentKind::NdJson) => {
            (Asked::of_query(uri.query())?, Some(state.limits.read(&headers, body, MAX_BATCH_BYTES).await?))
        }
        None => return Err(Problem::unsupported_media_type("application/json or application/x-ndjson in UTF-8")),
    };
    let tenant: Arc<str> = match (&asked.tenant, caller.is_operator()) {
        (Some(tenant), true) => tenant.as_str().into(),
        (None, true) => return Err(Problem::invalid_field("tenant", "is required of a key that is bound to every tenant")),
        (Some(tenant), false) if **tenant != *caller.tenant => {
            return Err(Problem::invalid_field("tenant", "is another than the key's"));
        }
        _ => Arc::clone(&caller.tenant),
    };
    let spec = backfills.plan(&tenant, asked, upload.is_some())?;
    audit::note(&state, &caller, &tenant, "backfill.start", &spec.backfill_id, spec.told()).await?;
    let beginning = move || backfills.begin(spec, upload.as_ref().map(|held| &*held.bytes));
    let begun = tokio::task::spawn_blocking(beginning).await.map_err(|_| Problem::internal())??;
    Ok((StatusCode::ACCEPTED, Json(begun)).into_response())
}

/// `GET /v1/admin/backfills`.
pub(crate) async fn list(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    no_parameters(&uri)?;
    Ok(Json(json!({"backfills": of(&state)?.list(sees(&caller))})))
}

/// `GET /v1/admin/backfills/{backfill_id}`.
pub(crate) async fn get(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    no_parameters(&uri)?;
    Ok(Json(of(&state)?.get(sees(&caller), &path_id(&uri, 3, "backfill_id")?)?))
}

/// `POST /v1/admin/backfills/{backfill_id}/pause`, `/resume`, `/cancel`.
pub(crate) async fn act(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    let act = match path_id(&uri, 4, "act")?.as_str() {
        "pause" => Act::Pause,
        "resume" => Act::Resume,
        _ => Act::Cancel,
    };
    done(&state, &caller, &uri, act).await
}

/// `DELETE /v1/admin/backfills/{backfill_id}`.
pub(crate) async fn delete(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    done(&state, &caller, &uri, Act::Delete).await
}

async fn done(state: &IngestState, caller: &Caller, uri: &Uri, act: Act) -> Result<Response, Problem> {
    no_parameters(uri)?;
    let backfills = Arc::clone(of(state)?);
    let (id, sees) = (path_id(uri, 3, "backfill_id")?, sees(caller).map(str::to_owned));
    let tenant = backfills.may(sees.as_deref(), &id, act)?;
    audit::note(state, caller, &tenant, act.as_str(), &id, json!({})).await?;
    let acting = move || backfills.act(sees.as_deref(), &id, act);
    let shown = tokio::task::spawn_blocking(acting).await.map_err(|_| Problem::internal())??;
    Ok(shown.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |shown| Json(shown).into_response()))
}

fn no_parameters(uri: &Uri) -> Answer<()> {
    let Some(given) = uri.query().and_then(|query| query.split('&').find(|pair| !pair.is_empty())) else { return Ok(()) };
    let name = given.split('=').next().unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    Err(Problem::invalid_field(memori_service::problem::join("", &name), "is not a known parameter"))
}

impl IngestState {
    /// Where imports are kept that the API starts; none where their folder cannot be used.
    pub(crate) fn open_backfills(
        config: Option<BackfillsConfig>,
        producer: Arc<dyn memori_event_log::Producer>,
    ) -> std::io::Result<Option<Arc<Backfills>>> {
        config.map(|config| Backfills::start(config, producer)).transpose()
    }
}
