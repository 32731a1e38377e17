//! `requirements.txt`: includes, constraints, hashes, markers, extras, continued lines (the format of pip's user guide).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::Operator;
use pep508_rs::{Requirement, VersionOrUrl};
use weir_base::FileSystem;

use super::{Broken, Reader, artifact};
use crate::marker::Target;
use crate::name;
use crate::package::PackageSet;

/// Most files that one file may include, itself counted.
const FILES_MAX: usize = 256;

/// Reads a file and what it includes (`-r`, `-c`).
pub(super) fn read(fs: &dyn FileSystem, path: &Path, text: &str, target: &Target) -> PackageSet {
    let mut set = PackageSet { source: path.display().to_string(), is_lock: true, ..PackageSet::default() };
    let mut pinned_by_constraints: HashMap<String, String> = HashMap::new();
    let mut queue: Vec<(PathBuf, bool, String)> = vec![(path.to_owned(), false, text.to_owned())];
    let mut seen: Vec<PathBuf> = vec![path.to_owned()];
    while let Some((file, is_constraint, text)) = queue.pop() {
        let shown = file.display().to_string();
        let mut reader = Reader { file: &shown, text: &text, target, set: PackageSet::default() };
        let includes = read_lines(&mut reader);
        let found = reader.set;
        set.problems.extend(found.problems);
        if is_constraint {
            let pins = found.packages.into_iter().filter(|package| package.pinned);
            pinned_by_constraints.extend(pins.map(|package| (package.name, package.version)));
        } else {
            set.packages.extend(found.packages);
        }
        for (include, line, constraint) in includes {
            let included = file.parent().unwrap_or(Path::new("")).join(&include);
            if seen.contains(&included) {
                continue;
            }
            seen.push(included.clone());
            let mut reader = Reader { file: &shown, text: "", target, set: PackageSet::default() };
            if include.contains("://") || seen.len() > FILES_MAX {
                reader.problem(line, format!("'{}' is not read", name::redact_url(&include)));
            } else {
                match super::read_text(fs, &included) {
                    Ok(text) => queue.push((included, is_constraint || constraint, text)),
                    Err(error) => reader.problem(line, weir_base::error::chain(&error)),
                }
            }
            set.problems.extend(reader.set.problems);
        }
    }
    for package in set.packages.iter_mut().filter(|package| !package.pinned) {
        if let Some(version) = pinned_by_constraints.get(&package.name) {
            package.version.clone_from(version);
            package.pinned = true;
        }
    }
    set.sort();
    set
}

pub(super) fn read_one(reader: &mut Reader<'_>) -> Result<(), Broken> {
    read_lines(reader);
    Ok(())
}

/// Reads the lines; gives the includes: (file, line, whether a constraint).
fn read_lines(reader: &mut Reader<'_>) -> Vec<(String, u32, bool)> {
    let mut includes = Vec::new();
    let text = reader.text;
    let mut lines = text.lines().enumerate();
    while let Some((at, first)) = lines.next() {
        let line = u32::try_from(at + 1).unwrap_or(0);
        let mut whole = strip_comment(first).to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push(' ');
            whole.push_str(strip_comment(next).trim());
        }
        let whole = whole.trim();
        if whole.is_empty() {
            continue;
        }
        if whole.starts_with('-') {
            let (option, value) = whole.split_once([' ', '=']).unwrap_or((whole, ""));
            match option {
                "-r" | "--requirement" => includes.push((value.trim().to_owned(), line, false)),
                "-c" | "--constraint" => includes.push((value.trim().to_owned(), line, true)),
                "-e" | "--editable" => reader.problem(line, "an editable requirement has no version to check"),
                _ => {}
            }
            continue;
        }
        let mut words = whole.split(" --");
        let spec = words.next().unwrap_or_default().trim();
        let hashes: Vec<&str> = words
            .filter_map(|word| word.strip_prefix("hash=").or_else(|| word.strip_prefix("hash ")))
            .map(str::trim)
            .collect();
        requirement(reader, spec, line, &hashes);
    }
    includes
}

/// A comment starts at the beginning of a line or after white space.
fn strip_comment(line: &str) -> &str {
    let line = line.trim_end();
    if line.trim_start().starts_with('#') {
        return "";
    }
    line.find(" #").map_or(line, |at| line[..at].trim_end())
}

/// Adds one PEP 508 requirement.
pub(super) fn requirement(reader: &mut Reader<'_>, spec: &str, line: u32, hashes: &[&str]) {
    if spec.len() > 4096 {
        return reader.problem(line, "a requirement longer than 4096 bytes");
    }
    if !has_sound_names(spec) {
        return reader.problem(line, format!("'{}' is not a requirement", name::printable(&name::redact_url(spec))));
    }
    let parsed = match Requirement::<pep508_rs::VerbatimUrl>::from_str(spec) {
        Ok(parsed) => parsed,
        Err(error) => {
            // The error as a whole underlines the place, and panics where that is inside of a letter.
            let why = error.message.to_string().lines().next().unwrap_or_default().to_owned();
            return reader
                .problem(line, format!("'{}' is not a requirement: {why}", name::printable(&name::redact_url(spec))));
        }
    };
    if !reader.target.holds_tree(&parsed.marker) {
        return;
    }
    let mut version = String::new();
    let mut origin = None;
    match &parsed.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(range)) => {
            let exact = range.iter().find(|one| matches!(one.operator(), Operator::Equal | Operator::ExactEqual));
            version = exact.map(|one| one.version().to_string()).unwrap_or_default();
        }
        Some(VersionOrUrl::Url(url)) => origin = Some(name::redact_url(&url.to_string())),
        None => {}
    }
    let Some(mut package) = reader.package(parsed.name.as_ref(), &version, line) else { return };
    package.direct = true;
    package.origin = origin;
    package.artifacts = hashes.iter().map(|hash| artifact("", hash, None)).collect();
    package.hashed = package.artifacts.iter().any(|artifact| artifact.sha256.is_some());
    reader.set.packages.push(package);
}

/// Whether the name and the extras are names. The parser underneath panics on some that are not ("idna- ==3.10").
fn has_sound_names(spec: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let is_name = |text: &str| {
        let is_end = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        is_end(text.chars().next()) && is_end(text.chars().next_back()) && text.chars().all(is_part)
    };
    let end = spec.find(|letter: char| !is_part(letter)).unwrap_or(spec.len());
    let are_sound = match spec[end..].trim_start().strip_prefix('[').map(|rest| rest.split_once(']')) {
        None => true,
        Some(None) => false,
        Some(Some((extras, _))) => extras.trim().is_empty() || extras.split(',').all(|extra| is_name(extra.trim())),
    };
    is_name(&spec[..end]) && are_sound
}
