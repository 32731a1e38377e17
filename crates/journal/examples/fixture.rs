//! Writes the fixture of the current format version into a folder: `cargo run -p weir-journal --example fixture -- DIR`.
//!
//! Each release keeps reading what this wrote when the version was new (`tests/formats.rs`).

use std::path::PathBuf;

use weir_journal::{Codec, Compaction, Durability, Env, Journal, Options, Record, Retention};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: fixture DIR")?);
    let mut number = 0u16;
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd { level: 3 }] {
        let options = Options { codec, frame_raw_bytes_max: 400, ..Options::default() };
        let (journal, _) = Journal::open(Env::system(), &dir, "fixture", options)?;
        for _ in 0..12 {
            let key = format!("key-{}", number % 5);
            let payload = format!("{{\"number\":{number},\"text\":\"{}\"}}", "weir ".repeat(usize::from(number % 9)));
            let record = Record {
                time: 1_700_000_000_000_000_000 + i64::from(number),
                kind: number % 3,
                key: key.as_bytes(),
                payload: payload.as_bytes(),
            };
            journal.append(&[record, record], Durability::Durable)?;
            number += 1;
        }
        journal.rotate()?;
        journal.settle()?;
        if codec == Codec::Lz4 {
            let retention = Retention { records_max: Some(40), ..Retention::default() };
            journal.compact(Compaction { retention, keep: None })?;
        }
        journal.close()?;
    }
    Ok(())
}
