//! Checks that the house is as `ARCHITECTURE.md` says. Also run as a test (`xtask/tests/tidy.rs`).
//!
//! A rule is a function from the [`Tree`] to findings; it reads nothing else, so that its tests can show it a bad tree.
//! What a rule knows to be wrong already is in a list beside this crate (`xtask/offenders.txt`, `xtask/unproven.txt`);
//! an entry that is no longer true is a finding as well, so those lists can only shrink.

mod arrows;
mod invariants;
mod length;
mod limits;
mod names;
mod paths;
mod source;
mod tree;

use std::fmt;
use std::path::Path;

use anyhow::bail;

pub use self::tree::Tree;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, from the root of the workspace.
    pub path: String,
    /// Its line, counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Every finding in a tree, in order of file and line.
pub fn findings(tree: &Tree) -> Vec<Finding> {
    let rules: [fn(&Tree) -> Vec<Finding>; 11] = [
        arrows::check,
        arrows::check_lints,
        paths::check_exist,
        paths::check_machine,
        paths::check_settings,
        length::check,
        names::check_headers,
        names::check_drawers,
        names::check_tests_run,
        invariants::check,
        limits::check,
    ];
    let mut all: Vec<Finding> = rules.iter().flat_map(|rule| rule(tree)).collect();
    all.sort();
    all
}

/// Checks the tree at `root` and prints what it finds; an error when it finds anything.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let all = findings(&Tree::read(root)?);
    for finding in &all {
        say(finding);
    }
    if !all.is_empty() {
        bail!("{} findings", all.len());
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "the answer of the task")]
fn say(finding: &Finding) {
    eprintln!("{finding}");
}
