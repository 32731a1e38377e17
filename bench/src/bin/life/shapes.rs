//! Tables of unusual shapes: written, put into files, merged, asked, and read back after a restart.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use weir_bench::http::Connection;
use weir_bench::life::{Shape, ShapeResults};
use weir_bench::report;
use weir_bench::target::{Target, sql};
use weir_bench::tsbs::START_SECONDS;

use super::{ANSWER_WITHIN, Run, compact, flush, send, stop, stored, timed};

const CONNECTIONS: usize = 4;
const STEP_SECONDS: u64 = 10;

/// How much of each shape.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Only shapes whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
    /// A hundredth of everything, to try it out.
    #[arg(long)]
    small: bool,
}

/// How a shape is written and asked.
struct Plan {
    name: &'static str,
    bodies: u64,
    rows_per_body: u64,
    values_per_row: u64,
    /// Fills in the lines of a body, by its number.
    write: fn(u64, &Plan, &mut Vec<u8>),
    /// Tables; of one alone the name is `t`.
    tables: u64,
    /// What is asked, and what the answer's first cell is.
    questions: Vec<(&'static str, String, u64)>,
}

pub(super) fn run(run: &Run<'_>, options: &Options) -> anyhow::Result<ShapeResults> {
    let part = if options.small { 100 } else { 1 };
    let mut shapes = Vec::new();
    for plan in [tables(part), wide(part), series(part), sparse(part), logs(part)] {
        if plan.name.contains(&options.only) {
            shapes.push(one(run, &plan).with_context(|| plan.name)?);
            eprintln!("{:?}", shapes.last());
        }
    }
    Ok(ShapeResults { command: report::command("life"), machine: report::machine(), shapes })
}

fn one(run: &Run<'_>, plan: &Plan) -> anyhow::Result<Shape> {
    let place = run.place(&plan.name.replace(' ', "-"), "")?;
    let (server, address, _) = place.start(Target::Weir)?;
    let next = AtomicU64::new(0);
    let begun = std::time::Instant::now();
    let written = send(address, CONNECTIONS, |body| {
        let number = next.fetch_add(1, Ordering::AcqRel);
        body.clear();
        if number < plan.bodies {
            (plan.write)(number, plan, body);
        }
        number < plan.bodies
    })?;
    flush(address)?;
    let in_files_s = begun.elapsed().as_secs_f64();
    let peak_memory_bytes = server.usage()?.peak_bytes;
    let mut connection = Connection::open(address, ANSWER_WITHIN)?;
    let rows = plan.bodies * plan.rows_per_body;
    check(address, plan, rows)?;
    let before = stored(&mut connection)?;
    server.forget_peak()?;
    let compact_s = compact(address)?;
    let after = stored(&mut connection)?;
    check(address, plan, rows)?;
    let mut asked = Vec::new();
    for (what, question, wanted) in &plan.questions {
        let mut times = Vec::new();
        for _ in 0..run.rounds {
            let (answer, ms) = timed(&mut connection, question)?;
            times.push(ms);
            let told = answer[0].as_object().and_then(|row| row.values().next()?.as_u64());
            ensure!(told == Some(*wanted), "{what}: {told:?} instead of {wanted}");
        }
        asked.push(((*what).to_owned(), report::median(&times)));
    }
    let peak_memory_later_bytes = server.usage()?.peak_bytes;
    stop(server)?;
    let (server, address, restart) = place.start(Target::Weir)?;
    check(address, plan, rows)?;
    stop(server)?;
    std::fs::remove_dir_all(&place.folder)?;
    Ok(Shape {
        name: plan.name.to_owned(),
        rows,
        values: rows * plan.values_per_row,
        written_s: written.as_secs_f64(),
        in_files_s,
        peak_memory_bytes,
        files: before.files,
        file_bytes: before.bytes,
        compact_s,
        files_compacted: after.files,
        file_bytes_compacted: after.bytes,
        peak_memory_later_bytes,
        restart_ms: restart.as_secs_f64() * 1e3,
        asked,
    })
}

/// Counts the rows: of all tables by their state, and of one by asking.
fn check(address: SocketAddr, plan: &Plan, rows: u64) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, ANSWER_WITHIN)?;
    let states = sql(&mut connection, "SHOW TABLE STATUS")?;
    ensure!(states.len() as u64 == plan.tables, "{} tables instead of {}", states.len(), plan.tables);
    let held: u64 = states.iter().filter_map(|table| table["rows"].as_u64()).sum();
    ensure!(held == rows, "{held} rows instead of {rows}");
    let name = states[states.len() / 2]["table"].as_str().context("a table has a name")?;
    let counted = sql(&mut connection, &format!("SELECT count(time) AS n FROM \"{name}\""))?;
    ensure!(counted[0]["n"].as_u64() == Some(rows / plan.tables), "{name} has {} rows", counted[0]["n"]);
    Ok(())
}

fn time(step: u64) -> u64 {
    (START_SECONDS + step * STEP_SECONDS) * 1_000_000_000
}

/// A number that looks random and is always the same.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn line(body: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("memory takes everything");
}

