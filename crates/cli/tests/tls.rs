//! TLS against the real binary, with an authority of the test's own.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use harness::{folder, run, weir};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use weir_bench::process::{Server, free_address};

const PATIENCE: Duration = Duration::from_secs(60);

/// An authority, and a certificate of it for this machine and one for another.
struct Files {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    elsewhere: PathBuf,
    elsewhere_key: PathBuf,
}

fn files(folder: &Path) -> Files {
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let ca = save("ca.pem", authority.self_signed(&authority_key).unwrap().pem());
    let issuer = Issuer::new(authority, authority_key);
    let issue = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let ((here, here_key), (elsewhere, elsewhere_key)) = (issue(&["localhost", "127.0.0.1"]), issue(&["db.example"]));
    Files {
        ca,
        cert: save("cert.pem", here),
        key: save("key.pem", here_key),
        elsewhere: save("elsewhere.pem", elsewhere),
        elsewhere_key: save("elsewhere-key.pem", elsewhere_key),
    }
}

fn serve(data: &Path, address: SocketAddr, cert: &Path, key: &Path) -> Server {
    let mut command = weir();
    command.arg("serve").arg("--data").arg(data).arg("--http").arg(address.to_string());
    command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    let log = data.with_extension("log");
    let mut server = Server::start(command, &log).unwrap();
    // It listens before it says so, to the log first and then to people.
    let announced = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("https://{address}")));
    if let Err(error) = server.wait_until(PATIENCE, || TcpStream::connect(address).is_ok() && announced()) {
        panic!("{error}\n{}", std::fs::read_to_string(&log).unwrap());
    }
    server
}

fn sql(url: &str, ca: Option<&Path>, environment: &[(&str, &Path)]) -> Output {
    let mut command = weir();
    command.args(["sql", "--format", "csv", "--server", url, "select 1 as one"]);
    if let Some(ca) = ca {
        command.arg("--ca").arg(ca);
    }
    for (name, value) in environment {
        command.env(name, value);
    }
    run(&mut command, b"")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_speaks_tls_and_a_client_talks_only_to_whom_it_trusts() {
    let folder = folder();
    let (data, files) = (folder.path().join("data"), files(folder.path()));
    let address = free_address().unwrap();
    let server = serve(&data, address, &files.cert, &files.key);
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}", address.port());
        assert!(host == "localhost" || log.contains(&url), "{log}");
        for output in [sql(&url, Some(&files.ca), &[]), sql(&url, None, &[("SSL_CERT_FILE", &files.ca)])] {
            assert_eq!(output.status.code(), Some(0), "{url} {}", stderr(&output));
            assert_eq!(String::from_utf8_lossy(&output.stdout), "one\n1\n");
        }
    }
    let url = format!("https://{address}");
    // A certificate that another authority, here itself, vouches for.
    let output = sql(&url, Some(&files.elsewhere), &[]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).contains("certificate"), "{}", stderr(&output));
    let output = sql(&url, Some(&files.key), &[]);
    assert!(stderr(&output).contains("holds no certificate"), "{}", stderr(&output));
    let output = sql(&format!("http://{address}"), None, &[]);
    assert_eq!(output.status.code(), Some(6), "in clear nothing is answered: {}", stderr(&output));
    let mut doctor = weir();
    let output = run(doctor.args(["doctor", "--server", &url, "--ca"]).arg(&files.ca), b"");
    assert!(String::from_utf8_lossy(&output.stdout).contains("answers, version"), "{}", stderr(&output));
    assert!(server.stop(PATIENCE).unwrap());
    let server = serve(&data, address, &files.elsewhere, &files.elsewhere_key);
    let output = sql(&url, Some(&files.ca), &[]);
    assert_eq!(output.status.code(), Some(6), "a certificate for another name is refused: {}", stderr(&output));
    assert!(server.stop(PATIENCE).unwrap());
}

#[test]
fn files_that_are_missing_or_wrong_end_the_start_and_are_named() {
    let folder = folder();
    let (data, files) = (folder.path().join("data"), files(folder.path()));
    let missing = folder.path().join("missing.pem");
    for (cert, key, code, word) in [
        (&missing, &files.key, 3, "missing.pem"),
        (&files.cert, &missing, 3, "missing.pem"),
        (&files.key, &files.key, 2, "holds no certificate"),
        (&files.cert, &files.cert, 2, "holds no private key"),
        (&files.cert, &files.elsewhere_key, 2, "do not fit"),
    ] {
        let mut command = weir();
        command.args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(&data);
        let output = run(command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key), b"");
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(word) && !stderr(&output).contains("PRIVATE KEY"), "{}", stderr(&output));
    }
    let mut command = weir();
    let output = run(command.args(["serve", "--data"]).arg(&data).arg("--tls-cert").arg(&files.cert), b"");
    assert_eq!(output.status.code(), Some(2), "half of TLS is none: {}", stderr(&output));
}

/// S2: a peer that says nothing loses its connection, and with it its place.
#[test]
fn s2_a_handshake_that_does_not_come_is_cut_and_its_place_comes_back() {
    let folder = folder();
    let (data, files) = (folder.path().join("data"), files(folder.path()));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("weir.toml"), "[limits]\nconnections_max = 1\ntls_handshake_timeout_s = 1\n").unwrap();
    let address = free_address().unwrap();
    let server = serve(&data, address, &files.cert, &files.key);
    for _ in 0..2 {
        let mut silent = TcpStream::connect(address).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = Vec::new();
        silent.read_to_end(&mut told).unwrap();
        assert!(told.is_empty(), "nothing is said in clear");
    }
    let url = format!("https://{address}");
    let start = std::time::Instant::now();
    while sql(&url, Some(&files.ca), &[]).status.code() != Some(0) {
        assert!(start.elapsed() < PATIENCE, "the place never came back");
    }
    assert!(server.stop(PATIENCE).unwrap());
}
