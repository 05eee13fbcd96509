//! What an operator does before tenants come: tenants, keys, quotas, by the routes that the contract names.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Answer, Api, escape};
use crate::keys::Keys;

/// How long what is refused, or let in again, may take to be so at every front door.
const WITHIN: Duration = Duration::from_secs(60);

/// The operator at one front door.
#[derive(Clone, Debug)]
pub struct Operator {
    base: String,
    api: Api,
}

/// A key as its making showed it.
#[derive(Clone, Debug)]
pub struct MadeKey {
    /// Its id.
    pub id: String,
    /// The key.
    pub key: String,
}

impl Operator {
    /// With the key of the keys file that is bound to every tenant.
    #[must_use]
    pub fn at(base: &str) -> Self {
        Self { base: base.to_owned(), api: Api::new(base, Some(Keys::OPERATOR)) }
    }

    /// The front door's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Its own way in.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Somebody's way in.
    #[must_use]
    pub fn with(&self, key: &str) -> Api {
        self.api.with_key(Some(key))
    }

    async fn done(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let answer = self.api.insist(|| self.api.request(method.clone(), path).json(body)).await?;
        ensure!(answer.status.is_success(), "{method} {path}: {}: {}", answer.status, answer.body);
        Ok(answer)
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// It is not made.
    pub async fn tenant(&self, tenant: &str) -> anyhow::Result<()> {
        self.done(Method::POST, "/v1/admin/tenants", &json!({"tenant": tenant})).await.map(drop)
    }

    /// Makes a key; `more` is what the request says besides its rights.
    ///
    /// # Errors
    /// It is not made.
    pub async fn key(&self, tenant: &str, rights: &[&str], more: &Value) -> anyhow::Result<MadeKey> {
        let mut body = json!({"rights": rights});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        made(&self.done(Method::POST, &format!("/v1/admin/tenants/{}/keys", escape(tenant)), &body).await?)
    }

    /// Rotates a key.
    ///
    /// # Errors
    /// It is not rotated.
    pub async fn rotate(&self, tenant: &str, key_id: &str, overlap_seconds: u64) -> anyhow::Result<MadeKey> {
        let path = format!("/v1/admin/tenants/{}/keys/{key_id}/rotate", escape(tenant));
        made(&self.done(Method::POST, &path, &json!({"overlap_seconds": overlap_seconds})).await?)
    }

    /// Revokes a key.
    ///
    /// # Errors
    /// It is not revoked.
    pub async fn revoke(&self, tenant: &str, key_id: &str) -> anyhow::Result<()> {
        let path = format!("/v1/admin/tenants/{}/keys/{key_id}", escape(tenant));
        let answer = self.api.delete(&path).await?;
        ensure!(answer.status == StatusCode::NO_CONTENT, "{path}: {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// Says what a tenant may use.
    ///
    /// # Errors
    /// It does not hold.
    pub async fn quotas(&self, tenant: &str, quotas: &Value) -> anyhow::Result<()> {
        self.done(Method::PUT, &format!("/v1/admin/tenants/{}/quotas", escape(tenant)), quotas).await.map(drop)
    }

    /// Suspends a tenant, or lifts that.
    ///
    /// # Errors
    /// It does not hold.
    pub async fn suspend(&self, tenant: &str, suspended: bool) -> anyhow::Result<()> {
        self.done(Method::PATCH, &format!("/v1/admin/tenants/{}", escape(tenant)), &json!({"suspended": suspended}))
            .await
            .map(drop)
    }
}

fn made(answer: &Answer) -> anyhow::Result<MadeKey> {
    let text = |name: &str| answer.body[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {}", answer.body));
    Ok(MadeKey { id: text("key_id")?, key: text("key")? })
}

/// Asks until the answer has this status: what front doors remember of a key or a quota, they learn anew in a moment.
///
/// # Errors
/// It never has.
pub async fn until_status(
    api: &Api,
    method: Method,
    path: &str,
    body: Option<&Value>,
    status: StatusCode,
) -> anyhow::Result<Answer> {
    let since = Instant::now();
    loop {
        let request = api.request(method.clone(), path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = api.send(request).await?;
        if answer.status == status {
            return Ok(answer);
        }
        ensure!(since.elapsed() < WITHIN, "{method} {path} still answers {}: {}", answer.status, answer.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
