//! The HTTP side over a double of the database: statuses, limits, encodings, order and absence. What a database does with
//! the text is proved in `cli/tests`, against the real binary.

mod tokens;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use weir_base::{ByteSize, Kind, OsRandom, Retry, SystemClock};
use weir_engine::compact::Compacted;
use weir_engine::flush::Flushed;
use weir_engine::ingest::{WriteOptions, Written};
use weir_engine::lp::{Precision, Rejected};
use weir_server::database::{Answer, Component, QueryRequest, Retention, Running, Sample, State, WriteSession};
use weir_server::{App, Config, Database, Error, Server, router};

const TEST_TIME: Duration = Duration::from_secs(60);

/// A database that remembers what it was told and fails as it is told.
#[derive(Default)]
struct Double {
    committed: Mutex<Vec<(String, WriteOptions, Vec<u8>)>>,
    begun: AtomicU64,
    queried: AtomicU64,
    upkept: AtomicU64,
    /// Refuses the next writes with these errors.
    refusals: Mutex<VecDeque<Error>>,
    /// A commit takes a permit; none means that the disk hangs.
    gate: Option<Arc<Semaphore>>,
    waiting: Arc<AtomicU64>,
    broken: Mutex<Option<Component>>,
}

struct DoubleWrite {
    double: Arc<Double>,
    database: String,
    options: WriteOptions,
    text: Vec<u8>,
}

#[derive(Clone)]
struct Shared(Arc<Double>);

#[async_trait]
impl WriteSession for DoubleWrite {
    fn feed(&mut self, text: &[u8]) -> Result<(), Error> {
        self.text.extend_from_slice(text);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<Written, Error> {
        if let Some(gate) = &self.double.gate {
            self.double.waiting.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
        }
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let bad = |line: &&str| line.starts_with("bad");
        let rejected: Vec<_> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| bad(line))
            .map(|(index, line)| Rejected {
                line_number: index + 1,
                reason: "it is bad".into(),
                original_line: line.into(),
            })
            .collect();
        let rejected_total = rejected.len();
        let kept = rejected.is_empty() || self.options.accept_partial;
        let rows = if kept { text.lines().count() - rejected_total } else { 0 };
        if kept {
            self.double.committed.lock().unwrap().push((self.database, self.options, self.text));
        }
        Ok(Written { rows, rejected, rejected_total })
    }
}

#[async_trait]
impl Database for Shared {
    fn begin_write(&self, database: &str, options: WriteOptions) -> Result<Box<dyn WriteSession>, Error> {
        if let Some(error) = self.0.refusals.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(DoubleWrite { double: Arc::clone(&self.0), database: database.into(), options, text: Vec::new() }))
    }

    async fn query(&self, request: QueryRequest) -> Result<Answer, Error> {
        self.0.queried.fetch_add(1, Ordering::SeqCst);
        if request.sql == "panic" {
            panic!("asked for");
        }
        if request.database == "nowhere" {
            return Err(Error::new(Kind::NotFound, "database 'nowhere' does not exist"));
        }
        let told = serde_json::json!([{"db": request.database, "q": request.sql, "params": request.params, "actor": request.actor, "databases": request.grant.databases.as_deref()}]);
        let chunks = futures::stream::iter([Ok(Bytes::from(told.to_string()))]).boxed();
        Ok(Answer { id: "query-1".into(), notes: vec!["é: as of version 3".into()], chunks })
    }

    async fn flush(&self, _database: Option<&str>) -> Result<Flushed, Error> {
        self.0.upkept.fetch_add(1, Ordering::SeqCst);
        Ok(Flushed { tables: 1, rows: 2 })
    }

    async fn compact(&self, _database: &str, _table: Option<&str>) -> Result<Compacted, Error> {
        self.0.upkept.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(Kind::NotFound, "table 'x' does not exist"))
    }

    fn queries(&self) -> Vec<Running> {
        let elapsed = Duration::from_millis(1500);
        vec![Running { id: "query-1".into(), database: "d".into(), sql: "SELECT 1".into(), running: true, elapsed }]
    }

    fn cancel_query(&self, id: &str) -> bool {
        id == "query-1"
    }

    async fn retain(&self, _retention: &[Retention]) -> Result<u64, Error> {
        Ok(0)
    }

    fn components(&self) -> Vec<Component> {
        self.0.broken.lock().unwrap().iter().cloned().collect()
    }

    fn samples(&self) -> Result<Vec<Sample>, Error> {
        Err(Error::new(Kind::Unavailable, "the collector is broken"))
    }

    async fn close(&self, _deadline: Duration) -> Result<(), Error> {
        Ok(())
    }
}

