//! Puts the figures of result files into `docs/benchmarks.md`, so that no figure there is typed by hand.
//!
//! ```text
//! cargo xtask bench ingest -- --json bench/results/ingest.json
//! cargo xtask bench recovery -- --json bench/results/recovery.json
//! cargo xtask bench report
//! ```

#![allow(clippy::disallowed_methods, reason = "reads result files and writes the page")]

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use weir_bench::deps::{self, DepsResults};
use weir_bench::figures::{self, Figures};
use weir_bench::life::{self, HistoryResults, ShapeResults};
use weir_bench::query::{self, QueryResults};
use weir_bench::report::{self, JournalResults, Parses, Results, Starts};
use weir_bench::rollup::{self, RollupResults};
use weir_bench::track::{self, TrackResults};

/// Writes the tables of a page from result files.
#[derive(Debug, Parser)]
struct Cli {
    /// The page with the marks.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    /// The folder of the result files.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut page = std::fs::read_to_string(&cli.page).with_context(|| format!("cannot read {}", cli.page.display()))?;
    for name in ["ingest", "ingest-slow-sync"] {
        if let Some(text) = read(&cli.results, name)? {
            let results: Results = serde_json::from_str(&text)?;
            let syncs: Vec<String> = results.outcomes.iter().map(|outcome| report::sync_line(outcome) + "\n").collect();
            let table = report::ingest_table(&results);
            let section = section(&results.command, &results.machine, &table) + "\n```\n" + &syncs.concat() + "```\n";
            page = report::replace_section(&page, name, &section)?;
        }
    }
    if let Some(text) = read(&cli.results, "parse")? {
        let results: Parses = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &report::parses_table(&results));
        page = report::replace_section(&page, "parse", &section)?;
    }
    if let Some(text) = read(&cli.results, "recovery")? {
        let results: Starts = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &report::starts_table(&results));
        page = report::replace_section(&page, "recovery", &section)?;
    }
    for name in ["query", "query-beside"] {
        if let Some(text) = read(&cli.results, name)? {
            let results: QueryResults = serde_json::from_str(&text)?;
            let section = section(&results.command, &results.machine, &query::table(&results));
            page = report::replace_section(&page, name, &section)?;
        }
    }
    if let Some(text) = read(&cli.results, "rollup")? {
        let results: RollupResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &rollup::table(&results));
        page = report::replace_section(&page, "rollup", &section)?;
    }
    page = of_tables(page, &cli.results)?;
    if let Some(text) = read(&cli.results, "deps")? {
        let results: DepsResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &deps::table(&results));
        page = report::replace_section(&page, "deps", &section)?;
    }
    if let Some(text) = read(&cli.results, "journal")? {
        let results: JournalResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &report::journal_tables(&results));
        page = report::replace_section(&page, "journal", &section)?;
    }
    if let Some(text) = read(&cli.results, "cache")? {
        let results: Figures = serde_json::from_str(&text)?;
        let section = section(&results.commands.join("`, `"), &results.machine, &figures::tables(&results));
        page = report::replace_section(&page, "cache", &section)?;
    }
    if let Some(text) = read(&cli.results, "health")? {
        let results: Figures = serde_json::from_str(&text)?;
        let section = section(&results.commands.join("`, `"), &results.machine, &figures::goals_table(&results));
        page = report::replace_section(&page, "health", &section)?;
    }
    if let Some(text) = read(&cli.results, "track")? {
        let results: TrackResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &track::tables(&results));
        page = report::replace_section(&page, "track", &section)?;
    }
    std::fs::write(&cli.page, page)?;
    Ok(())
}

/// What tables go through as they grow, fragment and take unusual shapes.
fn of_tables(mut page: String, folder: &Path) -> anyhow::Result<String> {
    if let Some(text) = read(folder, "history")? {
        let results: HistoryResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &life::history_table(&results));
        page = report::replace_section(&page, "history", &section)?;
    }
    if let Some(text) = read(folder, "compaction")? {
        let results: Figures = serde_json::from_str(&text)?;
        let section = section(&results.commands.join("`, `"), &results.machine, &figures::goals_table(&results));
        page = report::replace_section(&page, "compaction", &section)?;
    }
    if let Some(text) = read(folder, "shapes")? {
        let results: ShapeResults = serde_json::from_str(&text)?;
        let section = section(&results.command, &results.machine, &life::shapes_table(&results));
        page = report::replace_section(&page, "shapes", &section)?;
    }
    Ok(page)
}

fn read(folder: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let path = folder.join(name).with_extension("json");
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(std::fs::read_to_string(path)?))
}

fn section(command: &str, machine: &str, table: &str) -> String {
    format!("`{command}` on {machine}:\n\n{table}")
}
