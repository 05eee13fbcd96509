//! The endpoint's client against a real HTTP server that behaves, and does not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use memori_embedding::{EmbedError, Embedder, Embedding, embedder_of};
use memori_service::{Secret, Settings};
use serde_json::{Value, json};

const KEY: &str = "sk-hunter2";
const DIMENSIONS: usize = 4;

/// What the server does with a request; when nothing is left to do, it answers well.
enum Act {
    Well,
    Floats,
    Backwards,
    Status(u16, Option<&'static str>, &'static str),
    Hang,
    Dimensions(usize),
    OneShort,
    CutOff,
    Say(&'static str),
    Endless,
}

#[derive(Default)]
struct Double {
    acts: Mutex<VecDeque<Act>>,
    requests: Mutex<Vec<(Value, Option<String>)>>,
    at: Mutex<Vec<Instant>>,
}

/// A vector that tells its text.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    (0..dimensions).map(|n| if n == text.len() % dimensions { 1.0 } else { 0.25 }).collect()
}

async fn answer(State(double): State<Arc<Double>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let key = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    double.requests.lock().unwrap().push((body.clone(), key));
    double.at.lock().unwrap().push(Instant::now());
    let act = double.acts.lock().unwrap().pop_front().unwrap_or(Act::Well);
    let texts: Vec<&str> = body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let wanted = if let Act::Dimensions(other) = act { other } else { DIMENSIONS };
    let item = |(index, text): (usize, &&str)| {
        let vector = vector(text, wanted);
        let embedding = if matches!(act, Act::Floats) {
            json!(vector)
        } else {
            let bytes: Vec<u8> = vector.iter().flat_map(|component| component.to_le_bytes()).collect();
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let mut data: Vec<Value> = texts.iter().enumerate().map(item).collect();
    let with = |status: u16, body: Body| Response::builder().status(status).body(body).unwrap();
    match act {
        Act::Status(status, after, said) => {
            let mut response = with(status, Body::from(said));
            if let Some(after) = after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        Act::Hang => std::future::pending::<()>().await,
        Act::Backwards => data.reverse(),
        Act::OneShort => drop(data.pop()),
        Act::CutOff => {
            let parts = [Ok(Bytes::from_static(b"{\"data\":[")), Err(std::io::Error::other("cut"))];
            return with(200, Body::from_stream(futures::stream::iter(parts)));
        }
        Act::Say(text) => return with(200, Body::from(text)),
        Act::Endless => {
            let part = || Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 16])), ()));
            return with(200, Body::from_stream(futures::stream::unfold((), move |()| async move { part() })));
        }
        Act::Well | Act::Floats | Act::Dimensions(_) => {}
    }
    with(StatusCode::OK.as_u16(), Body::from(json!({"object": "list", "data": data, "model": "m"}).to_string()))
}

struct Running {
    double: Arc<Double>,
    embedder: Arc<dyn Embedder>,
}

async fn serve(acts: Vec<Act>) -> (Arc<Double>, SocketAddr) {
    let double = Arc::new(Double { acts: Mutex::new(acts.into()), ..Double::default() });
    let app = Router::new().route("/v1/embeddings", axum::routing::post(answer)).with_state(Arc::clone(&double));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (double, address)
}