fn app(double: &Arc<Double>, config: Config) -> Arc<App> {
    let database = Arc::new(Shared(Arc::clone(double)));
    App::new(config, database, Arc::new(SystemClock::default()), Arc::new(OsRandom), Arc::default())
}

async fn send(app: &Arc<App>, request: Request<Body>) -> (u16, Response<()>, Value) {
    send_to(router(Arc::clone(app)), request).await
}

async fn send_to(routes: axum::Router, request: Request<Body>) -> (u16, Response<()>, Value) {
    let answered = tokio::time::timeout(TEST_TIME, routes.oneshot(request)).await.expect("in time");
    let (head, body) = answered.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let json = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into()));
    (head.status.as_u16(), Response::from_parts(head, ()), json)
}

fn post(uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(uri).body(body.into()).unwrap()
}

fn encoded(uri: &str, encoding: &str, body: Vec<u8>) -> Request<Body> {
    Request::post(uri).header("content-encoding", encoding).body(body.into()).unwrap()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|index| format!("m,host=h{index} value={} {index}\n", index * 7919 % 104_729).into_bytes())
        .collect()
}

#[tokio::test]
async fn each_dialect_names_its_database_and_precision() {
    for (uri, database, precision) in [
        ("/write?db=a&precision=ms", "a", Precision::Millisecond),
        ("/write?db=a&rp=autogen&precision=h&u=x&p=y", "a", Precision::Hour),
        ("/write?db=a&rp=week", "a.week", Precision::Nanosecond),
        ("/api/v2/write?bucket=a&org=o&precision=us", "a", Precision::Microsecond),
        ("/api/v2/write?bucket=a/week&org=o", "a.week", Precision::Nanosecond),
        ("/api/v3/write_lp?db=a&precision=second", "a", Precision::Second),
    ] {
        let double = Arc::new(Double::default());
        let (status, _, body) = send(&app(&double, Config::default()), post(uri, "m v=1\n")).await;
        assert_eq!((status, &body), (204, &Value::String(String::new())), "{uri}");
        let committed = double.committed.lock().unwrap();
        assert_eq!((committed[0].0.as_str(), committed[0].1.precision), (database, precision), "{uri}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_before_a_write_begins() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    for uri in [
        "/write",
        "/write?db=",
        "/write?db=..",
        "/write?db=..%2Fetc",
        "/write?db=a%00b",
        "/write?db=a&db=b",
        "/write?db=%ff",
        "/write?db=a&rp=../b",
        "/write?db=a&precision=fortnight",
        "/api/v2/write?org=o",
        "/api/v2/write?bucket=a/b/c",
        "/api/v2/write?bucket=a&precision=m",
        "/api/v3/write_lp?db=a&precision=minute",
        "/api/v3/write_lp?db=a&no_sync=perhaps",
    ] {
        let (status, _, body) = send(&app, post(uri, "m v=1\n")).await;
        assert_eq!(status, 400, "{uri} {body}");
    }
    let (status, _, _) = send(&app, encoded("/write?db=a", "br", vec![1])).await;
    assert_eq!(status, 415);
    assert_eq!(double.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn errors_are_told_in_the_dialect_of_the_caller() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let (_, head, body) = send(&app, post("/write", "m v=1")).await;
    assert_eq!(body["error"], "parameter 'db' is missing");
    assert_eq!(head.headers()["x-influxdb-error"], "parameter 'db' is missing");
    let (_, _, body) = send(&app, post("/api/v2/write", "m v=1")).await;
    assert_eq!((&body["code"], &body["message"]), (&"invalid".into(), &"parameter 'bucket' is missing".into()));
    let (status, _, body) = send(&app, post("/nothing/here", "")).await;
    assert_eq!((status, &body["error"]["code"]), (404, &"not_found".into()));
    let (status, _, _) = send(&app, Request::get("/write?db=a").body(Body::empty()).unwrap()).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_partial_write_is_400_with_each_bad_line_and_keeps_the_good_ones() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let (status, _, body) = send(&app, post("/api/v3/write_lp?db=a", "m v=1\nbad one\nm v=2\n")).await;
    assert_eq!(status, 400);
    assert_eq!(body["data"][0]["line_number"], 2);
    assert_eq!(body["data"][0]["error_message"], "it is bad");
    assert_eq!(body["data"][0]["original_line"], "bad one");
    assert_eq!(double.committed.lock().unwrap().len(), 1);
    let (status, _, body) = send(&app, post("/api/v3/write_lp?db=a&accept_partial=false", "m v=1\nbad one\n")).await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().starts_with("nothing written"), "{body}");
    assert_eq!(double.committed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn compressed_bodies_arrive_whole_or_not_at_all() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let text = lines(60_000);
    let (front, back) = text.split_at(text.len() / 3);
    let two_members = [gzip(front), gzip(back)].concat();
    let zstd = zstd::encode_all(text.as_slice(), 3).unwrap();
    let good = [
        ("gzip", gzip(&text)),
        ("gzip", two_members.clone()),
        ("GZIP", gzip(&text)),
        ("zstd", zstd.clone()),
        ("identity", text.clone()),
    ];
    for (encoding, body) in good {
        let (status, _, told) = send(&app, encoded("/write?db=a", encoding, body)).await;
        assert_eq!(status, 204, "{encoding} {told}");
        assert!(double.committed.lock().unwrap().pop().unwrap().2 == text, "{encoding}");
    }
    let mut flipped = gzip(&text);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let bad = [
        ("gzip", gzip(&text)[..middle].to_vec()),
        ("gzip", gzip(&text)[..5].to_vec()),
        ("gzip", two_members[..two_members.len() - 4].to_vec()),
        ("gzip", flipped),
        ("gzip", text.clone()),
        ("zstd", zstd[..zstd.len() / 2].to_vec()),
        ("zstd", zstd[..zstd.len() - 1].to_vec()),
        ("zstd", gzip(&text)),
    ];
    for (index, (encoding, body)) in bad.into_iter().enumerate() {
        let (status, _, told) = send(&app, encoded("/write?db=a", encoding, body)).await;
        assert_eq!(status, 400, "{index} {encoding} {told}");
        assert!(told["error"].as_str().unwrap().contains("nothing of it was written"), "{told}");
    }
    assert!(double.committed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn s1_bodies_have_limits_on_the_wire_inflated_by_ratio_and_together() {
    let config = || Config {
        body_bytes_max: ByteSize::new(200_000),
        text_bytes_max: ByteSize::mib(3),
        text_bytes_total_max: ByteSize::mib(1024),
        ..Config::default()
    };
    let check = async |config: Config, request: Request<Body>, status: u16, word: &str| {
        let double = Arc::new(Double::default());
        let (got, head, body) = send(&app(&double, config), request).await;
        assert_eq!(got, status, "{body}");
        assert!(body["error"].as_str().unwrap().contains(word), "{body}");
        assert!(double.committed.lock().unwrap().is_empty());
        head
    };
    let streamed = Body::from_stream(futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(lines(400)))));
    check(config(), post("/write?db=a", lines(10_000)), 413, "body_bytes_max").await;
    check(config(), post("/write?db=a", streamed), 413, "body_bytes_max").await;
    let announced = Request::post("/write?db=a").header("content-length", "99999999999").body(Body::empty()).unwrap();
    check(config(), announced, 413, "body_bytes_max").await;
    let zeros = vec![b'\n'; 20 << 20];
    check(config(), encoded("/write?db=a", "gzip", gzip(&zeros)), 413, "ratio_max").await;
    let zeros = zstd::encode_all(zeros.as_slice(), 3).unwrap();
    check(config(), encoded("/write?db=a", "zstd", zeros), 413, "ratio_max").await;
    let wide = Config { ratio_max: 1_000_000, ..config() };
    check(wide, encoded("/write?db=a", "gzip", gzip(&vec![b'\n'; 20 << 20])), 413, "text_bytes_max").await;
    let poor = Config { text_bytes_total_max: ByteSize::new(10_000), ..config() };
    let head = check(poor, post("/write?db=a", lines(1_000)), 429, "text_bytes_total_max").await;
    assert_eq!(head.headers()["retry-after"], "1");
}

#[tokio::test]
async fn the_shared_budget_comes_back_after_every_request() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config { text_bytes_total_max: ByteSize::new(100_000), ..Config::default() });
    for round in 0..10 {
        let (status, _, _) = send(&app, post("/write?db=a", lines(2_000))).await;
        assert_eq!(status, 204, "{round}");
        let (status, _, _) = send(&app, post("/write?db=a", lines(5_000))).await;
        assert_eq!(status, 429, "{round}");
    }
}

