//! Software bills of materials: CycloneDX and SPDX 2, both in JSON.

use std::collections::HashMap;

use serde_json::Value;

use super::{Broken, Reader, json_key_line};
use crate::package::{Ecosystem, Package};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Ecosystem, name and version of a package URL; `None` for other ecosystems or a broken one.
fn package_url(purl: &str) -> Option<(Ecosystem, String, String)> {
    let rest = purl.strip_prefix("pkg:")?.split(['?', '#']).next()?;
    let (kind, rest) = rest.split_once('/')?;
    let (name, version) = rest.rsplit_once('@').unwrap_or((rest, ""));
    let ecosystem = match kind {
        "pypi" => Ecosystem::Pypi,
        "cargo" => Ecosystem::Cargo,
        "npm" => Ecosystem::Npm,
        _ => return None,
    };
    let decode = |text: &str| text.replace("%40", "@").replace("%2B", "+").replace("%2b", "+").replace("%21", "!");
    Some((ecosystem, decode(name), decode(version)))
}

fn component(reader: &mut Reader<'_>, purl: &str, raw_name: &str, version: &str) -> Option<Package> {
    let line = json_key_line(reader.text, if purl.is_empty() { raw_name } else { purl });
    let (ecosystem, name, version) =
        package_url(purl).unwrap_or_else(|| (Ecosystem::Pypi, raw_name.to_owned(), version.to_owned()));
    let mut package = if ecosystem == Ecosystem::Npm && name.starts_with('@') {
        Package { name, version, file: reader.file.to_owned(), line, pinned: true, ..Package::default() }
    } else {
        reader.package(&name, &version, line)?
    };
    package.ecosystem = ecosystem;
    Some(package)
}

pub(super) fn read_cyclonedx(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let document = reader.json()?;
    let mut by_ref: HashMap<&str, usize> = HashMap::new();
    for entry in list(&document, "components") {
        let Some(mut package) = component(reader, text(entry, "purl"), text(entry, "name"), text(entry, "version"))
        else {
            continue;
        };
        let stated: Vec<String> = list(entry, "licenses")
            .filter_map(|one| {
                let license = one.get("license").unwrap_or(&Value::Null);
                let found = [text(one, "expression"), text(license, "id"), text(license, "name")];
                found.into_iter().find(|text| !text.is_empty()).map(str::to_owned)
            })
            .collect();
        // Several entries without an expression all apply.
        package.stated_license = (!stated.is_empty()).then(|| stated.join(" AND "));
        package.hashed = list(entry, "hashes").next().is_some();
        by_ref.insert(text(entry, "bom-ref"), reader.set.packages.len());
        reader.set.packages.push(package);
    }
    for entry in list(&document, "dependencies") {
        let Some(from) = by_ref.get(text(entry, "ref")).copied() else { continue };
        let to: Vec<String> = list(entry, "dependsOn")
            .filter_map(|one| Some(reader.set.packages[*by_ref.get(one.as_str()?)?].name.clone()))
            .collect();
        reader.set.packages[from].requires = to;
    }
    Ok(())
}

pub(super) fn read_spdx(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let document = reader.json()?;
    if !text(&document, "spdxVersion").starts_with("SPDX-2.") {
        return Err((1, "only SPDX 2 is read".into()));
    }
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for entry in list(&document, "packages") {
        let references = list(entry, "externalRefs").filter(|one| text(one, "referenceType") == "purl");
        let purl = references.map(|one| text(one, "referenceLocator")).next().unwrap_or_default();
        let Some(mut package) = component(reader, purl, text(entry, "name"), text(entry, "versionInfo")) else {
            continue;
        };
        let said = [text(entry, "licenseConcluded"), text(entry, "licenseDeclared")];
        let said = said.into_iter().find(|text| !matches!(*text, "" | "NOASSERTION" | "NONE"));
        package.stated_license = said.map(str::to_owned);
        by_id.insert(text(entry, "SPDXID"), reader.set.packages.len());
        reader.set.packages.push(package);
    }
    for entry in list(&document, "relationships") {
        let (from, to) = (by_id.get(text(entry, "spdxElementId")), by_id.get(text(entry, "relatedSpdxElement")));
        if let ("DEPENDS_ON", Some(from), Some(to)) = (text(entry, "relationshipType"), from, to) {
            let name = reader.set.packages[*to].name.clone();
            reader.set.packages[*from].requires.push(name);
        }
    }
    Ok(())
}