async fn start(acts: Vec<Act>, change: impl FnOnce(&mut Settings)) -> Running {
    let (double, address) = serve(acts).await;
    let mut settings = Settings::default();
    settings.embedding.kind = "openai".to_owned();
    settings.embedding.base_url = Some(format!("http://{address}/v1"));
    settings.embedding.api_key = Some(Secret::new(KEY));
    settings.embedding.model = Some("m".to_owned());
    settings.embedding.dimensions = Some(DIMENSIONS);
    settings.embedding.max_attempts = 3;
    change(&mut settings);
    let embedder = embedder_of(&settings).unwrap().unwrap();
    Running { double, embedder }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn expected(text: &str) -> Embedding {
    Embedding::quantise(&vector(text, DIMENSIONS))
}

impl Running {
    async fn ask(&self) -> Result<Vec<Embedding>, EmbedError> {
        self.embedder.embed(&texts(&["secret words", "b"])).await
    }

    fn requests(&self) -> usize {
        self.double.requests.lock().unwrap().len()
    }

    /// It answers, after as many requests.
    async fn answers_after(&self, requests: usize) {
        assert_eq!(self.ask().await.unwrap(), [expected("secret words"), expected("b")]);
        assert_eq!(self.requests(), requests);
    }

    /// It fails after as many requests, with a text that tells neither content nor key.
    async fn fails_after(&self, requests: usize) -> EmbedError {
        let error = self.ask().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret") && !text.contains("hunter2"), "{text}");
        assert_eq!(self.requests(), requests, "{text}");
        error
    }
}

#[tokio::test]
async fn texts_go_in_bounded_requests_and_come_back_in_order() {
    let long = "x".repeat(20_000);
    let given = ["a", "bb", "", "ccc", " \n", "dddd", "eeeee", &long];
    let running = start(vec![Act::Floats, Act::Backwards], |settings| {
        settings.embedding.batch_texts = 2;
        settings.embedding.batch_bytes = 8_000;
    })
    .await;
    assert_eq!((running.embedder.model(), running.embedder.dimensions()), ("openai:m@4", 4));
    let vectors = running.embedder.embed(&texts(&given)).await.unwrap();
    assert_eq!(vectors.len(), given.len());
    for (text, vector) in given.iter().zip(&vectors) {
        if text.trim().is_empty() {
            assert_eq!(*vector, Embedding { scale: 0.0, values: vec![0; 4].into() });
        } else {
            assert_eq!(*vector, expected(&text[..text.len().min(8_000)]), "{text:.9}");
        }
    }
    let requests = running.double.requests.lock().unwrap();
    assert_eq!(requests.len(), 4);
    for (request, key) in requests.iter() {
        let input = request["input"].as_array().unwrap();
        assert!(input.len() <= 2 && input.iter().map(|text| text.as_str().unwrap().len()).sum::<usize>() <= 8_000);
        assert_eq!(
            (&request["model"], &request["dimensions"], &request["encoding_format"]),
            (&json!("m"), &json!(4), &json!("base64"))
        );
        assert_eq!(key.as_deref(), Some("Bearer sk-hunter2"));
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for act in [
        Act::Status(500, None, ""),
        Act::Status(503, None, "secret"),
        Act::Status(429, None, ""),
        Act::OneShort,
        Act::CutOff,
        Act::Say("<html>secret</html>"),
        Act::Endless,
    ] {
        start(vec![act], |_| ()).await.answers_after(2).await;
    }
}

#[tokio::test]
async fn the_endpoints_wish_to_wait_is_heeded() {
    let running = start(vec![Act::Status(429, Some("1"), "")], |_| ()).await;
    running.answers_after(2).await;
    let at = running.double.at.lock().unwrap().clone();
    assert!(at[1] - at[0] >= Duration::from_secs(1));
    // A longer wish than a call can hold ends it.
    let running = start(vec![Act::Status(429, Some("3600"), "")], |_| ()).await;
    assert!(matches!(running.fails_after(1).await, EmbedError::Unavailable(_)));
}

#[tokio::test]
async fn attempts_are_bounded_and_an_endpoint_that_fails_is_left_alone() {
    let acts = (0..3).map(|_| Act::Status(500, None, "")).collect();
    let running = start(acts, |_| ()).await;
    assert!(matches!(running.fails_after(3).await, EmbedError::Unavailable(_)));
    assert!(matches!(running.fails_after(3).await, EmbedError::Unavailable(_)), "asked again at once");
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    running.answers_after(4).await;
    running.answers_after(5).await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_its_timeout_and_no_more() {
    let running = start(vec![Act::Hang, Act::Hang], |settings| {
        settings.embedding.timeout_ms = 150;
        settings.embedding.max_attempts = 2;
    })
    .await;
    let since = Instant::now();
    let error = running.fails_after(2).await;
    assert!(error.to_string().contains("in time"), "{error}");
    assert!(since.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn what_no_retry_mends_is_said_at_once() {
    for (act, says) in [
        (Act::Status(401, None, "secret"), "api_key"),
        (Act::Status(404, None, ""), "model"),
        (Act::Status(400, None, "too long: secret words"), "400"),
        (Act::Status(302, None, ""), "302"),
        (Act::Dimensions(3), "3 components"),
    ] {
        let error = start(vec![act], |_| ()).await.fails_after(1).await;
        assert!(matches!(&error, EmbedError::Refused(_)) && error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_that_knows_fewer_parameters_is_asked_without_them() {
    let running = start(vec![Act::Status(400, None, "does not support matryoshka"), Act::Floats, Act::Floats], |_| ()).await;
    running.answers_after(2).await;
    running.answers_after(3).await;
    let requests = running.double.requests.lock().unwrap();
    assert!(requests[0].0.get("dimensions").is_some());
    for (request, _) in &requests[1..] {
        assert!(request.get("dimensions").is_none() && request.get("encoding_format").is_none());
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_without_an_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let running = start(Vec::new(), |settings| {
        settings.embedding.base_url = Some(format!("http://{address}/v1?key=hunter2"));
        settings.embedding.max_attempts = 2;
    })
    .await;
    let error = running.fails_after(0).await;
    assert!(error.to_string().contains("no connection") && !error.to_string().contains("127.0.0.1"), "{error}");
}

#[test]
fn settings_that_cannot_work_name_what_to_set() {
    let mut settings = Settings::default();
    settings.embedding.kind = "openai".to_owned();
    let error = embedder_of(&settings).map(drop).unwrap_err();
    assert!(matches!(&error, EmbedError::Configuration(why) if why.contains("MEMORI__EMBEDDING__BASE_URL")), "{error}");
}