#[tokio::test]
async fn e4_a_full_buffer_is_503_with_the_time_to_come_back() {
    let double = Arc::new(Double::default());
    let full = Error::new(Kind::Limit, "the ingest buffer is full: buffer.bytes_max")
        .with_retry(Retry::After(Duration::from_secs(3)));
    double.refusals.lock().unwrap().push_back(full);
    let app = app(&double, Config::default());
    let (status, head, body) = send(&app, post("/write?db=a", "m v=1")).await;
    assert_eq!((status, &head.headers()["retry-after"]), (503, &"3".parse().unwrap()), "{body}");
    assert!(double.committed.lock().unwrap().is_empty());
    let (status, _, _) = send(&app, post("/write?db=a", "m v=1")).await;
    assert_eq!(status, 204);
}

#[tokio::test]
async fn q2_health_answers_while_the_disk_hangs_and_writes_past_the_limit_are_refused() {
    let gate = Arc::new(Semaphore::new(0));
    let double = Arc::new(Double { gate: Some(Arc::clone(&gate)), ..Double::default() });
    let config = Config { writes_max: 2, write_wait: Duration::from_millis(10), ..Config::default() };
    let app = app(&double, config);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { send(&app, post("/write?db=a", "m v=1")).await.0 })
        })
        .collect();
    while double.waiting.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    for uri in ["/health", "/ready", "/metrics", "/ping?verbose=true"] {
        let (status, _, _) = send(&app, Request::get(uri).body(Body::empty()).unwrap()).await;
        assert_eq!(status, 200, "{uri}");
    }
    let (status, head, body) = send(&app, post("/write?db=a", "m v=1")).await;
    assert_eq!(status, 503, "{body}");
    assert!(head.headers().contains_key("retry-after"));
    assert!(double.committed.lock().unwrap().is_empty(), "nothing is acknowledged before the disk is");
    gate.add_permits(2);
    for held in held {
        assert_eq!(held.await.unwrap(), 204);
    }
}

