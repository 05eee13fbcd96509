//! Generations as the writer tells of them over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memori_schemas::{ContentHash, LogRecordBody, framing};
use memori_service::Secret;
use memori_service::generations::Followed;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::json;

use super::{Generations, GenerationsError, Made};
use crate::llm::known::{TENANT_HEADER, client};

/// The most that an answer may hold: records of a window's events, in base64.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Of one question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The writer.
pub struct HttpGenerations {
    http: Client,
    followed: Url,
    made: Url,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Answer {
    made: Vec<One>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum One {
    Pending(serde::de::IgnoredAny),
    Dead(serde::de::IgnoredAny),
    Record(String),
}

fn failed(what: impl std::fmt::Display) -> GenerationsError {
    GenerationsError(format!("the writer's generations: {what}"))
}

impl HttpGenerations {
    /// The writer at `base_url`, with the internal token where there is one.
    ///
    /// # Errors
    /// What to change, in words.
    pub fn new(base_url: &str, token: Option<&Secret>) -> Result<Self, String> {
        let url = |path: &str| {
            Url::parse(&format!("{}{path}", base_url.trim_end_matches('/')))
                .map_err(|e| format!("the writer's address cannot be used: {e}"))
        };
        let (http, authorization) = client(token)?;
        Ok(Self { http, followed: url("/internal/v1/generations")?, made: url("/internal/v1/generations/made")?, authorization })
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Vec<u8>, GenerationsError> {
        let request = match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        };
        let mut response = request.timeout(TIMEOUT).send().await.map_err(|e| failed(e.without_url()))?;
        if !response.status().is_success() {
            return Err(failed(format_args!("it answered {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(e.without_url()))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(failed("it answered too much"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[async_trait]
impl Generations for HttpGenerations {
    async fn followed(&self) -> Result<Followed, GenerationsError> {
        let body = self.answer(self.http.get(self.followed.clone())).await?;
        serde_json::from_slice(&body).map_err(|_| failed("it answered something else; upgrade the workers first"))
    }

    async fn made(
        &self,
        tenant: &str,
        entity_id: &str,
        generation: i32,
        events: &[(String, ContentHash)],
    ) -> Result<Vec<Made>, GenerationsError> {
        let tenant = HeaderValue::from_bytes(tenant.as_bytes()).map_err(|_| failed("a tenant that no header holds"))?;
        let named: Vec<_> = events.iter().map(|(event_id, hash)| json!([event_id, hex::encode(hash.0)])).collect();
        let asked = json!({"entity_id": entity_id, "generation": generation, "events": named});
        let body = self.answer(self.http.post(self.made.clone()).header(TENANT_HEADER, tenant).json(&asked)).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| failed("it answered something else"))?;
        answer.made.into_iter().map(made).collect()
    }
}

fn made(one: One) -> Result<Made, GenerationsError> {
    match one {
        One::Pending(_) => Ok(Made::Pending),
        One::Dead(_) => Ok(Made::Dead),
        One::Record(text) => {
            let bytes = STANDARD.decode(text).map_err(|_| failed("it answered something else"))?;
            match framing::decode(&bytes) {
                Ok(LogRecordBody::Facts(facts)) => Ok(Made::Facts(Box::new(facts))),
                _ => Err(failed("it answered another record")),
            }
        }
    }
}
