//! Paths in pages: those of the tree must exist, those of somebody's machine must not be there.

use super::{Finding, Tree};

/// A path under one of these is meant to be in the tree.
const ROOMS: [&str; 9] = ["crates/", "docs/", "bench/", "sim/", "xtask/", "fuzz/", "examples/", ".ci/", ".cargo/"];

/// The commented defaults of all settings.
const DEFAULTS: &str = "crates/cli/src/config/default.toml";

/// Folders of single machines. In two pieces each, so that this list does not find itself.
const MACHINE: [(&str, &str); 6] =
    [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/"), ("/tmp/", "slot"), ("/opt/", "wheels")];

/// Every link and every quoted path in a page, and every page named in a source file, exists.
pub(super) fn check_exist(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".md") {
        for (index, line) in outside_fences(text) {
            let quoted = line.split('`').skip(1).step_by(2).map(|quoted| quoted.trim_start_matches("./").to_owned());
            let links = links(line).map(|link| resolve(path, link));
            for name in quoted.filter(|quoted| is_plain_path(quoted)).chain(links) {
                if !exists(tree, &name) {
                    findings.push(Finding::new(path, index, format!("names {name:?}, which does not exist")));
                }
            }
            for word in line.split('`').skip(1).step_by(2) {
                if is_missing_module(tree, word) {
                    findings.push(Finding::new(path, index, format!("names module {word:?}, which does not exist")));
                }
            }
        }
    }
    for (path, text) in tree.ending_in(".rs").filter(|(path, _)| !path.starts_with("xtask/")) {
        for (index, line) in text.lines().enumerate() {
            for name in pages(line) {
                if !exists(tree, name) {
                    findings.push(Finding::new(path, index + 1, format!("names {name:?}, which does not exist")));
                }
            }
        }
    }
    findings
}

/// Every setting that a page names (`limits.body_bytes_max`) is in the commented defaults.
pub(super) fn check_settings(tree: &Tree) -> Vec<Finding> {
    let defaults = tree.text(DEFAULTS);
    let sections: Vec<&str> = defaults.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
    let mut known = Vec::new();
    let mut section = "";
    for line in defaults.lines() {
        section = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(section);
        if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") {
            known.push(format!("{section}.{name}"));
        }
    }
    let mut findings = Vec::new();
    for (path, text) in tree.ending_in(".md") {
        for (index, line) in outside_fences(text) {
            for word in line.split('`').skip(1).step_by(2) {
                let is_setting = word.split_once('.').is_some_and(|(section, name)| {
                    sections.contains(&section)
                        && name.contains('_')
                        && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                });
                if is_setting && !known.iter().any(|name| name == word) {
                    findings.push(Finding::new(
                        path,
                        index,
                        format!("names the setting {word:?}, which does not exist"),
                    ));
                }
            }
        }
    }
    findings
}

/// No file names a folder of somebody's machine.
pub(super) fn check_machine(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &tree.texts {
        for (index, line) in text.lines().enumerate() {
            for (start, end) in MACHINE {
                if line.contains(&format!("{start}{end}")) {
                    findings.push(Finding::new(
                        path,
                        index + 1,
                        format!("names {start}{end}, a folder of one machine"),
                    ));
                }
            }
        }
    }
    findings
}

/// Lines with their numbers, without blocks of code: those show what a user types.
fn outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

fn is_plain_path(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    ROOMS.iter().any(|room| word.starts_with(room)) && word.bytes().all(plain) && !word.contains("NAME")
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        (!target.is_empty() && !target.contains(':')).then_some(target)
    })
}

/// The path from the root that a link in `page` leads to.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn exists(tree: &Tree, name: &str) -> bool {
    let name = name.trim_end_matches('/');
    name.is_empty() || tree.names.contains(name)
}

/// Whether a quoted word like `room::module` names a module, function or type that its room does not have.
fn is_missing_module(tree: &Tree, word: &str) -> bool {
    let mut parts = word.split("::");
    let (Some(room), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let folder = format!("crates/{room}/src");
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_word(room) || !is_word(name) || !tree.names.contains(&folder) {
        return false;
    }
    if tree.names.contains(&format!("{folder}/{name}.rs")) || tree.names.contains(&format!("{folder}/{name}/mod.rs")) {
        return false;
    }
    let declares = |text: &str| {
        ["fn", "struct", "enum", "trait", "type", "const", "macro_rules!", "mod"].iter().any(|kind| {
            text.split(&format!("{kind} {name}"))
                .skip(1)
                .any(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_'))
        })
    };
    !tree.ending_in(".rs").any(|(path, text)| path.starts_with(&folder) && declares(text))
}

fn pages(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("docs/").filter_map(|(at, _)| {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|one| one.is_ascii_alphanumeric() || "/._-".contains(one)) {
            return None;
        }
        let rest = &line[at..];
        let end = rest.find(|one: char| !(one.is_ascii_alphanumeric() || "/._-".contains(one))).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('.');
        name.ends_with(".md").then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str, extra: &[(&str, &str)]) -> Vec<String> {
        let mut files = vec![("docs/guide/a.md", page), ("crates/engine/src/wal.rs", "//! x\npub fn append() {}")];
        files.extend_from_slice(extra);
        check_exist(&Tree::of(&files)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn existing_paths_pass() {
        let page = "see `crates/engine/src/wal.rs`, [b](../guide/a.md#part), `docs/guide/`, `engine::wal`, `engine::append`\n\
                    [web](https://example.com) and `crates/NAME/x` and `a/b`\n```\n`docs/none.md`\n```\n";
        assert_eq!(found(page, &[]), Vec::<String>::new());
    }

    #[test]
    fn missing_paths_links_modules_and_pages_fail() {
        let page = "`crates/engine/src/gone.rs` [x](gone.md) `engine::gone`";
        assert_eq!(found(page, &[]).len(), 3);
        let source = [("crates/engine/src/lib.rs", "//! see `docs/formats/gone.md`.\n")];
        assert_eq!(found("", &source), ["names \"docs/formats/gone.md\", which does not exist"]);
    }

    #[test]
    fn missing_settings_fail() {
        let defaults = "[limits]\nbody_max = 1\n# text_max = 2\n[engine]\nflush_bytes = 3\n";
        let page =
            "`limits.body_max` `limits.text_max` `engine.flush_bytes` `weir.toml` `engine.rs`\n`limits.flush_bytes`";
        let found = check_settings(&Tree::of(&[(DEFAULTS, defaults), ("docs/guide/limits.md", page)]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].message.contains("limits.flush_bytes")), (2, true));
    }

    #[test]
    fn machine_paths_fail() {
        let line = format!("cd {}{}x", "/ho", "me/");
        assert_eq!(check_machine(&Tree::of(&[("README.md", &line)])).len(), 1);
        assert_eq!(check_machine(&Tree::of(&[("README.md", "cd /var/lib/weir")])).len(), 0);
    }
}
