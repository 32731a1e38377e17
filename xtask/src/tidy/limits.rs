//! The page of limits is complete: every limit among the settings has a row, and every test that a row names exists.

use std::collections::BTreeSet;

use super::{Finding, Tree};

const PAGE: &str = "docs/guide/limits.md";
const DEFAULTS: &str = "crates/cli/src/config/default.toml";
/// What a row says instead of a test that is still owed.
const OWED: &str = "no test yet";
/// How the name of a setting says that it is a limit.
const MARKS: [&str; 7] = ["_max", "timeout", "_wait", "deadline", "tries", "budget", "breaker"];
/// Ages and sizes at which something is done, not refused.
const NO_LIMITS: [&str; 1] = ["engine.flush_age_max_s"];

/// Compares the page with the settings and with the tests.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let page = tree.text(PAGE);
    let functions: BTreeSet<&str> = tree.ending_in(".rs").flat_map(|(_, text)| functions(text)).collect();
    let mut findings = Vec::new();
    let mut told = BTreeSet::new();
    for (index, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _, setting, _, _, test, _] = cells[..] else {
            findings.push(Finding::new(PAGE, index + 1, "a row has five cells: what, setting, default, past it, test"));
            continue;
        };
        told.extend(quoted(setting));
        let names: Vec<&str> = quoted(test).collect();
        if names.is_empty() && test != "test" && !test.starts_with(OWED) {
            findings.push(Finding::new(PAGE, index + 1, format!("a row names its test, or says \"{OWED}\"")));
        }
        for name in names.into_iter().filter(|name| !functions.contains(name)) {
            findings.push(Finding::new(PAGE, index + 1, format!("names the test {name:?}, which does not exist")));
        }
    }
    let missing = limits(tree.text(DEFAULTS)).into_iter().filter(|name| !told.contains(name.as_str()));
    findings.extend(missing.map(|name| Finding::new(PAGE, 0, format!("has no row for the limit {name}"))));
    findings
}

/// Settings that are limits by their name.
fn limits(defaults: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in defaults.lines() {
        section = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(section);
        let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") else { continue };
        let full = format!("{section}.{name}");
        let is_name = name.bytes().all(|one| one.is_ascii_lowercase() || one == b'_');
        if is_name && MARKS.iter().any(|mark| name.contains(mark)) && !NO_LIMITS.contains(&full.as_str()) {
            found.push(full);
        }
    }
    found
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    let end = |one: char| !one.is_ascii_alphanumeric() && one != '_';
    text.split("fn ").skip(1).filter_map(move |rest| rest.split(end).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> Vec<String> {
        let defaults = "[limits]\nbody_bytes_max = 5\n# write_wait_s = 1\nother = 1\n[engine]\nflush_age_max_s = 2\n";
        let test = "//! x\n#[test]\nfn bodies_are_limited() {}\n";
        let tree = Tree::of(&[(PAGE, page), (DEFAULTS, defaults), ("crates/a/tests/a.rs", test)]);
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    const HEAD: &str = "| what | setting | default | past it | test |\n|---|---|---|---|---|\n";
    const BODY: &str = "| a body | `limits.body_bytes_max` | 5 | 413 | `bodies_are_limited` |\n";

    #[test]
    fn every_limit_has_a_row_with_a_test_that_exists_or_is_owed() {
        let owed = "| a wait | `limits.write_wait_s` | 1 s | 503 | no test yet |\n";
        assert_eq!(found(&[HEAD, BODY, owed].concat()), Vec::<String>::new());
        assert_eq!(found(&[HEAD, BODY].concat()), ["has no row for the limit limits.write_wait_s"]);
        let wrong = "| a wait | `limits.write_wait_s` | 1 s | 503 | `it_waits` |\n";
        assert_eq!(found(&[HEAD, BODY, wrong].concat()), ["names the test \"it_waits\", which does not exist"]);
        let silent = "| a wait | `limits.write_wait_s` | 1 s | 503 | |\n";
        assert_eq!(found(&[HEAD, BODY, silent].concat()).len(), 1);
        assert_eq!(found(&[HEAD, BODY, "| a wait | `limits.write_wait_s` | 1 s |\n"].concat()).len(), 2);
    }
}
