//! `package-lock.json`, formats 2 and 3: the `packages` table, with the licences that the packages state.

use serde_json::Value;

use super::{Broken, Reader, json_key_line};
use crate::name;
use crate::package::{Ecosystem, Package};

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let document = reader.json()?;
    let Some(packages) = document.get("packages").and_then(Value::as_object) else {
        return Err((1, "no packages table (lockfileVersion 1 is not read)".into()));
    };
    for (place, entry) in packages {
        let Some((_, raw_name)) = place.rsplit_once("node_modules/") else { continue };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let line = json_key_line(reader.text, place);
        if !is_npm_name(raw_name) || !name::is_valid_version(text("version")) {
            reader.problem(line, format!("'{}' is not a package with a version", name::printable(raw_name)));
            continue;
        }
        if reader.set.packages.len() >= super::PACKAGES_MAX {
            break;
        }
        let resolved = text("resolved");
        let depends = entry.get("dependencies").and_then(Value::as_object);
        reader.set.packages.push(Package {
            name: raw_name.to_owned(),
            version: text("version").to_owned(),
            ecosystem: Ecosystem::Npm,
            file: reader.file.to_owned(),
            line,
            pinned: true,
            hashed: !text("integrity").is_empty(),
            origin: (!resolved.is_empty()).then(|| name::redact_url(resolved)),
            stated_license: entry.get("license").and_then(Value::as_str).map(str::to_owned),
            requires: depends.into_iter().flat_map(|depends| depends.keys().cloned()).collect(),
            ..Package::default()
        });
    }
    Ok(())
}

/// `name` or `@scope/name`.
fn is_npm_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    name.len() <= name::NAME_BYTES_MAX
        && match name.strip_prefix('@') {
            Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
            None => part(name),
        }
}
