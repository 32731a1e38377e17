//! Tokens over the double: who gets past which address, in which words others are refused, and that nothing of them reaches
//! the database. Scopes within SQL are proved in `cli/tests/tokens.rs`, against the real binary.

use weir_base::OsFileSystem;
use weir_server::guarded;
use weir_server::tokens::{Grant, NewToken, TokenFile};

use super::*;

/// A server's side of the tokens, and those of four callers.
struct Guarded {
    double: Arc<Double>,
    app: Arc<App>,
    file: TokenFile,
    reader: String,
    writer: String,
    reader_of_d: String,
    writer_of_d: String,
    _folder: tempfile::TempDir,
}

fn grant(read: bool, write: bool, database: Option<&str>) -> Grant {
    Grant { read, write, databases: database.map(|name| [name.to_owned()].into()) }
}

fn create(file: &TokenFile, name: &str, grant: Grant) -> String {
    file.create(&NewToken { name: name.into(), grant }, &SystemClock::default(), &OsRandom).unwrap()
}

async fn guarded_app() -> Guarded {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::new(Arc::new(OsFileSystem), folder.path());
    let [reader, writer, reader_of_d, writer_of_d] = [
        ("reader", grant(true, false, None)),
        ("writer", grant(false, true, None)),
        ("reader-of-d", grant(true, false, Some("d"))),
        ("writer-of-d", grant(false, true, Some("d"))),
    ]
    .map(|(name, grant)| create(&file, name, grant));
    let double = Arc::new(Double::default());
    let app = app(&double, Config { tokens: Some(file.clone()), ..Config::default() });
    app.read_tokens().await.unwrap();
    Guarded { double, app, file, reader, writer, reader_of_d, writer_of_d, _folder: folder }
}

