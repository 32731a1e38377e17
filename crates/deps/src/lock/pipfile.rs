//! `Pipfile.lock`.

use serde_json::Value;

use super::{Broken, Reader, artifact, json_key_line};
use crate::name;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let document = reader.json()?;
    for section in ["default", "develop"] {
        let Some(entries) = document.get(section).and_then(Value::as_object) else { continue };
        for (raw_name, entry) in entries {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            if !reader.target.holds(text("markers")) {
                continue;
            }
            let line = json_key_line(reader.text, raw_name);
            let version = text("version").trim_start_matches('=').trim();
            let Some(mut package) = reader.package(raw_name, version, line) else { continue };
            for hash in entry.get("hashes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                package.artifacts.push(artifact("", hash, None));
            }
            package.hashed = package.artifacts.iter().any(|artifact| artifact.sha256.is_some());
            package.origin = index_url(&document, text("index"));
            reader.set.packages.push(package);
        }
    }
    Ok(())
}

fn index_url(document: &Value, index: &str) -> Option<String> {
    let sources = document.get("_meta")?.get("sources")?.as_array()?;
    let found = sources.iter().find(|source| source.get("name").and_then(Value::as_str) == Some(index))?;
    found.get("url").and_then(Value::as_str).map(name::redact_url)
}