#[tokio::test]
async fn a_commit_that_hangs_is_503_and_never_204() {
    let double = Arc::new(Double { gate: Some(Arc::new(Semaphore::new(0))), ..Double::default() });
    let app = app(&double, Config { commit_timeout: Duration::from_millis(20), ..Config::default() });
    let (status, head, body) = send(&app, post("/api/v3/write_lp?db=a", "m v=1")).await;
    assert_eq!(status, 503);
    assert!(head.headers().contains_key("retry-after"));
    assert!(body["error"].as_str().unwrap().contains("may become so later"), "{body}");
}

#[tokio::test]
async fn health_names_what_is_broken_since_when_and_why() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let get = |uri| Request::get(uri).body(Body::empty()).unwrap();
    assert_eq!(send(&app, get("/health")).await.0, 200);
    assert_eq!(send(&app, get("/ready")).await.0, 200);
    *double.broken.lock().unwrap() = Some(Component {
        name: "wal",
        state: State::Unhealthy,
        reason: Some("a sync failed".into()),
        blocks_writes: true,
    });
    let (status, _, body) = send(&app, get("/health")).await;
    assert_eq!((status, &body["status"]), (503, &"unhealthy".into()));
    let wal = body["components"].as_array().unwrap().iter().find(|part| part["component"] == "wal").unwrap();
    assert_eq!((&wal["state"], &wal["reason"]), (&"unhealthy".into(), &"a sync failed".into()));
    let since = wal["since"].clone();
    assert_eq!(send(&app, get("/health")).await.2["components"][1]["since"], since);
    assert_eq!(send(&app, get("/ready")).await.0, 503);
}

