//! `weir ops import`: the history of awsideman.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use weir_journal::awsideman::{KIND_OPERATION, KIND_ROLLBACK, read};
use weir_ops::Listing;

use super::history::{HistoryArgs, read_file};
use crate::exit::Exit;
use crate::terminal::{Terminal, print};

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Files, or folders that hold them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Runs it. What is there already is not stored again.
pub(super) fn run(args: &ImportArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (history, _) = args.history.open("weir ops import", terminal)?;
    let (listed, _) = history.view()?.list(&Listing::default())?;
    let mut known: std::collections::HashSet<_> = listed.iter().map(|summary| summary.id).collect();
    let (mut stored, mut present, mut rollbacks, mut problems) = (0u64, 0u64, 0u64, 0u64);
    for file in files(&args.files)? {
        let found = read(&read_file(&file)?).with_context(|| format!("cannot import {}", file.display()))?;
        for problem in &found.problems {
            problems += 1;
            terminal.warn(format!("{}: {problem}", file.display()));
        }
        for record in &found.records {
            match record.kind {
                KIND_OPERATION => match weir_access::awsideman::operation(&record.payload, record.time) {
                    Ok(operation) if known.insert(operation.id) => {
                        history.store(&operation)?;
                        stored += 1;
                    }
                    Ok(_) => present += 1,
                    Err(error) => {
                        problems += 1;
                        terminal.warn(format!("{}: {error}", file.display()));
                    }
                },
                // They say only which operation was undone, not what was changed.
                KIND_ROLLBACK => rollbacks += 1,
                _ => problems += 1,
            }
        }
    }
    history.close()?;
    let answer =
        json!({"stored": stored, "present": present, "rollbacks_passed_over": rollbacks, "problems": problems});
    print(format!("{answer}\n"))?;
    Ok(if problems == 0 { Exit::Done } else { Exit::Partial })
}

/// Files as given, and those of folders whose names say that they are histories, rotated ones included, in order of their names.
fn files(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> = std::fs::read_dir(path)
            .with_context(|| format!("cannot list {}", path.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        inside.retain(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (name.starts_with("operations") || name.starts_with("rollbacks")) && name.contains(".json")
        });
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}
