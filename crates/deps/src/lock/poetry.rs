//! `poetry.lock`.

use super::{Broken, Reader, artifact, tables_of, text_of};
use crate::name;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let table = reader.toml()?;
    let lines = reader.lines_of("[[package]]");
    // Before format 2 the hashes were in a table of their own.
    let old_files = table.get("metadata").and_then(|metadata| metadata.get("files")).and_then(toml::Value::as_table);
    for (at, entry) in tables_of(&table, "package").enumerate() {
        let marker = match entry.get("markers") {
            Some(toml::Value::String(marker)) => marker.as_str(),
            _ => "",
        };
        if !reader.target.holds(marker) {
            continue;
        }
        let line = lines.get(at).copied().unwrap_or(0);
        let raw_name = text_of(entry, "name");
        let Some(mut package) = reader.package(raw_name, text_of(entry, "version"), line) else { continue };
        let source = entry.get("source").and_then(toml::Value::as_table).map_or("", |source| text_of(source, "url"));
        package.origin = (!source.is_empty()).then(|| name::redact_url(source));
        let old = old_files.and_then(|files| files.get(raw_name)?.as_array());
        let old = old.into_iter().flatten().filter_map(toml::Value::as_table);
        for file in tables_of(entry, "files").chain(old) {
            package.artifacts.push(artifact(text_of(file, "file"), text_of(file, "hash"), None));
        }
        package.hashed = package.artifacts.iter().any(|artifact| artifact.sha256.is_some());
        if let Some(depends) = entry.get("dependencies").and_then(toml::Value::as_table) {
            package.requires = depends.keys().filter_map(|name| name::normalize(name).ok()).collect();
        }
        reader.set.packages.push(package);
    }
    Ok(())
}
