//! Line protocol: nothing panics, columns hang together, and how a body is cut into chunks never shows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_engine::lp::{Options, Parsed, Parser, Schemas};
use weir_engine::schema::SchemaRef;
use weir_engine::series;

struct Empty;

impl Schemas for Empty {
    fn schema(&self, _: &str) -> Option<SchemaRef> {
        None
    }
}

fn parse<'a>(chunks: impl Iterator<Item = &'a [u8]>, line_bytes_max: usize) -> Parsed {
    let mut options = Options::new(7, 1);
    options.line_bytes_max = line_bytes_max;
    options.columns_max = 20;
    options.name_bytes_max = 30;
    let mut parser = Parser::new(Box::new(Empty), options);
    for chunk in chunks {
        parser.feed(chunk).expect("a small body fits");
    }
    parser.finish().expect("a small body fits")
}

fn check(parsed: &Parsed) {
    assert_eq!(parsed.rows, parsed.tables.iter().map(|table| table.rows.len()).sum::<usize>());
    for table in &parsed.tables {
        let rows = &table.rows;
        assert_eq!(rows.series.len(), rows.len());
        assert!(rows.series.iter().all(|&series| (series as usize) < rows.keys.len()));
        for key in rows.keys.iter() {
            series::decode(key).expect("keys are canonical");
        }
        for field in &rows.fields {
            assert_eq!(field.values.len(), rows.len());
            assert!((0..rows.len()).any(|row| field.has(row)));
        }
    }
}

// The first two bytes choose the length of chunks and of lines.
fuzz_target!(|data: &[u8]| {
    let [size, line, body @ ..] = data else { return };
    let line_bytes_max = usize::from(*line) * 4 + 1;
    let whole = parse(std::iter::once(body), line_bytes_max);
    check(&whole);
    assert_eq!(parse(body.chunks(usize::from(*size) + 1), line_bytes_max), whole);
});
