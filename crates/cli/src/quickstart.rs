//! `weir quickstart`: real data, three questions, and what to try next.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use hyper::header;

use crate::config::Config;
use crate::exit::Exit;
use crate::folder::{Open, Target};
use crate::logging::Logging;
use crate::session::{Purpose, Session};
use crate::sql::{self, Format};
use crate::terminal::Terminal;
use crate::{runtime, serve, write};

/// Real series of the Numenta Anomaly Benchmark; licence in `examples/README.md`.
const SAMPLE: &[u8] = include_bytes!("../../../examples/nab-sample.lp.gz");
const DATABASE: &str = "demo";

/// What is asked, and what it shows.
const QUESTIONS: [(&str, &str); 3] = [
    (
        "Which machine was busiest? One row per instance:",
        "SELECT instance, count(*) AS points, round(avg(value), 2) AS mean, max(value) AS peak\n\
         FROM ec2_cpu_utilization GROUP BY instance ORDER BY mean DESC LIMIT 5",
    ),
    (
        "How did its load run, by day?",
        "SELECT date_bin(INTERVAL '1 day', time) AS day, round(avg(value), 2) AS mean, max(value) AS peak\n\
         FROM ec2_cpu_utilization WHERE instance = '5f5533' GROUP BY 1 ORDER BY 1 LIMIT 7",
    ),
    (
        "Sensors that report different fields share a table; what is missing is NULL:",
        "SELECT sensor, count(speed) AS speeds, count(occupancy) AS occupancies, count(travel_time) AS times\n\
         FROM traffic GROUP BY sensor ORDER BY sensor",
    ),
];

/// Make a small database with real data and ask it three questions.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir quickstart
  weir quickstart --serve --http 127.0.0.1:8181 ./try

Running it again on the same folder changes nothing: equal rows are one row.")]
pub(crate) struct Args {
    /// The folder to make.
    #[arg(value_name = "DIR", default_value = "weir-quickstart")]
    folder: PathBuf,
    /// Then serve the folder until Ctrl-C.
    #[arg(long)]
    serve: bool,
    /// Where to serve.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8181", requires = "serve")]
    http: String,
}

/// Runs `weir quickstart`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    runtime::block_on(load_and_ask(args, terminal))?;
    if !args.serve {
        return Ok(Exit::Done);
    }
    let mut config = Config::load(&args.folder, &Open::default(), terminal)?;
    config.server.http = Some(crate::config::address(&args.http)?);
    let logging = Logging::start(config.log, &config.log_level)?;
    let outcome = runtime::block_on(serve::serve(&mut config, &logging, terminal));
    drop(logging);
    outcome
}

async fn load_and_ask(args: &Args, terminal: &Terminal) -> Result<()> {
    let target = Target { data: Some(args.folder.clone()), ..Target::default() };
    let mut session = Session::open(&target, Purpose::Write, "weir quickstart", terminal).await?;
    let outcome = work(args, &mut session, terminal).await;
    session.close(terminal).await;
    outcome
}

async fn work(args: &Args, session: &mut Session, terminal: &Terminal) -> Result<()> {
    let folder = args.folder.display();
    terminal.say(format!("Loading real data (cloud machines, road traffic, ad prices) into {folder} ..."));
    let bar = terminal.bytes_bar(Some(SAMPLE.len() as u64), "loading");
    let text = write::inflated(bar.wrap_read(SAMPLE))?;
    let totals = write::load(session, DATABASE, text, &bar, terminal).await?;
    anyhow::ensure!(totals.refused == 0, "{} lines of the sample were refused", totals.refused);
    session.flush().await?;
    bar.finish_and_clear();
    terminal.say(format!("{} lines are in database '{DATABASE}', durable, and in open Parquet files.", totals.lines));
    for (meaning, statement) in QUESTIONS {
        say(&format!("\n{meaning}\n\n  {}\n", statement.replace('\n', "\n  ")))?;
        sql::show(session, DATABASE, statement, Format::Table).await?;
    }
    say(&next_steps(args))
}

fn next_steps(args: &Args) -> String {
    let folder = args.folder.display();
    let media = header::CONTENT_TYPE;
    let mut text = format!(
        "
What to try next:

  weir sql --data {folder} --db {DATABASE}                     ask more; \\d lists the tables
  weir write --data {folder} --db {DATABASE} FILE.lp           add your own line protocol, also .gz and .zst
  weir doctor --data {folder}                           is everything well?
  ls {folder}/tables/{DATABASE}                              Delta Lake tables for DuckDB, Polars, Spark
"
    );
    if args.serve {
        text.push_str(&format!(
            "
The folder is now served at http://{http}; Ctrl-C ends it. From another terminal:

  curl -i 'http://{http}/api/v3/write_lp?db={DATABASE}' --data-binary 'room,name=attic temp=21.5'
  curl 'http://{http}/api/v3/query_sql' -H '{media}: application/json' \\
       -d '{{\"db\": \"{DATABASE}\", \"q\": \"SELECT * FROM room\"}}'
",
            http = args.http
        ));
    } else {
        text.push_str(&format!(
            "  weir serve --data {folder}                            the same over HTTP, until Ctrl-C\n"
        ));
    }
    text
}

fn say(text: &str) -> Result<()> {
    crate::terminal::print(text).map(drop)
}
