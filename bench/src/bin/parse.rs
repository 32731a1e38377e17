//! How fast line protocol becomes columns, on one core, and that the columns hold what the lines said.
//!
//! `cargo run --release -p weir-bench --bin parse -- [--data FOLDER] [--rival PROGRAM] [--json FILE] [SHAPE...]` prints one line a shape:
//! megabytes and rows a second of CPU time, best and median of the rounds. Each round parses a whole body anew, with a new
//! parser. The program of `bench/rivals/parse` is given the same bodies, and the ratio to its best round is printed.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock and reads its own input")]
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::fmt::Write;
use std::hint::black_box;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::time::{ClockId, clock_gettime};
use weir_bench::report::{self, Parse, Parses};
use weir_engine::lp::{Options, Parsed, Parser, Schemas};
use weir_engine::rows::Values;
use weir_engine::schema::SchemaRef;

/// No table exists before the body.
struct Empty;

impl Schemas for Empty {
    fn schema(&self, _: &str) -> Option<SchemaRef> {
        None
    }
}

/// A body and what must come out of it.
struct Shape {
    name: &'static str,
    body: Vec<u8>,
    rows: usize,
    /// Of all numeric fields, as the generator counted it.
    sum: f64,
    /// Bytes of all texts.
    text_bytes: usize,
}

const LINES: usize = 10_000;
const START: u64 = 1_700_000_000_000_000_000;

/// A small generator of numbers (splitmix64): the same body in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

const USAGES: [&str; 10] =
    ["user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];

/// The series of a host as the TSBS cpu-only case spells it.
fn tsbs_head(out: &mut String, host: usize) {
    let region = ["eu-central-1", "us-west-2", "ap-southeast-2", "sa-east-1"][host % 4];
    let _ = write!(
        out,
        "cpu,hostname=host_{host},region={region},datacenter={region}{},rack={},os=Ubuntu16.{:02}LTS,arch={},team={},\
         service={},service_version={},service_environment={}",
        ["a", "b", "c"][host % 3],
        host % 100,
        host % 12,
        ["x64", "x86"][host % 2],
        ["SF", "NYC", "LON", "CHI"][host / 2 % 4],
        host % 20,
        host % 2,
        ["production", "staging", "test"][host / 3 % 3],
    );
}

fn tsbs(name: &'static str, hosts: usize) -> Shape {
    let (mut body, mut sum, mut numbers) = (String::new(), 0u64, Numbers(1));
    for line in 0..LINES {
        tsbs_head(&mut body, line % hosts);
        for (index, usage) in USAGES.iter().enumerate() {
            let value = numbers.next() % 101;
            sum += value;
            let _ = write!(body, "{}usage_{usage}={value}i", if index == 0 { ' ' } else { ',' });
        }
        let _ = writeln!(body, " {}", START + (line / hosts) as u64 * 10_000_000_000);
    }
    Shape { name, body: body.into_bytes(), rows: LINES, sum: sum as f64, text_bytes: 0 }
}

fn floats(name: &'static str, digits: usize) -> Shape {
    let (mut body, mut sum, mut numbers) = (String::new(), 0.0, Numbers(2));
    for line in 0..LINES {
        let _ = write!(body, "sensor,site=s{},unit=u{}", line % 40, line % 40 / 5);
        for (index, field) in ["temperature", "pressure", "humidity", "voltage", "current"].iter().enumerate() {
            let value = (numbers.next() >> 11) as f64 / (1u64 << 53) as f64 * 1000.0;
            let text = if digits == 0 { value.to_string() } else { format!("{value:.digits$}") };
            sum += text.parse::<f64>().expect("printed from a number");
            let _ = write!(body, "{}{field}={text}", if index == 0 { ' ' } else { ',' });
        }
        let _ = writeln!(body, " {}", START + line as u64 * 1_234_567);
    }
    Shape { name, body: body.into_bytes(), rows: LINES, sum, text_bytes: 0 }
}

fn logs() -> Shape {
    let (mut body, mut text_bytes, mut sum, mut numbers) = (String::new(), 0, 0u64, Numbers(3));
    for line in 0..LINES {
        let number = numbers.next();
        let message =
            format!("GET /api/v1/items/{} HTTP/1.1 took {} us, client said hello", number % 99_991, number >> 50);
        let status = 200 + number % 3;
        sum += status;
        text_bytes += message.len() + r#"info "0""#.len();
        let _ = writeln!(
            body,
            "log,app=web,host=h{} level=\"info\",message=\"{message} \\\"{}\\\"\",status={status}i {}",
            line % 25,
            line % 10,
            START + line as u64 * 1_000_003
        );
    }
    Shape { name: "logs", body: body.into_bytes(), rows: LINES, sum: sum as f64, text_bytes }
}

/// Two agents write by turns, with fields that come and go.
fn mixed() -> Shape {
    let (mut body, mut sum, mut numbers) = (String::new(), 0.0, Numbers(4));
    for line in 0..LINES {
        let number = numbers.next();
        let (host, value) = (number % 50, (number >> 20) % 10_000);
        sum += value as f64;
        let _ = match number >> 60 {
            0..4 => writeln!(body, "mem,host=h{host} used={value}i {}", START + line as u64),
            4..8 => {
                writeln!(body, "disk,device=sda{},host=h{host} used={value}i,ok=t {}", number % 3, START + line as u64)
            }
            8..12 => writeln!(body, "net,host=h{host} rx={value}u,up=T,tx=0u {}", START + line as u64),
            _ => writeln!(body, "net,host=h{host} drops=0u,rx={value}u {}", START + line as u64),
        };
    }
    Shape { name: "mixed", body: body.into_bytes(), rows: LINES, sum, text_bytes: 0 }
}

/// The data set that ships with the sources: lines, and the sum of all its numbers.
fn nab(folder: &str) -> Option<Shape> {
    let file = std::fs::File::open(format!("{folder}/nab.lp.gz")).ok()?;
    let mut body = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file), &mut body).ok()?;
    let (mut rows, mut sum) = (0, 0.0);
    for line in std::str::from_utf8(&body).ok()?.lines() {
        rows += 1;
        for field in line.split(' ').nth(1)?.split(',') {
            sum += field.split_once('=')?.1.trim_end_matches('i').parse::<f64>().ok()?;
        }
    }
    Some(Shape { name: "nab", body, rows, sum, text_bytes: 0 })
}