impl Guarded {
    async fn ask(&self, method: &str, uri: &str, body: &str, secret: Option<&str>) -> (u16, Response<()>, Value) {
        let mut request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        if let Some(secret) = secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn send(&self, request: Request<Body>) -> (u16, Response<()>, Value) {
        send_to(guarded(Arc::clone(&self.app)), request).await
    }

    fn reached(&self) -> u64 {
        let Double { begun, queried, upkept, .. } = &*self.double;
        [begun, queried, upkept].iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

const ASKED: &str = r#"{"db":"d","q":"SELECT 1"}"#;
const ELSEWHERE: &str = r#"{"db":"e","q":"SELECT 1"}"#;

/// Address, body, and what a reader, a writer, a reader of `d` and a writer of `d` are answered.
const ROUTES: [(&str, &str, &str, [u16; 4]); 21] = [
    ("POST", "/write?db=d", "m v=1", [403, 204, 403, 204]),
    ("POST", "/write?db=e", "m v=1", [403, 204, 403, 403]),
    ("POST", "/write?db=d&rp=week", "m v=1", [403, 204, 403, 403]),
    ("POST", "/api/v2/write?bucket=d", "m v=1", [403, 204, 403, 204]),
    ("POST", "/api/v2/write?bucket=e/autogen", "m v=1", [403, 204, 403, 403]),
    ("POST", "/api/v3/write_lp?db=d", "m v=1", [403, 204, 403, 204]),
    ("POST", "/api/v3/write_lp?db=e", "m v=1", [403, 204, 403, 403]),
    ("GET", "/api/v3/query_sql?db=d&q=SELECT", "", [200, 403, 200, 403]),
    ("GET", "/api/v3/query_sql?db=e&q=SELECT", "", [200, 403, 403, 403]),
    // Whether it reads or changes, only the database can tell; it gets the grant.
    ("POST", "/api/v3/query_sql", ASKED, [200, 200, 200, 200]),
    ("POST", "/api/v3/query_sql", ELSEWHERE, [200, 200, 403, 403]),
    ("POST", "/api/v1/flush?db=d", "", [403, 200, 403, 200]),
    ("POST", "/api/v1/flush?db=e", "", [403, 200, 403, 403]),
    ("POST", "/api/v1/flush", "", [403, 200, 403, 403]),
    // The double knows no table: 404 is past the guard.
    ("POST", "/api/v1/compact?db=d", "", [403, 404, 403, 404]),
    ("POST", "/api/v1/compact?db=e", "", [403, 404, 403, 403]),
    ("GET", "/api/v1/queries", "", [200, 403, 200, 403]),
    ("DELETE", "/api/v1/queries/query-1", "", [204, 403, 204, 403]),
    ("GET", "/metrics", "", [200, 403, 403, 403]),
    ("GET", "/nothing/here", "", [404, 404, 404, 404]),
    ("PUT", "/write?db=d", "", [405, 405, 405, 405]),
];

#[tokio::test]
async fn each_address_lets_past_whom_it_should_and_nothing_of_the_others_reaches_the_database() {
    let guarded = guarded_app().await;
    let secrets = [&guarded.reader, &guarded.writer, &guarded.reader_of_d, &guarded.writer_of_d];
    for (method, uri, body, expected) in ROUTES {
        let unknown = guarded.reader.replace("weir_", "weir_0");
        let mut wrong = guarded.reader.clone();
        let last = if wrong.ends_with('0') { "1" } else { "0" };
        wrong.replace_range(wrong.len() - 1.., last);
        for secret in [None, Some("nonsense"), Some(&*unknown), Some(&*wrong)] {
            let before = guarded.reached();
            let (status, head, told) = guarded.ask(method, uri, body, secret).await;
            assert_eq!(status, 401, "{method} {uri} {told}");
            assert!(head.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert!(!told.to_string().contains("weir_"), "{told}");
            assert_eq!(guarded.reached(), before, "{method} {uri}");
        }
        for (secret, expected) in secrets.iter().zip(expected) {
            let before = guarded.reached();
            let (status, _, told) = guarded.ask(method, uri, body, Some(secret)).await;
            assert_eq!(status, expected, "{method} {uri} {told}");
            assert!(status != 403 || guarded.reached() == before, "{method} {uri} was refused and done");
        }
    }
    for open in ["/health", "/ready", "/ping"] {
        assert!([200, 204].contains(&guarded.ask("GET", open, "", None).await.0), "{open}");
    }
}

#[tokio::test]
async fn a_caller_in_this_process_and_on_the_socket_needs_no_token() {
    let guarded = guarded_app().await;
    let (status, _, _) = send(&guarded.app, post("/write?db=d", "m v=1")).await;
    assert_eq!(status, 204);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weir.sock");
    let http = Some(([127, 0, 0, 1], 0).into());
    let config = Config { tokens: Some(guarded.file.clone()), socket: Some(socket.clone()), http, ..Config::default() };
    let server = Server::bind(app(&guarded.double, config)).await.unwrap();
    assert!(server.needs_tokens());
    let (address, stop) = (server.address().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(stop.clone()));
    let text = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(talk(address, text).await.starts_with("HTTP/1.1 401"));
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A token that is made while the server runs is known to it without a start, and one that is revoked is not.
    let late = create(&guarded.file, "late", grant(true, true, None));
    let with_late = text.replace("host", &format!("authorization: Token {late}\r\nhost"));
    let until = async |status: &str| {
        while !talk(address, &with_late).await.starts_with(status) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TEST_TIME, until("HTTP/1.1 200")).await.expect("in time");
    guarded.file.revoke("late").unwrap();
    tokio::time::timeout(TEST_TIME, until("HTTP/1.1 401")).await.expect("in time");
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn refusals_are_told_in_the_dialect_of_the_caller() {
    let guarded = guarded_app().await;
    let reader = guarded.reader_of_d.clone();
    let (_, head, body) = guarded.ask("POST", "/write?db=d", "m v=1", None).await;
    assert!(body["error"].as_str().unwrap().starts_with("this server needs a token"), "{body}");
    assert!(head.headers().contains_key("x-influxdb-error"));
    let (_, _, body) = guarded.ask("POST", "/write?db=d", "m v=1", Some(&reader)).await;
    assert_eq!(body["error"], "this token may not write");
    let (_, _, body) = guarded.ask("POST", "/api/v2/write?bucket=d", "m v=1", None).await;
    assert_eq!(body["code"], "unauthorized");
    let (_, _, body) = guarded.ask("POST", "/api/v2/write?bucket=d", "m v=1", Some(&reader)).await;
    assert_eq!((&body["code"], &body["message"]), (&"forbidden".into(), &"this token may not write".into()));
    let (_, _, body) = guarded.ask("POST", "/api/v3/write_lp?db=d", "m v=1", Some(&reader)).await;
    assert_eq!((&body["error"], &body["data"]), (&"this token may not write".into(), &Value::Null));
    let (_, _, body) = guarded.ask("POST", "/api/v3/query_sql", ELSEWHERE, Some(&reader)).await;
    assert_eq!(body["error"]["code"], "forbidden");
    assert_eq!(body["error"]["message"], "this token is not for database 'e'");
    let (_, _, body) = guarded.ask("GET", "/metrics", "", None).await;
    assert_eq!(body["error"]["code"], "unauthorized");
}

#[tokio::test]
async fn a_secret_comes_as_bearer_as_token_as_a_password_and_as_a_parameter_of_v1() {
    use base64::Engine;
    let guarded = guarded_app().await;
    let secret = &guarded.writer;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("anyone:{secret}"));
    for authorization in [format!("Bearer {secret}"), format!("Token {secret}"), format!("Basic {basic}")] {
        let request = Request::post("/write?db=d").header("authorization", &authorization);
        assert_eq!(guarded.send(request.body(Body::from("m v=1")).unwrap()).await.0, 204, "{authorization}");
    }
    for (uri, status) in [
        (format!("/write?db=d&u=anyone&p={secret}"), 204),
        (format!("/write?db=d&u={secret}"), 401),
        (format!("/api/v3/write_lp?db=d&p={secret}"), 401),
    ] {
        let (got, _, told) = guarded.send(post(&uri, "m v=1")).await;
        assert_eq!(got, status, "{told}");
    }
}

#[tokio::test]
async fn the_database_is_told_the_scope_and_the_history_who_asked() {
    let guarded = guarded_app().await;
    let (_, _, body) = guarded.ask("POST", "/api/v3/query_sql", ASKED, Some(&guarded.reader_of_d)).await;
    assert_eq!((&body[0]["databases"], &body[0]["actor"]), (&serde_json::json!(["d"]), &"token reader-of-d".into()));
    let named = Request::post("/api/v3/query_sql")
        .header("authorization", format!("Bearer {}", guarded.writer))
        .header("weir-actor", "ann")
        .header("content-type", "application/json");
    let (_, _, body) = guarded.send(named.body(Body::from(ASKED)).unwrap()).await;
    assert_eq!((&body[0]["databases"], &body[0]["actor"]), (&Value::Null, &"ann (token writer)".into()));
}

#[tokio::test]
async fn queries_of_other_databases_are_neither_seen_nor_stopped() {
    let guarded = guarded_app().await;
    let of_e = create(&guarded.file, "reader-of-e", grant(true, true, Some("e")));
    guarded.app.read_tokens().await.unwrap();
    // The double's one query is of `d`.
    assert_eq!(guarded.ask("GET", "/api/v1/queries", "", Some(&of_e)).await.2, serde_json::json!([]));
    assert_eq!(guarded.ask("DELETE", "/api/v1/queries/query-1", "", Some(&of_e)).await.0, 404);
    let (_, _, listed) = guarded.ask("GET", "/api/v1/queries", "", Some(&guarded.reader_of_d)).await;
    assert_eq!(listed[0]["id"], "query-1");
}

#[tokio::test]
async fn the_list_is_read_again_and_one_that_is_gone_or_damaged_opens_nothing() {
    let guarded = guarded_app().await;
    let status = async |secret: &str| guarded.ask("GET", "/metrics", "", Some(secret)).await.0;
    assert_eq!(status(&guarded.reader).await, 200);
    guarded.file.revoke("reader").unwrap();
    assert_eq!(status(&guarded.reader).await, 200, "the list was not read again yet");
    guarded.app.read_tokens().await.unwrap();
    assert_eq!(status(&guarded.reader).await, 401, "a digest in memory must not outlive its token");
    let late = create(&guarded.file, "late", grant(true, false, None));
    guarded.app.read_tokens().await.unwrap();
    assert_eq!(status(&late).await, 200);
    let write = |text: &[u8]| weir_base::FileSystem::replace(&OsFileSystem, &guarded.file.path(), text).unwrap();
    write(b"{");
    assert!(guarded.app.read_tokens().await.is_err());
    assert_eq!((status(&late).await, status(&guarded.reader).await), (200, 401));
    let (_, _, health) = guarded.ask("GET", "/health", "", None).await;
    assert_eq!(health["status"], "warning", "{health}");
    weir_base::FileSystem::remove_file(&OsFileSystem, &guarded.file.path()).unwrap();
    guarded.app.read_tokens().await.unwrap();
    assert_eq!(guarded.ask("GET", "/metrics", "", None).await.0, 401, "a list that was there is not forgotten");
    assert_eq!(status(&late).await, 200);
}

#[tokio::test]
async fn without_a_list_everybody_may_and_a_damaged_one_lets_nobody_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::new(Arc::new(OsFileSystem), folder.path());
    let double = Arc::new(Double::default());
    let config = || Config { tokens: Some(file.clone()), http: Some(([127, 0, 0, 1], 0).into()), ..Config::default() };
    let app = app(&double, config());
    let get = || Request::get("/metrics").body(Body::empty()).unwrap();
    assert_eq!(send_to(guarded(Arc::clone(&app)), get()).await.0, 503, "the list was not looked at yet");
    app.read_tokens().await.unwrap();
    assert_eq!(send_to(guarded(Arc::clone(&app)), get()).await.0, 200);
    create(&file, "first", grant(true, true, None));
    app.read_tokens().await.unwrap();
    assert_eq!(send_to(guarded(Arc::clone(&app)), get()).await.0, 401, "the first token closes the door");
    weir_base::FileSystem::replace(&OsFileSystem, &file.path(), b"not a list").unwrap();
    let refused = Server::bind(super::app(&double, config())).await.err().expect("refused");
    assert_eq!(refused.kind(), Kind::Damaged);
}
