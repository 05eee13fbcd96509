//! The archive in an object store that speaks S3: a double in this process, as far as an archiver needs one. Signatures are not looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Log as _, NewRecord, Topic};
use memori_schemas::ids;
use memori_tests::process::{Process, Program, binary};
use memori_tests::servers::Servers;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(120);
const RECORDS: usize = 500;

#[derive(Clone, Default)]
struct Bucket {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Manifests that were put without the condition that nothing is there.
    unconditional: Arc<Mutex<Vec<String>>>,
}

/// `%XX` as the byte that it stands for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex =
            after.get(..2).filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn answer(State(bucket): State<Bucket>, request: Request) -> Response {
    let key = decoded(request.uri().path()).trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    let mut objects = bucket.objects.lock().unwrap_or_else(PoisonError::into_inner);
    let tagged = |body: Bytes| {
        let tag = format!("\"{}\"", body.len());
        let headers = [(header::ETAG, tag), (header::LAST_MODIFIED, "Wed, 01 May 2024 10:00:00 GMT".to_owned())];
        (headers, Body::from(body)).into_response()
    };
    match parts.method {
        Method::PUT => {
            let only_if_none = parts.headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*");
            if only_if_none && objects.contains_key(&key) {
                return StatusCode::PRECONDITION_FAILED.into_response();
            }
            if !only_if_none && key.ends_with(".json") {
                bucket.unconditional.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
            }
            objects.insert(key, body);
            tagged(Bytes::new())
        }
        Method::GET if query.contains("list-type=2") => {
            let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).map(decoded).unwrap_or_default();
            let mut xml = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>".to_owned();
            for (key, body) in objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                let size = body.len();
                let _ = write!(
                    xml,
                    "<Contents><Key>{key}</Key><LastModified>2024-05-01T10:00:00.000Z</LastModified><ETag>\"{size}\"</ETag><Size>{size}</Size></Contents>"
                );
            }
            xml.push_str("</ListBucketResult>");
            ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
        }
        Method::GET | Method::HEAD => match objects.get(&key) {
            Some(body) => tagged(body.clone()),
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
        },
        Method::DELETE => {
            objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        Method::POST => {
            let asked = String::from_utf8_lossy(&body).into_owned();
            for part in asked.split("<Key>").skip(1) {
                objects.remove(part.split("</Key>").next().unwrap_or_default());
            }
            "<DeleteResult></DeleteResult>".into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_put_where_nothing_is() -> anyhow::Result<()> {
    let bucket = Bucket::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let app = Router::new().fallback(answer).with_state(bucket.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });

    let servers = tokio::task::block_in_place(Servers::shared)?;
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?;
    log.create_topics(2).await?;
    let record = |n: usize| NewRecord {
        topic: Topic::ConversationsLive,
        key: Bytes::from(ids::log_key(&format!("tenant {}", n % 3), "entity")),
        payload: Bytes::from(format!("record {n}")),
        headers: vec![],
    };
    for answer in log.producer().append(&(0..RECORDS).map(record).collect::<Vec<_>>(), None).await {
        answer?;
    }

    let env: Vec<(String, String)> = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &prefix),
        ("MEMORI__ARCHIVE__URL", "s3://bucket/memori"),
        ("MEMORI__ARCHIVE__ROLL_AGE_S", "1"),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "archiver"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-test-1"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let logs = tempfile::tempdir()?;
    let args = vec!["archive".to_owned(), "run".to_owned()];
    let program = Program { binary: "memori", args, env: env.clone(), listen_key: None, has_admin: true };
    let mut process = tokio::task::block_in_place(|| Process::start("archiver", program, logs.path()))?;
    let verify = || -> anyhow::Result<Value> {
        let mut command = Command::new(binary("memori")?);
        command.args(["archive", "verify", "--json"]).env_clear().envs(env.iter().cloned());
        let output = tokio::task::block_in_place(|| command.output())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let since = Instant::now();
    loop {
        let findings = verify()?;
        let partitions = findings["partitions"].as_array().context("partitions")?;
        let records: u64 = partitions.iter().filter_map(|standing| standing["records"].as_u64()).sum();
        if records == RECORDS as u64 {
            break;
        }
        ensure!(since.elapsed() < WITHIN, "the archive does not catch up: {findings}\n{}", process.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::task::block_in_place(|| process.stop())?;
    let unconditional = bucket.unconditional.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(unconditional.is_empty(), "{unconditional:?}");
    let names: Vec<String> = bucket.objects.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    ensure!(names.iter().any(|name| name.starts_with("memori/data/tenant=tenant=201/day=")), "{names:#?}");
    serving.abort();
    Ok(())
}
