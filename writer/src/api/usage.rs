//! What tenants used, as JSON and CSV, and who changed what.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use memori_schemas::Micros;
use memori_service::auth::is_tenant_name;
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::request::{QueryParameters, json_body};
use super::tenants::{Administrator, TenantPath, no_such_tenant, time};
use super::{ApiState, unreadable};
use crate::control::{AuditFilter, AuditRow, DAY_US, UsageRow};

/// Days and tenants of one answer.
const MAX_ROWS: usize = 100_000;
/// Without `from`: so many days, today's included.
const DEFAULT_DAYS: i64 = 30;
const DAY: &str = "a day such as 2026-03-01";
/// Bytes of what ingest says of an act.
const MAX_ACT_BYTES: usize = 64 << 10;

fn day_of(text: &str) -> Option<i64> {
    let plain = text.len() == 10 && text.is_ascii();
    plain.then(|| Micros::parse_rfc3339(&format!("{text}T00:00:00Z"))).flatten().map(|at| at.0.div_euclid(DAY_US))
}

fn day_shown(day: i64) -> String {
    time(day * DAY_US).chars().take(10).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

async fn usage(state: &ApiState, tenant: Option<&str>, mut parameters: QueryParameters) -> Answer<Response> {
    let today = Micros::now().0 / DAY_US;
    let from = parameters.take("from", DAY, day_of);
    let to = parameters.take("to", DAY, day_of).unwrap_or(today);
    let format = parameters.take("format", "json or csv", |text| match text {
        "json" => Some(Format::Json),
        "csv" => Some(Format::Csv),
        _ => None,
    });
    parameters.finish()?;
    let from = from.unwrap_or(to - DEFAULT_DAYS + 1);
    let rows = state.control()?.usage(tenant, from, to, MAX_ROWS + 1).await.map_err(unreadable)?;
    if rows.len() > MAX_ROWS {
        return Err(Problem::invalid_field(
            "from",
            format!("these are more than {MAX_ROWS} lines: ask for fewer days at a time"),
        ));
    }
    Ok(match format.unwrap_or(Format::Json) {
        Format::Json => Json(json!({
            "from": day_shown(from),
            "to": day_shown(to),
            "usage": rows.iter().map(shown).collect::<Vec<_>>(),
        }))
        .into_response(),
        Format::Csv => {
            let headers = [
                (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\""),
            ];
            (headers, csv(&rows)).into_response()
        }
    })
}

fn shown(row: &UsageRow) -> Value {
    json!({
        "tenant": row.tenant,
        "day": day_shown(row.day),
        "events": row.events,
        "stored_facts": row.facts,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "cost_micros": row.cost_micros,
    })
}

fn csv(rows: &[UsageRow]) -> String {
    let mut text = String::from("tenant,day,events,stored_facts,tokens_in,tokens_out,cost_micros\r\n");
    for row in rows {
        let line = [row.events, row.facts, row.tokens_in, row.tokens_out, row.cost_micros].map(|figure| figure.to_string());
        text.push_str(&format!("{},{},{}\r\n", csv_cell(&row.tenant), day_shown(row.day), line.join(",")));
    }
    text
}

/// As RFC 4180 has it, and nothing that a spreadsheet would take for a formula.
fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@']);
    if !formula && !text.contains(['"', ',', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
}

pub(super) async fn of_tenant(
    State(state): State<ApiState>,
    administrator: Administrator,
    TenantPath(tenant): TenantPath,
    parameters: QueryParameters,
) -> Answer<Response> {
    administrator.reach(&tenant)?;
    state.control()?.tenant(&tenant).await.map_err(unreadable)?.ok_or_else(no_such_tenant)?;
    usage(&state, Some(&tenant), parameters).await
}

pub(super) async fn of_all(
    State(state): State<ApiState>,
    administrator: Administrator,
    parameters: QueryParameters,
) -> Answer<Response> {
    usage(&state, administrator.own_tenant(), parameters).await
}

fn line(row: &AuditRow) -> Value {
    json!({
        "act_id": row.act_id,
        "at": time(row.at_us),
        "tenant": row.tenant,
        "actor": row.actor,
        "actor_tenant": row.actor_tenant,
        "act": row.act,
        "subject": row.subject,
        "detail": serde_json::from_str::<Value>(&row.detail).unwrap_or_default(),
    })
}

pub(super) async fn audit(
    State(state): State<ApiState>,
    administrator: Administrator,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    const TIME: &str = "an RFC 3339 time";
    let limit = parameters.limit();
    let time_us = |text: &str| Micros::parse_rfc3339(text).map(|at| at.0);
    let tenant = parameters.take("tenant", "a tenant", |text| is_tenant_name(text).then(|| text.to_owned()));
    let filter = AuditFilter {
        since_us: parameters.take("since", TIME, time_us),
        until_us: parameters.take("until", TIME, time_us),
        before: parameters
            .take("cursor", "a cursor of this listing", |text| uuid::Uuid::try_parse(text).ok().map(|id| id.to_string())),
        tenant: None,
    };
    parameters.finish()?;
    let tenant = match (administrator.own_tenant(), tenant) {
        (Some(own), Some(tenant)) if own != tenant => {
            let why = "the key sees what was done to its own tenant only; one that is bound to `*` sees all";
            return Err(Problem::invalid_field("tenant", why));
        }
        (Some(own), _) => Some(own.to_owned()),
        (None, tenant) => tenant,
    };
    let filter = AuditFilter { tenant, ..filter };
    let mut rows = state.control()?.audit(&filter, limit + 1).await.map_err(unreadable)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.act_id.clone());
    Ok(Json(json!({"acts": rows.iter().map(line).collect::<Vec<_>>(), "next_cursor": next_cursor})))
}

/// An act of ingest's own, such as the start of an import.
pub(super) async fn note(
    State(state): State<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let mut errors = FieldErrors::default();
    let read = Fields::of(json_body(&headers, body, MAX_ACT_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let tenant = fields.required_text("tenant", 1..=512);
        let act = fields.required_text("act", 1..=64);
        let subject = fields.required_text("subject", 1..=512);
        let detail = fields.take("detail").unwrap_or_else(|| json!({}));
        fields.finish();
        Some((tenant?, act?, subject?, detail))
    });
    let (tenant, act, subject, detail) = errors.into_result(read)?.ok_or_else(Problem::internal)?;
    administrator.reach(&tenant)?;
    if let Some(control) = &state.control {
        control.note(&tenant, &act, &subject, &detail, &administrator.act()).await.map_err(unreadable)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_shown() {
        for text in ["1970-01-01", "2026-03-01", "2024-02-29"] {
            assert_eq!(day_shown(day_of(text).unwrap()), text);
        }
        for bad in ["", "2026-3-1", "2026-02-30", "tomorrow", "2026-03-01T", "２026-03"] {
            assert_eq!(day_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_of_csv_stays_one() {
        let row = |tenant: &str| UsageRow {
            tenant: tenant.into(),
            day: 0,
            events: 1,
            facts: 2,
            tokens_in: 3,
            tokens_out: 4,
            cost_micros: 5,
        };
        let text = csv(&[row("acme"), row("a,\"b\""), row("=1+1")]);
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(
            lines[1..4],
            ["acme,1970-01-01,1,2,3,4,5", "\"a,\"\"b\"\"\",1970-01-01,1,2,3,4,5", "\"'=1+1\",1970-01-01,1,2,3,4,5"]
        );
    }
}
