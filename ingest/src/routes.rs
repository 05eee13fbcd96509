//! Every route of the front door, with the right it takes. The guard, the OpenAPI document's test and the router all follow this
//! one table: a route that is not in it cannot be reached.

use http::Method;
use memori_service::auth::Right;

/// One method of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path as declared, such as `/v1/events/{event_id}`.
    pub path: &'static str,
    /// What a key must be allowed to do; `None`: anybody may call it.
    pub right: Option<Right>,
}

const fn route(method: Method, path: &'static str, right: Right) -> Route {
    Route { method, path, right: Some(right) }
}

/// Every route.
pub static ROUTES: [Route; 48] = [
    route(Method::POST, "/v1/events", Right::Events),
    route(Method::POST, "/v1/events/batch", Right::Events),
    route(Method::POST, "/v1/events/wait", Right::Events),
    route(Method::GET, "/v1/events/{event_id}", Right::Events),
    route(Method::POST, "/v1/recall", Right::Recall),
    route(Method::POST, "/v1/recall/batch", Right::Recall),
    route(Method::GET, "/v1/entities", Right::Recall),
    route(Method::GET, "/v1/entities/{entity_id}/facts", Right::Recall),
    route(Method::GET, "/v1/entities/{entity_id}/export", Right::Recall),
    route(Method::DELETE, "/v1/entities/{entity_id}", Right::Erase),
    route(Method::GET, "/v1/facts/{fact_id}", Right::Recall),
    route(Method::GET, "/v1/facts/{fact_id}/lineage", Right::Recall),
    route(Method::DELETE, "/v1/facts/{fact_id}", Right::Erase),
    route(Method::GET, "/v1/erasures/{erasure_id}", Right::Erase),
    route(Method::GET, "/v1/admin/dead-letters", Right::Admin),
    route(Method::GET, "/v1/admin/dead-letters/{id}", Right::Admin),
    route(Method::POST, "/v1/admin/dead-letters/redrive", Right::Admin),
    route(Method::GET, "/v1/admin/backfills", Right::Admin),
    route(Method::POST, "/v1/admin/backfills", Right::Admin),
    route(Method::GET, "/v1/admin/backfills/{backfill_id}", Right::Admin),
    route(Method::DELETE, "/v1/admin/backfills/{backfill_id}", Right::Admin),
    route(Method::POST, "/v1/admin/backfills/{backfill_id}/pause", Right::Admin),
    route(Method::POST, "/v1/admin/backfills/{backfill_id}/resume", Right::Admin),
    route(Method::POST, "/v1/admin/backfills/{backfill_id}/cancel", Right::Admin),
    route(Method::GET, "/v1/admin/lineages", Right::Admin),
    route(Method::POST, "/v1/admin/lineages/withdraw", Right::Admin),
    route(Method::POST, "/v1/admin/lineages/re-extract", Right::Admin),
    route(Method::GET, "/v1/admin/tenants", Right::Admin),
    route(Method::POST, "/v1/admin/tenants", Right::Admin),
    route(Method::GET, "/v1/admin/tenants/{tenant}", Right::Admin),
    route(Method::PATCH, "/v1/admin/tenants/{tenant}", Right::Admin),
    route(Method::GET, "/v1/admin/tenants/{tenant}/keys", Right::Admin),
    route(Method::POST, "/v1/admin/tenants/{tenant}/keys", Right::Admin),
    route(Method::GET, "/v1/admin/tenants/{tenant}/keys/{key_id}", Right::Admin),
    route(Method::DELETE, "/v1/admin/tenants/{tenant}/keys/{key_id}", Right::Admin),
    route(Method::POST, "/v1/admin/tenants/{tenant}/keys/{key_id}/rotate", Right::Admin),
    route(Method::GET, "/v1/admin/tenants/{tenant}/quotas", Right::Admin),
    route(Method::PUT, "/v1/admin/tenants/{tenant}/quotas", Right::Admin),
    route(Method::GET, "/v1/admin/tenants/{tenant}/usage", Right::Admin),
    route(Method::GET, "/v1/admin/usage", Right::Admin),
    route(Method::GET, "/v1/admin/audit", Right::Admin),
    route(Method::GET, "/v1/admin/replays", Right::Admin),
    route(Method::POST, "/v1/admin/replays", Right::Admin),
    route(Method::POST, "/v1/admin/replays/estimate", Right::Admin),
    route(Method::GET, "/v1/admin/replays/{generation}", Right::Admin),
    route(Method::GET, "/v1/admin/replays/{generation}/diff", Right::Admin),
    route(Method::POST, "/v1/admin/replays/{generation}/{act}", Right::Admin),
    Route { method: Method::GET, path: "/openapi.json", right: None },
];

/// Whether a route reads query parameters, and judges them: the writer's listings do, events name their lane, and an upload its
/// import.
#[must_use]
pub fn takes_parameters(route: &Route) -> bool {
    (route.method == Method::GET && matches!(route.right, Some(Right::Recall | Right::Admin)))
        || (route.method == Method::POST && matches!(route.path, "/v1/events" | "/v1/events/batch" | "/v1/admin/backfills"))
}

/// Where a request names the entity that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// In its path.
    Path,
    /// In its body.
    Body,
    /// Nowhere: it is about a whole tenant.
    Nowhere,
}

impl Named {
    /// As the OpenAPI document says it in `x-memori-entity`.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Path => Some("path"),
            Self::Body => Some("body"),
            Self::Nowhere => None,
        }
    }
}

/// Where requests of a route name the entity that they are about: only these may a key call that is bound to entities.
#[must_use]
pub fn names_entity(route: &Route) -> Named {
    match route.path {
        "/v1/events" | "/v1/events/batch" | "/v1/recall" | "/v1/recall/batch" => Named::Body,
        path if path.starts_with("/v1/entities/{entity_id}") => Named::Path,
        _ => Named::Nowhere,
    }
}

/// Whether a route takes a key that is bound to every tenant: what makes tenants, and what says how much they may use.
#[must_use]
pub fn takes_operator(route: &Route) -> bool {
    matches!(
        (route.method.as_str(), route.path),
        ("POST", "/v1/admin/tenants") | ("PATCH", "/v1/admin/tenants/{tenant}") | ("PUT", "/v1/admin/tenants/{tenant}/quotas")
    )
}

/// The route of a declared path and a method; `HEAD` is a `GET` whose body is not sent.
#[must_use]
pub fn find(path: &str, method: &Method) -> Option<&'static Route> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    // An event may be called `batch` or `wait`: asked for its status, these paths are its own.
    let path = if *method == Method::GET && NAMES_OF_EVENTS.contains(&path) { "/v1/events/{event_id}" } else { path };
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
}

/// Paths that are also those of events.
const NAMES_OF_EVENTS: [&str; 2] = ["/v1/events/batch", "/v1/events/wait"];

/// The methods of a declared path, as `Allow` names them.
#[must_use]
pub fn allowed(path: &str) -> String {
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let methods: Vec<&str> = methods.iter().filter(|method| find(path, method).is_some()).map(Method::as_str).collect();
    methods.join(", ")
}
