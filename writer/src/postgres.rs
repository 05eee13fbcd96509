//! Connections to Postgres: a bounded pool, TLS as the URL's `sslmode` says, and dead peers noticed by the kernel.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::SslMode;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller queues for a connection; a server that hangs must not make callers pile up behind it.
const POOL_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may take until it can be used, its login included.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged before the connection counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a URL cannot be used: says what to change, without the URL's secrets.
#[derive(Debug, thiserror::Error)]
#[error("the postgres url cannot be used: {0}")]
pub struct PostgresUrlError(String);

/// A URL that was understood.
#[derive(Clone)]
pub struct PostgresTarget {
    config: tokio_postgres::Config,
    tls: MakeTlsConnector,
}

impl std::fmt::Debug for PostgresTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresTarget")
            .field("hosts", &self.config.get_hosts())
            .field("dbname", &self.config.get_dbname())
            .finish()
    }
}

/// What libpq's parameters ask of TLS, beyond what tokio-postgres reads itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct TlsWishes {
    mode: Option<String>,
    root_certificate: Option<String>,
}

/// Takes `sslmode` and `sslrootcert` out of a URL.
fn split_tls(url: &str) -> (String, TlsWishes) {
    let mut wishes = TlsWishes::default();
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), wishes) };
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = || percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
        match name {
            "sslmode" => wishes.mode = Some(decoded()),
            "sslrootcert" => wishes.root_certificate = Some(decoded()),
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (url, wishes)
}

impl PostgresTarget {
    /// Understands `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn parse(url: &str, application_name: &str) -> Result<Self, PostgresUrlError> {
        let (url, wishes) = split_tls(url);
        let mut config: tokio_postgres::Config =
            url.parse().map_err(|e: tokio_postgres::Error| PostgresUrlError(e.to_string()))?;
        let mode = wishes.mode.as_deref().unwrap_or("prefer");
        config.ssl_mode(match mode {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" | "verify-ca" | "verify-full" => SslMode::Require,
            other => {
                return Err(PostgresUrlError(format!(
                    "sslmode is {other:?}; it must be disable, prefer, require, verify-ca or verify-full"
                )));
            }
        });
        config.application_name(application_name).connect_timeout(CONNECT_TIMEOUT);
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).tcp_user_timeout(USER_TIMEOUT);
        let tls_error = |e: openssl::error::ErrorStack| PostgresUrlError(format!("TLS cannot be set up: {e}"));
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(tls_error)?;
        if let Some(file) = &wishes.root_certificate {
            builder.set_ca_file(file).map_err(|e| PostgresUrlError(format!("sslrootcert {file} cannot be read: {e}")))?;
        }
        // As libpq: a named root certificate is checked with `require`, too.
        let verify = mode.starts_with("verify-") || (mode == "require" && wishes.root_certificate.is_some());
        if verify && wishes.root_certificate.is_none() {
            // The default places of a TLS library that is built in are not this system's.
            let found = openssl_probe::probe();
            if let Some(file) = found.cert_file {
                builder.set_ca_file(&file).map_err(tls_error)?;
            }
        }
        if !verify {
            builder.set_verify(SslVerifyMode::NONE);
        }
        let mut tls = MakeTlsConnector::new(builder.build());
        let verify_host = mode == "verify-full";
        tls.set_callback(move |ssl, _| {
            ssl.set_verify_hostname(verify_host);
            Ok(())
        });
        Ok(Self { config, tls })
    }

    /// The role that connects.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.config.get_user()
    }

    /// A pool of at most `connections`; nothing is connected yet.
    ///
    /// # Errors
    /// Never, for a pool with its default time-outs.
    pub fn pool(&self, connections: usize) -> Result<Pool, PostgresUrlError> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(connections.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(LOGIN_TIMEOUT))
            .build()
            .map_err(|e| PostgresUrlError(e.to_string()))
    }

    /// One connection outside any pool, to be driven by the caller.
    pub(crate) async fn connect(&self) -> Result<(tokio_postgres::Client, Driven), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }
}

/// The half of a connection that does the work.
pub(crate) type Driven = tokio_postgres::Connection<tokio_postgres::Socket, postgres_openssl::TlsStream<tokio_postgres::Socket>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_taken_out_and_the_rest_stays() {
        let (url, wishes) = split_tls("postgres://u:p@h/d?sslmode=verify-full&options=-c%20x%3D1&sslrootcert=%2Fca.pem");
        assert_eq!(url, "postgres://u:p@h/d?options=-c%20x%3D1");
        assert_eq!(wishes, TlsWishes { mode: Some("verify-full".into()), root_certificate: Some("/ca.pem".into()) });
        assert_eq!(split_tls("postgres://h/d"), ("postgres://h/d".to_owned(), TlsWishes::default()));
    }

    #[test]
    fn a_bad_url_is_refused_without_telling_its_password() {
        for url in ["postgres://u:hunter2@h:port/d", "postgres://u:hunter2@h/d?sslmode=maybe"] {
            let error = PostgresTarget::parse(url, "test").unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let debug = format!("{:?}", PostgresTarget::parse("postgres://u:hunter2@h/d?sslmode=require", "test").unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}