#[tokio::test]
async fn a_broken_collector_is_absent_from_the_page_and_shows_in_health() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let get = |uri| Request::get(uri).body(Body::empty()).unwrap();
    for _ in 0..3 {
        let (status, _, page) = send(&app, get("/metrics")).await;
        assert_eq!(status, 200);
        let page = page.as_str().unwrap();
        assert!(
            page.contains("weir_write_rows_total 0\n") && page.contains("process_resident_memory_bytes "),
            "{page}"
        );
        assert!(!page.contains("weir_buffer"), "{page}");
    }
    let (_, _, body) = send(&app, get("/health")).await;
    assert_eq!(body["status"], "warning", "{body}");
}

#[tokio::test]
async fn queries_come_by_get_post_and_form_and_a_panic_is_a_500() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let uri = "/api/v3/query_sql";
    let json = |text: &str| post(uri, text.to_owned());
    let form = Request::post(uri)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("db=d&q=SELECT+1"))
        .unwrap();
    let get = Request::get("/api/v3/query_sql?db=d&q=SELECT%201").body(Body::empty()).unwrap();
    for request in [get, form, json(r#"{"db":"d","q":"SELECT 1","format":"json"}"#)] {
        let (status, head, body) = send(&app, request).await;
        assert_eq!((status, &body[0]["q"]), (200, &"SELECT 1".into()), "{body}");
        assert_eq!(head.headers()["content-type"], "application/json");
        assert_eq!(head.headers()["weir-query-id"], "query-1");
        assert_eq!(head.headers()["weir-note"], "\\u{e9}: as of version 3");
    }
    let named = Request::post(uri).header("weir-actor", "ann").header("content-type", "application/json");
    let (_, _, body) = send(&app, named.body(Body::from(r#"{"db":"d","q":"SELECT 1"}"#)).unwrap()).await;
    assert_eq!(body[0]["actor"], "ann");
    let (_, _, body) = send(&app, Request::get("/api/v3/query_sql?db=d&q=DROP").body(Body::empty()).unwrap()).await;
    assert_eq!(body[0]["actor"], Value::Null, "a GET may not change anything");
    for (body, status) in [
        (r#"{"db":"nowhere","q":"SELECT 1"}"#, 404),
        (r#"{"db":"../x","q":"SELECT 1"}"#, 400),
        (r#"{"db":"d"}"#, 400),
        (r#"{"db":"d","q":"SELECT 1","format":"xml"}"#, 400),
        (r#"{"db":"d","q":"panic"}"#, 500),
        ("[", 400),
    ] {
        let (got, _, told) = send(&app, json(body)).await;
        assert_eq!(got, status, "{body} {told}");
        assert!(told["error"]["message"].is_string(), "{told}");
    }
    assert_eq!(send(&app, json(r#"{"db":"d","q":"SELECT 1"}"#)).await.0, 200, "a panic takes nobody with it");
}

#[tokio::test]
async fn upkeep_flushes_compacts_lists_and_cancels() {
    let double = Arc::new(Double::default());
    let app = app(&double, Config::default());
    let ask = async |method: &str, uri: &str| {
        send(&app, Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()).await
    };
    let (status, _, body) = ask("POST", "/api/v1/flush").await;
    assert_eq!((status, &body["rows"]), (200, &2.into()));
    assert_eq!(ask("POST", "/api/v1/flush?db=..").await.0, 400);
    assert_eq!(ask("POST", "/api/v1/compact?db=d&table=x").await.0, 404);
    assert_eq!(ask("POST", "/api/v1/compact").await.0, 400);
    let (_, _, listed) = ask("GET", "/api/v1/queries").await;
    assert_eq!((&listed[0]["state"], &listed[0]["elapsed_ms"]), (&"running".into(), &1500.into()));
    assert_eq!(ask("DELETE", "/api/v1/queries/query-1").await.0, 204);
    assert_eq!(ask("DELETE", "/api/v1/queries/query-2").await.0, 404);
}

/// A server on a free port, and the token that stops it.
async fn serve(double: &Arc<Double>, config: Config) -> (std::net::SocketAddr, CancellationToken, Serving) {
    let config = Config { http: Some(([127, 0, 0, 1], 0).into()), ..config };
    let server = Server::bind(app(double, config)).await.unwrap();
    let (address, stop) = (server.address().unwrap(), CancellationToken::new());
    (address, stop.clone(), tokio::spawn(server.serve(stop)))
}

type Serving = tokio::task::JoinHandle<weir_server::listen::Stopped>;

async fn talk(address: std::net::SocketAddr, text: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_TIME, stream.read_to_end(&mut answer)).await.expect("in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn s1_connections_past_the_limit_are_told_so_and_their_place_comes_back() {
    let double = Arc::new(Double::default());
    let (address, _stop, _serving) = serve(&double, Config { connections_max: 1, ..Config::default() }).await;
    let mut first = tokio::net::TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert!(first.read(&mut buffer).await.unwrap() > 0);
    let mut second = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut told = String::new();
    second.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("retry-after: 1"), "{told}");
    drop(first);
    loop {
        let told = talk(address, "GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if told.starts_with("HTTP/1.1 204") {
            break;
        }
        assert!(told.starts_with("HTTP/1.1 503") || told.is_empty(), "{told}");
    }
}

#[tokio::test]
async fn s2_slow_heads_and_slow_bodies_are_cut() {
    let double = Arc::new(Double::default());
    let config = Config {
        header_timeout: Duration::from_millis(50),
        body_idle_timeout: Duration::from_millis(50),
        ..Config::default()
    };
    let (address, _stop, _serving) = serve(&double, config).await;
    let told = talk(address, "GET /ping HTTP/1.1\r\nhost:").await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
    let head = "POST /write?db=a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\nm v=";
    // The body never comes: the wait for the rest of it ends.
    let told = talk(address, head).await;
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert!(double.committed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_ends_early_writes_nothing() {
    let double = Arc::new(Double::default());
    let (address, stop, serving) = serve(&double, Config::default()).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /write?db=a HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nm v=1\nm v=2\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    stop.cancel();
    tokio::time::timeout(TEST_TIME, serving).await.expect("in time").unwrap();
    assert!(double.committed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_lets_running_requests_finish_and_refuses_new_ones() {
    let gate = Arc::new(Semaphore::new(0));
    let double = Arc::new(Double { gate: Some(Arc::clone(&gate)), ..Double::default() });
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weir.sock");
    let (address, stop, serving) = serve(&double, Config { socket: Some(socket.clone()), ..Config::default() }).await;
    let running = tokio::spawn(async move {
        talk(address, "POST /write?db=a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nm v=1").await
    });
    while double.waiting.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    assert!(tokio::net::UnixStream::connect(&socket).await.is_ok());
    stop.cancel();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!serving.is_finished());
    gate.add_permits(1);
    assert!(running.await.unwrap().starts_with("HTTP/1.1 204"));
    assert_eq!(serving.await.unwrap().cut_off, 0);
    assert_eq!(double.committed.lock().unwrap().len(), 1);
    assert!(!socket.exists());
}

#[tokio::test]
async fn s2_a_stop_cuts_off_what_never_ends() {
    let double = Arc::new(Double { gate: Some(Arc::new(Semaphore::new(0))), ..Double::default() });
    let config = Config { stop_timeout: Duration::from_millis(20), ..Config::default() };
    let (address, stop, serving) = serve(&double, config).await;
    let running = tokio::spawn(async move {
        talk(address, "POST /write?db=a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nm v=1").await
    });
    while double.waiting.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    assert_eq!(tokio::time::timeout(TEST_TIME, serving).await.expect("in time").unwrap().cut_off, 1);
    assert_eq!(running.await.unwrap(), "");
}

fn of_own(double: &Double) -> Vec<String> {
    let committed = double.committed.lock().unwrap();
    let own = committed.iter().filter(|(database, ..)| database == "weir");
    own.map(|(.., text)| String::from_utf8_lossy(text).into_owned()).collect()
}

async fn dropped(app: &Arc<App>) -> u64 {
    let (_, _, page) = send(app, Request::get("/metrics").body(Body::empty()).unwrap()).await;
    let line = page.as_str().unwrap().lines().find_map(|line| line.strip_prefix("weir_own_samples_dropped_total "));
    line.unwrap().parse().unwrap()
}

/// E4 and M1 of the server's own numbers: refused ones are dropped and counted, what a collector cannot measure is absent.
#[tokio::test]
async fn own_samples_that_are_refused_are_dropped_and_counted() {
    let double = Arc::new(Double::default());
    let full = || Error::new(Kind::Limit, "the buffer is full").with_retry(Retry::After(Duration::from_secs(1)));
    double.refusals.lock().unwrap().extend((0..3).map(|_| full()));
    let app = app(&double, Config::default());
    let stop = CancellationToken::new();
    let every = Duration::from_millis(1);
    let recording = tokio::spawn(weir_server::own::record(Arc::clone(&app), "a b".into(), every, stop.clone()));
    tokio::time::timeout(TEST_TIME, async {
        while of_own(&double).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a sample after those that were refused");
    stop.cancel();
    recording.await.unwrap();
    assert!(dropped(&app).await >= 3);
    let text = &of_own(&double)[0];
    assert!(text.starts_with("server,server=a\\ b http_requests_in_flight=0,"), "{text}");
    assert!(text.contains("process_threads=") && !text.contains("buffer"), "{text}");
    assert!(double.committed.lock().unwrap().iter().all(|(_, options, _)| options.no_sync));
}

/// S1: while the log hangs one sample waits; the others are counted and take nothing.
#[tokio::test]
async fn own_samples_do_not_pile_up_behind_a_log_that_hangs() {
    let gate = Arc::new(Semaphore::new(0));
    let double = Arc::new(Double { gate: Some(Arc::clone(&gate)), ..Double::default() });
    let app = app(&double, Config::default());
    let stop = CancellationToken::new();
    let every = Duration::from_millis(1);
    let recording = tokio::spawn(weir_server::own::record(Arc::clone(&app), "a".into(), every, stop.clone()));
    tokio::time::timeout(TEST_TIME, async {
        while dropped(&app).await < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("samples that are dropped");
    assert_eq!((double.begun.load(Ordering::SeqCst), double.waiting.load(Ordering::SeqCst)), (1, 1));
    stop.cancel();
    tokio::time::timeout(TEST_TIME, recording).await.expect("a stop does not wait for the log").unwrap();
    assert!(of_own(&double).is_empty());
}
