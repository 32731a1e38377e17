//! Bodies that are small on the wire and huge inflated, many at once, against the real server: each is refused, the memory of
//! the server does not follow, and others are served meanwhile.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::{Weir, folder, post_lines};
use serde_json::json;

/// What 50 bombs at once may add to the server's memory.
const GROWTH_BYTES_MAX: u64 = 100 << 20;
const AT_ONCE: usize = 50;
const MIB: usize = 1 << 20;

struct Bomb {
    what: &'static str,
    encoding: &'static str,
    body: Vec<u8>,
}

/// `bytes` of `piece` over and over, given to `write` a MiB at a time.
fn repeat(piece: &[u8], bytes: usize, mut write: impl FnMut(&[u8])) {
    let block = piece.repeat(MIB / piece.len() + 1);
    for _ in 0..bytes / MIB {
        write(&block[..MIB]);
    }
}

fn gzip(piece: &[u8], bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    repeat(piece, bytes, |block| encoder.write_all(block).unwrap());
    encoder.finish().unwrap()
}

fn zstd(piece: &[u8], bytes: usize) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    repeat(piece, bytes, |block| encoder.write_all(block).unwrap());
    encoder.finish().unwrap()
}

fn bombs() -> Vec<Bomb> {
    // A piece whose length divides a MiB, so that the lines are whole.
    let line = b"cpu,host=a v=1i 1700000000000000\n".as_slice();
    let member = gzip(line, 4 * MIB);
    let bomb = |what, encoding, body| Bomb { what, encoding, body };
    vec![
        bomb("700 MB of zeros", "gzip", gzip(&[0], 700 * MIB)),
        bomb("256 MiB of lines", "gzip", gzip(line, 256 * MIB)),
        bomb("256 MiB of lines in 64 members", "gzip", member.repeat(64)),
        bomb("700 MB of zeros", "zstd", zstd(&[0], 700 * MIB)),
        bomb("256 MiB of lines", "zstd", zstd(line, 256 * MIB)),
    ]
}

/// S1: every bomb is answered 413 or 429, nothing of it is kept, memory stays where it was, and another client's writes go on.
#[test]
fn bombs_at_once_are_refused_and_others_are_served() {
    let folder = folder();
    let server = Weir::start(&folder.path().join("data"));
    // Whatever a server allocates once, for its threads and their buffers.
    let lines: String = (0..100_000).map(|row| format!("good,host=a v={row}i {row}\n")).collect();
    server.write_all("d", &lines);
    let before = server.peak_bytes();
    let (mut row, mut served) = (100_000, 0);
    for Bomb { what, encoding, body } in bombs() {
        let (answered, headers) = (AtomicUsize::new(0), format!("Content-Encoding: {encoding}\r\n"));
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let answer = server.connect().send("POST", "/api/v3/write_lp?db=bomb", &headers, &body).unwrap();
                    answered.fetch_add(1, Ordering::AcqRel);
                    assert!(
                        [413, 429].contains(&answer.status),
                        "{what}, {encoding}: {} {}",
                        answer.status,
                        answer.text()
                    );
                    assert!(answer.status == 413 || answer.retry_after_seconds.is_some(), "{}", answer.text());
                });
            }
            let mut other = server.connect();
            while answered.load(Ordering::Acquire) < AT_ONCE {
                let answer = post_lines(&mut other, "d", &format!("good,host=a v={row}i {row}\n")).unwrap();
                assert_eq!(answer.status, 204, "{what}, {encoding}: another client: {}", answer.text());
                assert_eq!(other.get("/ping").unwrap().status, 204);
                row += 1;
                if answered.load(Ordering::Acquire) < AT_ONCE {
                    served += 1;
                }
            }
        });
        let grown = server.peak_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{what}, {encoding}: {} MiB more", grown >> 20);
    }
    // Bombs that their ratio gives away are refused before another request is through; those of valid lines take longer.
    assert!(served > 0, "nobody else was served while they ran");
    assert_eq!(server.sql("d", "select count(*) as n from good"), [json!({ "n": row })]);
    let body = json!({ "db": "bomb", "q": "select * from cpu" }).to_string();
    let headers = "Content-Type: application/json\r\n";
    let answer = server.connect().send("POST", "/api/v3/query_sql", headers, body.as_bytes()).unwrap();
    assert_eq!(answer.status, 404, "something of a bomb was kept: {}", answer.text());
    assert!(server.metric("weir_buffer_bytes") < (64 << 20) as f64);
    server.stop();
}
