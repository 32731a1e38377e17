//! Every source file says what it is, is called by what it holds, and leaves no test out.

use super::{Finding, Tree};

/// Names of drawers, where things go that nobody gave a place.
const DRAWERS: [&str; 9] = ["common", "util", "utils", "types", "helper", "helpers", "misc", "shared", "stuff"];

/// Every Rust file starts with `//!`.
pub(super) fn check_headers(tree: &Tree) -> Vec<Finding> {
    tree.ending_in(".rs")
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| Finding::new(path, 1, "does not start with //! and what it is"))
        .collect()
}

/// No file or folder is a drawer.
pub(super) fn check_drawers(tree: &Tree) -> Vec<Finding> {
    tree.ending_in(".rs")
        .filter(|(path, _)| path.trim_end_matches(".rs").split('/').any(|part| DRAWERS.contains(&part)))
        .map(|(path, _)| Finding::new(path, 0, "is named as a drawer; name it after what it holds"))
        .collect()
}

/// No test is left out.
pub(super) fn check_tests_run(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".rs") {
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                findings.push(Finding::new(
                    path,
                    index + 1,
                    "an ignored test proves nothing; make it run or remove it",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_header_fails() {
        let tree = Tree::of(&[("crates/a/src/lib.rs", "mod x;"), ("crates/a/src/x.rs", "//! What x is.\n")]);
        let found = check_headers(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "crates/a/src/lib.rs");
    }

    #[test]
    fn a_drawer_fails() {
        let tree = Tree::of(&[
            ("crates/a/src/util.rs", "//! x"),
            ("crates/a/src/common/x.rs", "//! x"),
            ("crates/a/src/utility.rs", "//! x"),
        ]);
        assert_eq!(check_drawers(&tree).len(), 2);
    }

    #[test]
    fn an_ignored_test_fails() {
        let text = ["//! x\n#[test]\n    #[ign", "ore = \"slow\"]\nfn t() {}"].concat();
        assert_eq!(check_tests_run(&Tree::of(&[("crates/a/src/lib.rs", &text)])).len(), 1);
    }
}
