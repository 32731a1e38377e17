//! Limits of time that only a real server with its connections, its stop and its store reaches.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use harness::{Weir, folder, post_lines, run, weir};
use serde_json::json;
use weir_bench::process::free_address;
use weir_sim::{ObjectServer, Protocol, Proxy, ProxyFault, SilentAddress};

/// A server with settings of its own.
fn start(folder: &Path, settings: &str) -> Weir {
    let config = folder.join("weir.toml");
    std::fs::write(&config, settings).unwrap();
    let arguments = ["--config".as_ref(), config.as_os_str()];
    Weir::start_with(&folder.join("data"), free_address().unwrap(), &arguments)
}

/// Settings of a store behind a proxy: nothing but the limit in question ends a call to it.
fn on_store(objects: &ObjectServer, proxy: SocketAddr, server: &str, engine: &str) -> String {
    let options = objects.options_through(proxy).into_iter();
    let options: String = options.map(|(name, value)| format!("{name} = \"{value}\"\n")).collect();
    format!(
        "[server]\nown_metrics_every_s = 86400\n{server}\n[engine]\nstore = \"{}/tables\"\n\
         store_request_timeout_ms = 3_600_000\nstore_transfer_timeout_ms = 3_600_000\n{engine}\n[store]\n{options}",
        objects.location
    )
}

/// S2: a body that never pauses for long, and never ends, is cut. Nothing else would end it in the time of this test.
#[test]
fn a_body_that_drips_is_cut_as_a_whole() {
    let folder = folder();
    let server =
        start(folder.path(), "[limits]\nbody_timeout_s = 1\nbody_idle_timeout_s = 3600\nheader_timeout_s = 3600\n");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let head = "POST /api/v3/write_lp?db=d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut dripping = stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        while dripping.write_all(b"t v=1i 1\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408");
    // The server hangs up, which ends the drip.
    drip.join().unwrap();
    assert_eq!(server.metric("weir_write_rows_total"), 0.0, "half a body was written");
    server.stop();
}

/// S2, E1: a stop does not wait for a store that hangs; what is not flushed is there after the next start.
#[test]
fn a_stop_gives_up_on_a_store_that_hangs_and_loses_nothing() {
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::S3));
    let proxy = Proxy::start(objects.address);
    let settings = on_store(&objects, proxy.address(), "close_timeout_s = 1", "");
    let server = start(folder.path(), &settings);
    server.write_all("d", "t v=1i 1\n");
    server.flush();
    proxy.set(ProxyFault::Hang);
    server.write_all("d", "t v=2i 2\n");
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(6), "{log}");
    assert!(log.contains("not everything was flushed before the deadline"), "{log}");
    proxy.set(ProxyFault::None);
    let server = start(folder.path(), &settings);
    assert_eq!(server.sql("d", "select sum(v) as s from t"), [json!({ "s": 3 })]);
    server.stop();
}

/// S1, S2: while one write waits for the store with its new column, the next that has one is refused after a while.
#[test]
fn a_new_column_waits_only_so_long_for_another() {
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::S3));
    let proxy = Proxy::start(objects.address);
    let server = start(folder.path(), &on_store(&objects, proxy.address(), "", "schema_wait_ms = 200"));
    server.write_all("d", "t v=1i 1\n");
    proxy.set(ProxyFault::Hang);
    thread::scope(|scope| {
        let (answers, answered) = mpsc::channel();
        for column in ["a", "b"] {
            let (server, answers) = (&server, answers.clone());
            scope.spawn(move || {
                let line = format!("t {column}=1i 2\n");
                answers.send(post_lines(&mut server.connect(), "d", &line).unwrap()).unwrap();
            });
        }
        // The one that has the turn hangs as long as the store does: the first answer is the other's.
        let first = answered.recv().unwrap();
        assert_eq!((first.status, first.retry_after_seconds), (503, Some(1)), "{}", first.text());
        assert!(first.text().contains("schema_wait_ms"), "{}", first.text());
        assert_eq!(server.write("d", "t v=3i 3\n").status, 204, "rows without a new column go on");
        proxy.set(ProxyFault::None);
        let second = answered.recv().unwrap();
        assert_eq!(second.status, 204, "{}", second.text());
    });
    assert_eq!(server.sql("d", "select count(*) as n from t"), [json!({ "n": 3 })]);
    server.stop();
}

/// S2: a store that is silent when asked to connect. Nothing but this limit ends the start in the time of this test.
#[test]
fn a_store_that_is_silent_when_asked_to_connect_is_given_up() {
    let (folder, silent) = (folder(), SilentAddress::open());
    let config = folder.path().join("weir.toml");
    let settings = format!(
        "[engine]\nstore = \"s3://bucket/tables\"\nstore_connect_timeout_ms = 200\nstore_request_timeout_ms = 3_600_000\n\
         store_transfer_timeout_ms = 3_600_000\nstore_tries = 2\n[store]\naws_endpoint_url = \"http://{}\"\n\
         aws_allow_http = \"true\"\naws_region = \"us-east-1\"\naws_access_key_id = \"x\"\naws_secret_access_key = \"x\"\n",
        silent.address()
    );
    std::fs::write(&config, settings).unwrap();
    let mut command = weir();
    command.args(["serve", "--http", "127.0.0.1:0", "--config"]).arg(&config).arg("--data");
    let ended = run(command.arg(folder.path().join("data")), b"");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(6), "{told}");
    assert!(told.contains("cannot be probed"), "{told}");
}
