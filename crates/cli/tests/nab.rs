//! The real data set goes in by each way there is, and the answers are always the same.

#![allow(clippy::disallowed_methods, reason = "the file to load is a real one")]

mod harness;

use std::thread;

use harness::{Dice, Weir, by_client, check_nab, folder, nab, post_lines, run_well, sql_on_folder, weir};

/// E3: loading twice and starting again change no answer.
#[test]
fn through_the_command_line_twice_and_after_a_start() {
    let folder = folder();
    let data = folder.path().join("data");
    let file = folder.path().join("nab.lp");
    std::fs::write(&file, nab().join("\n")).unwrap();
    for _ in 0..2 {
        let mut write = weir();
        write.args(["write", "--db", "nab", "--data"]).arg(&data).arg(&file);
        run_well(&mut write, b"");
        check_nab(|statement| sql_on_folder(&data, "nab", statement));
    }
    let server = Weir::start(&data);
    check_nab(|statement| server.sql("nab", statement));
    server.stop();
    check_nab(|statement| sql_on_folder(&data, "nab", statement));
}

/// E2, E3: four clients at once, in batches of any size; flush, compaction and a start change no answer.
#[test]
fn through_four_clients_in_random_batches() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = Weir::start(&data);
    for _ in 0..2 {
        thread::scope(|scope| {
            for (client, lines) in by_client(nab(), 4).into_iter().enumerate() {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = server.connect();
                    let mut dice = Dice(client as u64);
                    let mut rest = lines.as_slice();
                    while !rest.is_empty() {
                        let (batch, after) = rest.split_at(rest.len().min(1 + dice.below(5_000) as usize));
                        let answer = post_lines(&mut connection, "nab", &batch.join("\n")).unwrap();
                        assert_eq!(answer.status, 204, "{}", answer.text());
                        rest = after;
                    }
                });
            }
        });
        check_nab(|statement| server.sql("nab", statement));
    }
    server.flush();
    check_nab(|statement| server.sql("nab", statement));
    for (table, _) in harness::NAB_ROWS {
        server.compact("nab", table);
    }
    check_nab(|statement| server.sql("nab", statement));
    server.stop();
    let server = Weir::start(&data);
    check_nab(|statement| server.sql("nab", statement));
    let found = harness::compare_with_readers(
        &server,
        &harness::tables_folder(&data, "nab"),
        "nab",
        &harness::NAB_ROWS.map(|(table, _)| table),
    );
    for (table, rows) in harness::NAB_ROWS {
        for reader in ["deltalake", "polars", "duckdb"] {
            assert_eq!(found[table][reader], rows, "{table} by {reader}");
        }
    }
}