/// Ten thousand measurements of ten hosts each; a body is a step of a tenth of them.
fn tables(part: u64) -> Plan {
    let tables = 10_000 / part;
    Plan {
        name: "10,000 tables",
        bodies: 100,
        rows_per_body: tables,
        values_per_row: 2,
        write: |number, plan, body| {
            let (step, tenth) = (number / 10, number % 10);
            for table in (tenth..plan.tables).step_by(10) {
                for host in 0..10 {
                    let value = mixed(number * 1_000_003 + table * 17 + host) % 100;
                    let time = time(step);
                    line(body, format_args!("m{table:05},host=h{host} a={value}i,b={value}.5 {time}\n"));
                }
            }
        },
        tables,
        questions: vec![
            ("a table's rows of a host", "SELECT count(*) AS n FROM m00042 WHERE host = 'h3'".to_owned(), 10),
            (
                "names of all tables",
                "SELECT count(*) AS n FROM information_schema.tables WHERE table_name LIKE 'm%'".to_owned(),
                tables,
            ),
        ],
    }
}

fn wide(part: u64) -> Plan {
    let steps = 2_000 / part;
    Plan {
        name: "1,000 fields",
        bodies: steps,
        rows_per_body: 10,
        values_per_row: 1_000,
        write: |step, _, body| {
            for host in 0..10 {
                line(body, format_args!("t,host=h{host} "));
                for field in 0..1_000 {
                    let comma = if field > 0 { "," } else { "" };
                    let value = mixed((step / 8) * 10_007 + host * 1_009 + field) % 1_000;
                    line(body, format_args!("{comma}f{field:03}={value}.25"));
                }
                line(body, format_args!(" {}\n", time(step)));
            }
        },
        tables: 1,
        questions: vec![
            ("one field of all rows", "SELECT count(f500) AS n FROM t WHERE f500 >= 0".to_owned(), steps * 10),
            (
                "all fields of a host's newest row",
                "SELECT count(*) AS n FROM (SELECT * FROM t WHERE host = 'h3' ORDER BY time DESC LIMIT 1)".to_owned(),
                1,
            ),
        ],
    }
}

fn series(part: u64) -> Plan {
    let count = 1_000_000 / part;
    Plan {
        name: "1,000,000 series",
        bodies: 3 * count / 10_000,
        rows_per_body: 10_000,
        values_per_row: 2,
        write: |number, plan, body| {
            let bodies_per_step = plan.bodies / 3;
            let (step, first) = (number / bodies_per_step, number % bodies_per_step * 10_000);
            for id in first..first + 10_000 {
                let value = mixed(number * 1_000_003 + id) % 100;
                let region = id % 9;
                line(body, format_args!("t,id=series_{id},region=r{region} a={value}i,b={value}.5 {}\n", time(step)));
            }
        },
        tables: 1,
        questions: vec![
            ("one series", "SELECT count(*) AS n FROM t WHERE id = 'series_4711'".to_owned(), 3),
            ("how many series", "SELECT count(DISTINCT id) AS n FROM t".to_owned(), count),
            (
                "last row of each series, counted",
                "SELECT count(*) AS n FROM (SELECT id, max(time), last(a, time) FROM t GROUP BY id)".to_owned(),
                count,
            ),
        ],
    }
}

fn sparse(part: u64) -> Plan {
    let steps = 2_000 / part;
    Plan {
        name: "200 fields, 5 in a row",
        bodies: steps,
        rows_per_body: 1_000,
        values_per_row: 5,
        write: |step, _, body| {
            for host in 0..1_000 {
                line(body, format_args!("t,host=h{host} "));
                for place in 0..5 {
                    let comma = if place > 0 { "," } else { "" };
                    // A host's rows go round its fields, so that each field is in one row of forty.
                    let field = (host * 5 + step * 5 + place) % 200;
                    let value = mixed(step * 10_007 + host * 1_009 + field) % 100;
                    line(body, format_args!("{comma}f{field:03}={value}i"));
                }
                line(body, format_args!(" {}\n", time(step)));
            }
        },
        tables: 1,
        questions: vec![
            ("values of one field", "SELECT count(f017) AS n FROM t".to_owned(), steps * 1_000 / 40),
            (
                "rows of a host that have one of two fields",
                "SELECT count(*) AS n FROM t WHERE host = 'h3' AND (f015 IS NOT NULL OR f019 IS NOT NULL)".to_owned(),
                steps.div_ceil(40),
            ),
        ],
    }
}

fn logs(part: u64) -> Plan {
    let bodies = 1_000 / part;
    Plan {
        name: "log lines of 120 bytes",
        bodies,
        rows_per_body: 2_000,
        values_per_row: 1,
        write: |number, _, body| {
            const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];
            const WHAT: [&str; 4] = ["request finished", "connection reset by peer", "cache miss, asking upstream", "timeout"];
            for row in 0..2_000 {
                let random = mixed(number * 2_003 + row);
                let (level, what) = (LEVELS[(row % 4) as usize], WHAT[(row / 4 % 4) as usize]);
                let (id, user, took, path) = (random, random % 100_000, random % 5_000, random % 331);
                let time = time(number) + row * 1_000;
                let host = row % 50;
                line(
                    body,
                    format_args!(
                        "t,host=h{host},level={level} message=\"{what} method=GET path=/api/v1/things/{path} user={user} took={took}ms \
                         request={id:016x} region=eu-central-1 status=200 bytes={id}\" {time}\n"
                    ),
                );
            }
        },
        tables: 1,
        questions: vec![
            ("lines of a level", "SELECT count(*) AS n FROM t WHERE level = 'error'".to_owned(), bodies * 500),
            ("lines with a word", "SELECT count(*) AS n FROM t WHERE message LIKE '%timeout%'".to_owned(), bodies * 500),
            (
                "the newest ten of a level",
                "SELECT count(message) AS n FROM (SELECT message FROM t WHERE level = 'error' ORDER BY time DESC LIMIT 10)".to_owned(),
                10,
            ),
        ],
    }
}
