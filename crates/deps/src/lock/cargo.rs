//! `Cargo.lock`. It names no licences: those come from the registry sources on this machine, where there are any.

use super::{Broken, Reader, artifact, tables_of, text_of};
use crate::name;
use crate::package::Ecosystem;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let table = reader.toml()?;
    let lines = reader.lines_of("[[package]]");
    for (at, entry) in tables_of(&table, "package").enumerate() {
        let source = text_of(entry, "source");
        if source.is_empty() {
            continue;
        }
        let line = lines.get(at).copied().unwrap_or(0);
        let Some(mut package) = reader.package(text_of(entry, "name"), text_of(entry, "version"), line) else {
            continue;
        };
        package.ecosystem = Ecosystem::Cargo;
        package.origin = Some(name::redact_url(source.trim_start_matches("registry+").trim_start_matches("sparse+")));
        let checksum = text_of(entry, "checksum");
        if !checksum.is_empty() {
            package.artifacts.push(artifact("", &format!("sha256:{checksum}"), None));
            package.hashed = true;
        }
        let depends = entry.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        package.requires = depends.filter_map(|one| name::normalize(one.as_str()?.split(' ').next()?).ok()).collect();
        reader.set.packages.push(package);
    }
    Ok(())
}
