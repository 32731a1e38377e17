//! Functions of at most 70 lines and files of at most 800, tests not counted.

use std::collections::BTreeMap;

use super::source::{Source, is_test_file};
use super::{Finding, Tree};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
/// What is known to be too long: a line each of `path lines` or `path function lines`.
const OFFENDERS: &str = "xtask/offenders.txt";

/// Nothing too long that is not listed, and nothing listed that is not so long.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut offenders: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for (index, line) in tree.text(OFFENDERS).lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (key, count) = match words.as_slice() {
            [first, ..] if first.starts_with('#') => continue,
            [] => continue,
            [path, count] => ((path.to_string(), String::new()), count.parse()),
            [path, function, count] => ((path.to_string(), function.to_string()), count.parse()),
            _ => {
                findings.push(Finding::new(OFFENDERS, index + 1, "is not `path [function] lines`"));
                continue;
            }
        };
        offenders.insert(key, (index + 1, count.unwrap_or(0)));
    }
    for (path, text) in tree.ending_in(".rs").filter(|(path, _)| !is_test_file(path)) {
        let source = match Source::parse(text) {
            Ok(source) => source,
            Err(error) => {
                findings.push(Finding::new(path, error.span().start().line, format!("is not Rust: {error}")));
                continue;
            }
        };
        let file_lines = (1..=text.lines().count()).filter(|line| !source.is_test(*line)).count();
        let mut judge = |name: &str, line: usize, lines: usize, max: usize| {
            let listed = offenders.remove(&(path.to_owned(), name.to_owned()));
            let what = if name.is_empty() { "the file" } else { name };
            match listed {
                None if lines > max => {
                    findings.push(Finding::new(path, line, format!("{what} has {lines} lines, more than {max}")));
                }
                Some((at, known)) if lines <= max || lines < known => {
                    let message = format!("{path} {name} has only {lines} lines now: lower or remove the entry");
                    findings.push(Finding::new(OFFENDERS, at, message));
                }
                Some((_, known)) if lines > known => {
                    findings.push(Finding::new(path, line, format!("{what} grew from {known} to {lines} lines")));
                }
                _ => {}
            }
        };
        judge("", 0, file_lines, FILE_LINES_MAX);
        for function in &source.functions {
            judge(&function.name, function.line, function.lines, FUNCTION_LINES_MAX);
        }
    }
    let gone = offenders.into_iter().map(|((path, name), (at, _))| {
        Finding::new(OFFENDERS, at, format!("{path} {name} does not exist: remove the entry"))
    });
    findings.extend(gone);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(function_lines: usize, rest_lines: usize, offenders: &str) -> Vec<String> {
        let function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(function_lines - 2));
        let tests = format!("#[cfg(test)]\nmod tests {{\n    fn t() {{\n{}    }}\n}}\n", "        g();\n".repeat(900));
        let text = format!("//! x\n{function}{}{tests}", "const A: u8 = 1;\n".repeat(rest_lines));
        let tree = Tree::of(&[("crates/a/src/lib.rs", &text), ("xtask/offenders.txt", offenders)]);
        check(&tree).into_iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn at_the_limits_all_is_well() {
        assert_eq!(found(70, 729, ""), Vec::<String>::new());
    }

    #[test]
    fn past_the_limits_it_is_found() {
        assert_eq!(found(71, 0, ""), ["crates/a/src/lib.rs: f has 71 lines, more than 70"]);
        assert_eq!(found(70, 730, ""), ["crates/a/src/lib.rs: the file has 801 lines, more than 800"]);
    }

    #[test]
    fn the_list_can_only_shrink() {
        assert_eq!(found(80, 0, "# known\ncrates/a/src/lib.rs f 80\n"), Vec::<String>::new());
        assert_eq!(found(81, 0, "crates/a/src/lib.rs f 80\n").len(), 1);
        assert_eq!(found(79, 0, "crates/a/src/lib.rs f 80\n").len(), 1);
        assert_eq!(found(60, 0, "crates/a/src/lib.rs f 80\n").len(), 1);
        assert_eq!(found(60, 0, "crates/b/src/lib.rs f 80\n").len(), 1);
    }

    #[test]
    fn what_does_not_parse_is_found() {
        assert_eq!(check(&Tree::of(&[("crates/a/src/lib.rs", "fn {")])).len(), 1);
    }
}
