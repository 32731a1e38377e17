//! Bad input against the real server: each is refused with a status and words that say what is wrong, nothing of it
//! is written that should not be, and the next good request is served.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::io::Write;

use harness::{Weir, folder};
use serde_json::json;

/// One request and what it must come to.
struct Case {
    what: &'static str,
    uri: &'static str,
    headers: &'static str,
    body: Vec<u8>,
    status: u16,
    says: &'static str,
    /// Rows of table `good` that it leaves behind.
    kept: u64,
}

impl Case {
    fn new(what: &'static str, body: impl Into<Vec<u8>>, status: u16, says: &'static str) -> Self {
        Self { what, uri: "/api/v3/write_lp?db=d", headers: "", body: body.into(), status, says, kept: 0 }
    }

    fn at(self, uri: &'static str) -> Self {
        Self { uri, ..self }
    }

    fn gzipped(self) -> Self {
        Self { headers: "Content-Encoding: gzip\r\n", ..self }
    }

    fn keeps(self, kept: u64) -> Self {
        Self { kept, ..self }
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Bodies of which the good lines are kept.
fn bad_lines() -> Vec<Case> {
    let huge = format!("good v=1 1\nm s=\"{}\" 1\ngood v=1 2\n", "x".repeat(8 << 20));
    let fields: Vec<String> = (0..100_000).map(|index| format!("f{index}=1")).collect();
    let wide = format!("good v=1 1\nwide {} 1\n", fields.join(","));
    vec![
        Case::new("bytes that are no UTF-8", *b"good v=1 1\nm,k=\xff\xfe v=1 1\ngood v=1 2\n", 400, "UTF-8").keeps(2),
        Case::new("no fields", "good v=1 1\nm,k=a 1\n", 400, "field").keeps(1),
        Case::new("a huge line", huge, 400, "line").keeps(2),
        Case::new("100,000 columns", wide, 400, "columns").keeps(1),
        Case::new("a tag twice", "good v=1 1\nm,k=a,k=b v=1 1\n", 400, "k").keeps(1),
        Case::new("a field of another type", "good v=1 1\ngood v=\"text\" 2\n", 400, "v").keeps(1),
        Case::new("a reserved name", "good v=1 1\nm weir_ns=1 1\n", 400, "weir_").keeps(1),
        Case::new("a time beyond all years", "good v=1 1\nm v=1 99999999999999999999\n", 400, "time").keeps(1),
        Case::new("a time that overflows in its unit", "m v=1 9223372036854775807\n", 400, "time")
            .at("/api/v3/write_lp?db=d&precision=second"),
    ]
}

/// Requests of which nothing is kept.
fn bad_requests() -> Vec<Case> {
    let text = b"good v=1 1\n".repeat(10_000);
    let zipped = gzip(&text);
    let line = "good v=1 1\n";
    vec![
        Case::new("a wrong precision", line, 400, "precision").at("/api/v3/write_lp?db=d&precision=fortnight"),
        Case::new("the other dialect's precision", line, 400, "precision").at("/write?db=d&precision=second"),
        Case::new("no database", line, 400, "db").at("/write"),
        Case::new("characters that no database name has", line, 400, "name").at("/write?db=a%3Ab"),
        Case::new("a NUL in a name", line, 400, "name").at("/write?db=a%00b"),
        Case::new("a way up", line, 400, "name").at("/write?db=..%2F..%2Fetc"),
        Case::new("the folder itself", line, 400, "name").at("/write?db=."),
        Case::new("a policy with a way up", line, 400, "name").at("/write?db=d&rp=..%2Fx"),
        Case::new("gzip that is cut", &zipped[..zipped.len() / 2], 400, "nothing of it was written").gzipped(),
        Case::new("gzip without its end", &zipped[..zipped.len() - 4], 400, "nothing of it was written").gzipped(),
        Case::new("text that says it is gzip", text.clone(), 400, "nothing of it was written").gzipped(),
        Case::new("a body over the limit", vec![b'\n'; (16 << 20) + 1], 413, "body_bytes_max"),
        Case::new("a body over the limit when inflated", gzip(&varied(32 << 20)), 413, "text_bytes_max").gzipped(),
        Case::new("a bomb", gzip(&vec![b'\n'; 64 << 20]), 413, "ratio_max").gzipped(),
    ]
}

/// Text that gzip makes a quarter of, not a hundredth.
fn varied(bytes: usize) -> Vec<u8> {
    let mut dice = harness::Dice(1);
    let mut text = Vec::with_capacity(bytes);
    while text.len() < bytes {
        writeln!(text, "m v={} {}", dice.below(10), text.len()).unwrap();
    }
    text
}

/// S1, E4: every kind of bad input has its answer, and the server goes on.
#[test]
fn each_kind_of_bad_input_is_refused_in_words_and_the_rest_is_kept() {
    let folder = folder();
    let data = folder.path().join("data");
    let config = folder.path().join("small.toml");
    std::fs::write(&config, "[limits]\nbody_bytes_max = \"16 MiB\"\ntext_bytes_max = \"24 MiB\"\n").unwrap();
    let arguments = ["--config".as_ref(), config.as_os_str()];
    let server = Weir::start_with(&data, weir_bench::process::free_address().unwrap(), &arguments);
    for (number, case) in bad_lines().into_iter().chain(bad_requests()).enumerate() {
        let database = format!("d{number}");
        let uri = case.uri.replace("db=d&", &format!("db={database}&"));
        let uri = if uri.ends_with("db=d") { format!("{uri}{number}") } else { uri };
        let answer = server.connect().send("POST", &uri, case.headers, &case.body).unwrap();
        assert_eq!(answer.status, case.status, "{}: {}", case.what, answer.text());
        assert!(answer.text().contains(case.says), "{}: {}", case.what, answer.text());
        if case.kept > 0 {
            let rows = server.sql(&database, "select count(*) as n from good");
            assert_eq!(rows, [json!({ "n": case.kept })], "{}", case.what);
        } else {
            let body = json!({ "db": database, "q": "select * from good" }).to_string();
            let headers = "Content-Type: application/json\r\n";
            let answer = server.connect().send("POST", "/api/v3/query_sql", headers, body.as_bytes()).unwrap();
            assert_eq!(answer.status, 404, "{}: {}", case.what, answer.text());
        }
        server.write_all("next", &format!("good v={number} {number}\n"));
    }
    let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 3, "something was written beside the data: {beside:?}");
    server.stop();
}
