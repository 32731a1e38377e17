//! What rules look at: the text of every file that git knows or would add, and the packages as cargo sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::shell;

/// A snapshot of the tree.
#[derive(Debug, Default, Clone)]
pub struct Tree {
    /// Files that are text.
    pub texts: BTreeMap<String, String>,
    /// All files and folders.
    pub names: BTreeSet<String>,
    /// The packages of the workspace.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The path of its manifest from the root.
    pub manifest: String,
    /// Packages that it uses, in builds and in tests, on any platform; without the simulator where only tests use it.
    pub uses: BTreeSet<String>,
}

impl Package {
    /// A package by its name, manifest and the names of what it uses.
    pub fn new(name: &str, manifest: &str, uses: &[&str]) -> Self {
        let uses = uses.iter().map(|used| (*used).to_owned()).collect();
        Self { name: name.to_owned(), manifest: manifest.to_owned(), uses }
    }

    /// The bare noun: the name of its folder.
    pub fn room(&self) -> &str {
        self.manifest.trim_end_matches("/Cargo.toml").rsplit('/').next().unwrap_or_default()
    }
}

impl Tree {
    /// Reads the work tree at `root`: tracked files and new ones that are not ignored.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let mut list = Command::new("git");
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
        let mut tree = Self::default();
        for path in shell::output(&mut list)?.split_terminator('\0') {
            let full = root.join(path);
            if !full.is_file() {
                continue;
            }
            let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
            tree.add(path, String::from_utf8(bytes).ok());
        }
        tree.packages = packages(root)?;
        Ok(tree)
    }

    /// Adds a file, its text if it has one, and the folders above it.
    pub fn add(&mut self, path: &str, text: Option<String>) {
        let mut end = Some(path.len());
        while let Some(at) = end {
            self.names.insert(path[..at].to_owned());
            end = path[..at].rfind('/');
        }
        if let Some(text) = text {
            self.texts.insert(path.to_owned(), text);
        }
    }

    /// Files with this ending, with their text.
    pub fn ending_in(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| path.ends_with(ending))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of a file, empty when there is none.
    pub fn text(&self, path: &str) -> &str {
        self.texts.get(path).map_or("", String::as_str)
    }

    /// A tree made up for a test.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add(path, Some((*text).to_owned()));
        }
        tree
    }
}

/// What `cargo metadata` says of the workspace; without dependencies of others it reads only our manifests.
fn packages(root: &Path) -> anyhow::Result<Vec<Package>> {
    let mut metadata = shell::cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(root);
    packages_of(&serde_json::from_str(&shell::output(&mut metadata)?)?, root)
}

fn packages_of(metadata: &Value, root: &Path) -> anyhow::Result<Vec<Package>> {
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest).to_string_lossy();
        let uses: Vec<&str> = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|used| used["kind"] != "dev" || used["name"] != "weir-sim")
            .filter_map(|used| used["name"].as_str())
            .collect();
        packages.push(Package::new(package["name"].as_str().unwrap_or_default(), &manifest, &uses));
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tests_may_use_the_simulator_and_nothing_else_that_is_not_said() {
        let metadata = json!({ "packages": [{
            "name": "weir-journal",
            "manifest_path": "/a/crates/journal/Cargo.toml",
            "dependencies": [
                { "name": "weir-base", "kind": null },
                { "name": "weir-engine", "kind": "dev" },
                { "name": "weir-sim", "kind": "dev" },
            ],
        }] });
        let packages = packages_of(&metadata, Path::new("/a")).unwrap();
        assert_eq!(packages[0].room(), "journal");
        assert_eq!(packages[0].uses.iter().collect::<Vec<_>>(), ["weir-base", "weir-engine"]);
        let built = json!({ "packages": [{ "dependencies": [{ "name": "weir-sim", "kind": "build" }] }] });
        assert_eq!(packages_of(&built, Path::new("/a")).unwrap()[0].uses.len(), 1);
    }
}
