//! Every promise in `ARCHITECTURE.md` has a test that names its code, or stands in the list of those not proved yet.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, is_test_file};
use super::{Finding, Tree};

const MAP: &str = "ARCHITECTURE.md";
/// Promises that no test names yet: a code and what is missing, a line each.
const UNPROVEN: &str = "xtask/unproven.txt";
/// All that was promised; the page may not lose one.
const CODES: [&str; 18] =
    ["J1", "J2", "J3", "E1", "E2", "E3", "E4", "Q1", "Q2", "S1", "S2", "C1", "C2", "R1", "R2", "R3", "R4", "M1"];

/// Every code stands in the map, and in a test or in the list, not in both.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let promised = codes_in(tree.text(MAP));
    let mut unproven = BTreeMap::new();
    for (index, line) in tree.text(UNPROVEN).lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        if let Some(code) = line.split_whitespace().next() {
            unproven.insert(code, index + 1);
        }
    }
    let tested: BTreeSet<&str> = tree.ending_in(".rs").flat_map(|(path, text)| codes_in_tests(path, text)).collect();
    for code in CODES {
        if !promised.contains(code) {
            findings.push(Finding::new(MAP, 0, format!("does not state the promise {code}")));
        }
        match (tested.contains(code), unproven.remove(code)) {
            (false, None) => findings.push(Finding::new(MAP, 0, format!("no test names {code}"))),
            (true, Some(line)) => {
                findings.push(Finding::new(UNPROVEN, line, format!("a test names {code} now: remove the entry")));
            }
            _ => {}
        }
    }
    let unknown =
        unproven.into_iter().map(|(code, line)| Finding::new(UNPROVEN, line, format!("{code} is no promise")));
    findings.extend(unknown);
    findings
}

fn codes_in_tests<'a>(path: &'a str, text: &'a str) -> BTreeSet<&'a str> {
    if path.starts_with("xtask/") {
        return BTreeSet::new();
    }
    if is_test_file(path) {
        return codes_in(text);
    }
    let Ok(source) = Source::parse(text) else { return BTreeSet::new() };
    let lines = text.lines().enumerate().filter(|(index, _)| source.is_test(index + 1));
    lines.flat_map(|(_, line)| codes_in(line)).collect()
}

/// The codes that stand as words of their own, or begin the name of a function (`fn e1_every_row...`).
fn codes_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
    let as_words = words.filter_map(|word| CODES.iter().find(|code| **code == word).copied());
    let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('_').next());
    let as_names = names.filter_map(|name| CODES.iter().find(|code| code.to_ascii_lowercase() == name).copied());
    as_words.chain(as_names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(test: &str, unproven: &str) -> Vec<String> {
        let map = CODES.join(" ");
        let others = CODES.iter().filter(|code| **code != "J1").map(|code| format!("// {code}\n")).collect::<String>();
        let tree = Tree::of(&[
            (MAP, &map),
            (UNPROVEN, unproven),
            ("crates/a/tests/all.rs", &others),
            ("crates/a/src/lib.rs", test),
        ]);
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_code_counts_only_in_a_test() {
        assert_eq!(found("//! J1\nfn j1() {}\n", ""), ["no test names J1"]);
        assert_eq!(found("//! x\n#[cfg(test)]\nmod tests {\n    // J1\n}\n", ""), Vec::<String>::new());
        assert_eq!(found("//! x\n#[cfg(test)]\nmod tests {\n    // \\j1 a_J1_b\n}\n", ""), ["no test names J1"]);
        assert_eq!(found("//! x\n#[cfg(test)]\nmod tests {\n    fn j1_torn() {}\n}\n", ""), Vec::<String>::new());
    }

    #[test]
    fn the_list_can_only_shrink() {
        assert_eq!(found("//! x\n", "# why\nJ1 not built\n"), Vec::<String>::new());
        assert_eq!(found("//! x\n", "J1\nE1 proved by now\nX9\n").len(), 2);
    }

    #[test]
    fn a_promise_may_not_vanish_from_the_map() {
        assert!(check(&Tree::of(&[(MAP, "J1")])).iter().any(|finding| finding.message.contains("the promise J2")));
    }
}
