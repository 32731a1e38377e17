//! Which crate uses which: the table in `ARCHITECTURE.md` against what cargo says.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Tree};

const MAP: &str = "ARCHITECTURE.md";
const HEADING: &str = "| crate | purpose | may use |";

/// No arrow but those in the table, no crate without a row, no row without a crate.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allowed = match table(tree.text(MAP)) {
        Ok(allowed) => allowed,
        Err(finding) => return vec![finding],
    };
    let rooms: BTreeSet<&str> = tree.packages.iter().map(|package| package.room()).collect();
    for (room, row) in allowed.iter().filter(|(room, _)| !rooms.contains(room.as_str())) {
        findings.push(Finding::new(MAP, row.line, format!("the table has a row for {room:?}, which is not a crate")));
    }
    for package in &tree.packages {
        let room = package.room();
        if ![format!("weir-{room}").as_str(), room, "weir"].contains(&package.name.as_str()) {
            let message = format!("a package in the folder {room} is named weir-{room}, not {}", package.name);
            findings.push(Finding::new(&package.manifest, 0, message));
        }
        let Some(row) = allowed.get(room) else {
            findings.push(Finding::new(&package.manifest, 0, format!("{room:?} has no row in the table of {MAP}")));
            continue;
        };
        for used in tree.packages.iter().filter(|other| package.uses.contains(&other.name)) {
            if !row.all && !row.uses.contains(used.room()) {
                let message = format!("{room:?} uses {:?}; the table in {MAP} does not allow it", used.room());
                findings.push(Finding::new(&package.manifest, 0, message));
            }
        }
    }
    findings
}

/// Every crate takes the lints of the workspace.
pub(super) fn check_lints(tree: &Tree) -> Vec<Finding> {
    let inherits = |text: &str| {
        let parsed: toml::Table = text.parse().ok()?;
        parsed.get("lints")?.get("workspace")?.as_bool()
    };
    tree.packages
        .iter()
        .filter(|package| inherits(tree.text(&package.manifest)) != Some(true))
        .map(|package| Finding::new(&package.manifest, 0, "does not say [lints] workspace = true"))
        .collect()
}

struct Row {
    line: usize,
    all: bool,
    uses: BTreeSet<String>,
}

fn table(text: &str) -> Result<BTreeMap<String, Row>, Finding> {
    let mut rows = BTreeMap::new();
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| *line != HEADING).skip(2).peekable();
    if lines.peek().is_none() {
        return Err(Finding::new(MAP, 0, format!("has no table with the heading {HEADING:?}")));
    }
    for (index, line) in lines.take_while(|(_, line)| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, uses] = cells.as_slice() else {
            return Err(Finding::new(MAP, index + 1, "a row of the table does not have three cells"));
        };
        let uses: BTreeSet<String> = match *uses {
            "nothing of ours" | "all" => BTreeSet::new(),
            list => list.split(',').map(|room| room.trim().to_owned()).collect(),
        };
        rows.insert(name.trim_matches('`').to_owned(), Row { line: index + 1, all: cells[2] == "all", uses });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Package;
    use super::*;

    const TABLE: &str = "\
| crate | purpose | may use |
|---|---|---|
| `base` | seams | nothing of ours |
| `journal` | log | base |
| `cli` | wiring | all |
";

    fn messages(journal_uses: &[&str], table: &str) -> Vec<String> {
        let mut tree = Tree::of(&[("ARCHITECTURE.md", table)]);
        tree.packages = vec![
            Package::new("weir-base", "crates/base/Cargo.toml", &["serde"]),
            Package::new("weir-journal", "crates/journal/Cargo.toml", journal_uses),
            Package::new("weir", "crates/cli/Cargo.toml", &["weir-journal", "weir-base"]),
        ];
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn arrows_of_the_table_pass() {
        assert_eq!(messages(&["weir-base", "serde"], TABLE), Vec::<String>::new());
    }

    #[test]
    fn other_arrows_fail() {
        let found = messages(&["weir"], TABLE);
        assert_eq!(found, ["\"journal\" uses \"cli\"; the table in ARCHITECTURE.md does not allow it"]);
    }

    #[test]
    fn a_package_is_named_after_its_folder() {
        let mut tree = Tree::of(&[("ARCHITECTURE.md", TABLE)]);
        tree.packages = vec![Package::new("weir-log", "crates/journal/Cargo.toml", &[])];
        assert!(check(&tree).iter().any(|finding| finding.message.contains("is named weir-journal, not weir-log")));
    }

    #[test]
    fn a_crate_without_row_and_a_row_without_crate_fail() {
        let renamed = TABLE.replace("journal", "diary");
        assert_eq!(messages(&[], &renamed).len(), 2);
        assert_eq!(messages(&[], "no table").len(), 1);
    }

    #[test]
    fn lints_must_be_inherited() {
        for (lints, count) in [("", 1), ("[lints]\nworkspace = true", 0)] {
            let mut tree = Tree::of(&[("crates/base/Cargo.toml", lints)]);
            tree.packages = vec![Package::new("weir-base", "crates/base/Cargo.toml", &[])];
            assert_eq!(check_lints(&tree).len(), count);
        }
    }
}
