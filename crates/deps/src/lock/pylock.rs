//! `pylock.toml` (PEP 751).

use super::{Broken, Reader, artifact, tables_of, text_of};
use crate::name;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let table = reader.toml()?;
    let version = text_of(&table, "lock-version");
    if version.split('.').next() != Some("1") {
        return Err((1, format!("lock-version '{}' is not known", name::printable(version))));
    }
    let lines = reader.lines_of("[[packages]]");
    for (at, entry) in tables_of(&table, "packages").enumerate() {
        if !reader.target.holds(text_of(entry, "marker")) {
            continue;
        }
        let line = lines.get(at).copied().unwrap_or(0);
        let Some(mut package) = reader.package(text_of(entry, "name"), text_of(entry, "version"), line) else {
            continue;
        };
        let index = text_of(entry, "index");
        package.origin = (!index.is_empty()).then(|| name::redact_url(index));
        let single = ["sdist", "archive"].into_iter().filter_map(|key| entry.get(key)?.as_table());
        for file in tables_of(entry, "wheels").chain(single) {
            let place = [text_of(file, "url"), text_of(file, "path"), text_of(file, "name")];
            let hash =
                file.get("hashes").and_then(toml::Value::as_table).map_or("", |hashes| text_of(hashes, "sha256"));
            let size = file.get("size").and_then(toml::Value::as_integer).and_then(|size| u64::try_from(size).ok());
            let place = place.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
            package.artifacts.push(artifact(place, &format!("sha256:{hash}"), size));
        }
        package.hashed = package.artifacts.iter().any(|artifact| artifact.sha256.is_some());
        package.pinned |= package.hashed;
        package.requires =
            tables_of(entry, "dependencies").filter_map(|one| name::normalize(text_of(one, "name")).ok()).collect();
        reader.set.packages.push(package);
    }
    Ok(())
}
