//! `weir deps stat`: how much the cache helped, in the last run and in all.

use serde_json::{Value, json};
use weir_base::OsFileSystem;
use weir_cache::{Cache, CacheOptions};
use weir_deps::check::Report;
use weir_deps::history;

use super::input::CacheArgs;
use super::output::{self, Format};
use super::record;
use crate::exit::Exit;

/// Flags of `weir deps stat`.
#[derive(Debug, clap::Args)]
pub(super) struct StatArgs {
    #[command(flatten)]
    cache: CacheArgs,
    /// Form of the answer: table or json.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs `weir deps stat`.
pub(super) fn run(args: &StatArgs) -> anyhow::Result<Exit> {
    let runs = history::list(&OsFileSystem, &record::runs_folder()?)?;
    let last = runs.iter().rev().find_map(|path| history::read(&OsFileSystem, path).ok());
    let unsent = history::unsent(&OsFileSystem, &record::runs_folder()?)?.len();
    let mut options = CacheOptions::new(args.cache.dir()?, weir_deps::store::NAMESPACE);
    options.read_only = true;
    let stat = Cache::open(options).map(|cache| cache.stat())?;
    let last = last.as_ref().map(of_run);
    let answer = json!({"last_run": last, "runs": runs.len(), "runs_not_in_database": unsent, "cache": stat});
    let text = if args.format == Format::Json { format!("{answer:#}\n") } else { table(&answer) };
    output::write(None, &text)?;
    Ok(Exit::Done)
}

fn of_run(report: &Report) -> Value {
    json!({
        "project": report.project,
        "time": report.time,
        "packages": report.packages.len(),
        "hits": report.cache.hits,
        "misses": report.cache.misses,
        "hit_ratio": report.cache.hit_ratio(),
    })
}

fn table(answer: &Value) -> String {
    let percent = |value: &Value| value.as_f64().map_or_else(|| "-".into(), |ratio| format!("{:.1} %", ratio * 100.0));
    let last = &answer["last_run"];
    let cache = &answer["cache"];
    let mut text = String::new();
    if last.is_object() {
        text.push_str(&format!(
            "last run  {}: {} packages, {} hits, {} misses ({})\n",
            last["project"].as_str().unwrap_or("-"),
            last["packages"],
            last["hits"],
            last["misses"],
            percent(&last["hit_ratio"])
        ));
    }
    text.push_str(&format!(
        "runs      {} kept, {} not in the database yet\n",
        answer["runs"], answer["runs_not_in_database"]
    ));
    text.push_str(&format!(
        "cache     {} hits, {} misses ({}) since it was made; {} entries, {} bytes\n",
        cache["hits"],
        cache["misses"],
        percent(&cache["hit_ratio"]),
        cache["levels"][1]["entries"],
        cache["levels"][1]["bytes"]
    ));
    text
}