fn parse(body: &[u8], chunk: usize) -> Parsed {
    let mut parser = Parser::new(Box::new(Empty), Options::new(0, 0x5eed));
    for part in body.chunks(chunk) {
        parser.feed(part).expect("the body fits");
    }
    parser.finish().expect("the body fits")
}

/// Panics unless the columns hold the rows, numbers and texts of the shape.
fn check(shape: &Shape, parsed: &Parsed) {
    assert_eq!((parsed.rows, parsed.rejected_count), (shape.rows, 0), "{}: {:?}", shape.name, parsed.rejected.first());
    let (mut sum, mut text_bytes) = (0.0, 0);
    for field in parsed.tables.iter().flat_map(|table| &table.rows.fields) {
        match &field.values {
            Values::F64(values) => sum += values.iter().sum::<f64>(),
            Values::I64(values) => sum += values.iter().sum::<i64>() as f64,
            Values::U64(values) => sum += values.iter().sum::<u64>() as f64,
            Values::Bool(_) => {}
            Values::Str(text) => text_bytes += text.as_bytes().len(),
        }
    }
    assert!((sum - shape.sum).abs() <= shape.sum.abs() * 1e-9, "{}: sum {sum}, not {}", shape.name, shape.sum);
    assert_eq!(text_bytes, shape.text_bytes, "{}: bytes of text", shape.name);
}

/// Time that this thread spent on a core: what others do on the machine counts less.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Has the rival parse the shape's body, and checks what it found.
fn rival_bytes_per_second(program: &str, shape: &Shape) -> f64 {
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the rival starts");
    child.stdin.take().expect("piped").write_all(&shape.body).expect("the rival reads its body");
    let output = child.wait_with_output().expect("the rival ends");
    let words = String::from_utf8(output.stdout).expect("text");
    let words: Vec<f64> = words.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [rows, sum, rate] = words[..] else { panic!("the rival said {words:?}") };
    assert_eq!(rows, shape.rows as f64, "{}: rows of the rival", shape.name);
    assert!((sum - shape.sum).abs() <= shape.sum.abs() * 1e-9, "{}: sum of the rival", shape.name);
    rate
}

fn measure(shape: &Shape, chunk: usize, rival: Option<&str>) -> Parse {
    check(shape, &parse(&shape.body, chunk));
    let rounds = (1_500_000_000 / shape.body.len()).clamp(5, 1_000);
    let mut seconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = cpu_seconds();
            black_box(parse(black_box(&shape.body), chunk));
            cpu_seconds() - start
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| (shape.body.len() as f64 / seconds / 1e6, shape.rows as f64 / seconds / 1e6);
    let (best, median) = (rate(seconds[0]), rate(seconds[rounds / 2]));
    let parse = Parse {
        shape: shape.name.to_owned(),
        line_bytes: (shape.body.len() / shape.rows) as u64,
        best_mb_per_s: best.0,
        median_mb_per_s: median.0,
        median_million_rows_per_s: median.1,
        rival_mb_per_s: rival.map(|program| rival_bytes_per_second(program, shape) / 1e6),
    };
    let rival = parse.rival_mb_per_s.map_or_else(String::new, |theirs| {
        format!("  rival {theirs:5.0} MB/s, ratio {:.1}", parse.best_mb_per_s / theirs)
    });
    println!(
        "{:12} {:4} B/line  best {:6.0} MB/s {:6.2} M rows/s  median {:6.0} MB/s {:6.2} M rows/s{rival}",
        parse.shape, parse.line_bytes, best.0, best.1, median.0, median.1
    );
    parse
}

fn main() {
    let (mut wanted, mut folder, mut rival, mut json) = (Vec::new(), "crates/cli/tests/data".to_owned(), None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--data" => folder = arguments.next().expect("--data takes a folder"),
            "--rival" => rival = Some(arguments.next().expect("--rival takes a program")),
            "--json" => json = Some(arguments.next().expect("--json takes a file")),
            _ => wanted.push(argument),
        }
    }
    let mut shapes = vec![
        tsbs("tsbs", 100),
        tsbs("new-series", LINES),
        floats("floats-15", 15),
        floats("floats-short", 0),
        floats("floats-2", 2),
        logs(),
        mixed(),
    ];
    shapes.extend(nab(&folder));
    let parses = shapes
        .iter()
        .filter(|shape| wanted.is_empty() || wanted.iter().any(|name| name == shape.name))
        .map(|shape| measure(shape, 256 << 10, rival.as_deref()))
        .collect();
    if let Some(path) = json {
        let results = Parses { command: report::command("parse"), machine: report::machine(), parses };
        std::fs::write(path, serde_json::to_string_pretty(&results).expect("figures are JSON")).expect("a result file");
    }
}
