//! `weir doctor`: what is wrong here, and what to do. It changes nothing.

mod checks;
mod machine;

use std::fmt::Write;

use anyhow::Result;
use clap::Args as ClapArgs;
use serde_json::json;

use crate::exit::Exit;
use crate::folder::{Target, data_folder};
use crate::terminal::{Terminal, print};
use crate::{client, runtime};
use checks::{Finding, Verdict};

/// Check a data folder or server, and say what to do.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir doctor
  weir doctor --data ./data --json
  weir doctor --server http://127.0.0.1:8181

Exit codes: 0 all well (warnings too); 1 something is wrong; 7 data is damaged. Nothing is changed.")]
pub(crate) struct Args {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs `weir doctor`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let findings = runtime::block_on(async {
        match client::Client::of_target(&args.target)? {
            Some(mut client) => Ok(checks::server(&mut client).await),
            None => {
                let data = data_folder(args.target.data.as_ref())?;
                Ok(checks::folder(&data, &args.target.open, terminal).await)
            }
        }
    })?;
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    print(if args.json { as_json(&findings, worst) } else { as_text(&findings, worst) })?;
    Ok(match worst {
        Verdict::Good | Verdict::Warning => Exit::Done,
        Verdict::Wrong => Exit::Failed,
        Verdict::Damaged => Exit::Damaged,
    })
}

fn as_json(findings: &[Finding], worst: Verdict) -> String {
    let listed: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "state": finding.verdict.word(),
                "detail": finding.detail,
                "advice": finding.advice,
            })
        })
        .collect();
    format!("{:#}\n", json!({"state": worst.word(), "version": weir_server::VERSION, "checks": listed}))
}

fn as_text(findings: &[Finding], worst: Verdict) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "{:<8} {:<14} {}", finding.verdict.word(), finding.check, finding.detail);
        for line in finding.advice.iter().flat_map(|advice| advice.lines()) {
            let _ = writeln!(text, "{:<23} {line}", "");
        }
    }
    let sum = match worst {
        Verdict::Good => "all is well",
        Verdict::Warning => "works, with warnings",
        Verdict::Wrong => "something is wrong",
        Verdict::Damaged => "data is damaged",
    };
    let _ = writeln!(text, "\n{sum}");
    text
}
