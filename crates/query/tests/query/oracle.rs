//! Any spread of rows over files and runs gives the answers of the merged rows in one file.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use crate::world::{Fields, Key, Rows, World, schema};

const QUERIES: [&str; 14] = [
    "SELECT count(*) FROM m",
    "SELECT time, host, rack, v, s FROM m ORDER BY time, host NULLS FIRST, rack NULLS FIRST",
    "SELECT count(v), sum(v), min(v), max(v), count(s) FROM m",
    "SELECT count(*), sum(v) FROM m WHERE v > 5",
    "SELECT count(*) FROM m WHERE s IS NULL",
    "SELECT host, count(*), max(v) FROM m GROUP BY host ORDER BY host NULLS FIRST",
    "SELECT min(time), max(time) FROM m WHERE host = 'b'",
    "SELECT time, v FROM m WHERE host = 'a' AND rack IS NULL ORDER BY time DESC LIMIT 3",
    "SELECT time, host, rack FROM m ORDER BY time DESC, host NULLS FIRST, rack NULLS FIRST LIMIT 4",
    "SELECT v, host, rack, time FROM m WHERE v IS NOT NULL ORDER BY v DESC, time, host NULLS FIRST, rack NULLS FIRST LIMIT 5",
    "SELECT count(*) FROM m WHERE time >= to_timestamp_nanos(2000) AND time < to_timestamp_nanos(9000)",
    "SELECT count(*), sum(v) FROM m WHERE time > to_timestamp_nanos(3001) AND (v < 4 OR s = 'x')",
    "SELECT count(*) FROM (SELECT * FROM m LIMIT 7)",
    "SELECT l.time, count(*) FROM m l JOIN m r ON l.time = r.time WHERE r.v = 3 GROUP BY l.time ORDER BY l.time",
];

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

fn key() -> impl Strategy<Value = Key> {
    let tag = |letters: &'static str| proptest::option::of(letters);
    let time = prop_oneof![(0i64..14).prop_map(|time| time * 1000), 2998i64..3003];
    (tag("[ab]"), tag("[r]"), time).prop_map(|(host, rack, time)| (vec![host, rack], time))
}

fn fields() -> impl Strategy<Value = Fields> {
    let number = proptest::option::of((0i64..10).prop_map(|number| number.to_string()));
    let text = proptest::option::of("[xy]");
    (number, text).prop_map(|(number, text)| vec![number, text])
}

fn part() -> impl Strategy<Value = Rows> {
    proptest::collection::btree_map(key(), fields(), 1..20)
}

/// Parts that lie apart in time, so that plain and clipped reading is reached too.
fn parts() -> impl Strategy<Value = Vec<(Rows, bool)>> {
    let shift = prop_oneof![Just(0i64), Just(10_000), Just(50_000)];
    let moved = (part(), shift, any::<bool>()).prop_map(|(rows, shift, run)| {
        (rows.into_iter().map(|((tags, time), fields)| ((tags, time + shift), fields)).collect(), run)
    });
    proptest::collection::vec(moved, 1..6)
}

fn merged(parts: &[Rows]) -> Rows {
    let mut all = Rows::new();
    for (key, fields) in parts.iter().flatten() {
        let row = all.entry(key.clone()).or_insert_with(|| vec![None; fields.len()]);
        for (old, new) in row.iter_mut().zip(fields) {
            *old = new.clone().or(old.take());
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// E3: flush, compaction and restart change files, never answers.
    #[test]
    fn the_spread_of_rows_changes_no_answer(parts in parts()) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let world = world();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (spread, one) = (format!("spread{number}"), format!("one{number}"));
        let schema = schema("host:tag; v:integer; s:string; rack:tag");
        world.create(&spread, "m", &schema);
        world.create(&one, "m", &schema);
        let (files, runs): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| !part.1);
        let files: Vec<Rows> = files.into_iter().map(|part| part.0).collect();
        let runs: Vec<Rows> = runs.into_iter().map(|part| part.0).collect();
        for file in &files {
            world.file(&spread, "m", file, 4);
        }
        for run in &runs {
            world.run(&spread, "m", run);
        }
        world.file(&one, "m", &merged(&[files, runs].concat()), 4);
        for sql in QUERIES {
            let (expected, found) = (world.ask(&one, sql).unwrap(), world.ask(&spread, sql).unwrap());
            prop_assert_eq!(found, expected, "{}\n{}", sql, world.ask(&spread, &format!("EXPLAIN {sql}")).unwrap());
        }
    }
}
