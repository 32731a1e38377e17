//! `uv.lock`: every package for every platform; for a chosen target, those that its markers reach.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Broken, Reader, artifact, tables_of, text_of};
use crate::name;
use crate::package::Package;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let table = reader.toml()?;
    let lines = reader.lines_of("[[package]]");
    let mut roots: Vec<Package> = Vec::new();
    let mut edges: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for (at, entry) in tables_of(&table, "package").enumerate() {
        let line = lines.get(at).copied().unwrap_or(0);
        let Some(mut package) = reader.package(text_of(entry, "name"), text_of(entry, "version"), line) else {
            continue;
        };
        let source = entry.get("source").and_then(toml::Value::as_table);
        let of_source = |key: &str| source.and_then(|source| source.get(key)).and_then(toml::Value::as_str);
        let is_root = of_source("virtual").is_some() || of_source("editable").is_some();
        package.origin = ["registry", "url", "git"].iter().find_map(|key| of_source(key)).map(name::redact_url);
        let files = entry.get("sdist").and_then(toml::Value::as_table).into_iter().chain(tables_of(entry, "wheels"));
        for file in files {
            let place = [text_of(file, "url"), text_of(file, "path")].into_iter().find(|text| !text.is_empty());
            let size = file.get("size").and_then(toml::Value::as_integer).and_then(|size| u64::try_from(size).ok());
            package.artifacts.push(artifact(place.unwrap_or_default(), text_of(file, "hash"), size));
        }
        package.hashed = package.artifacts.iter().any(|artifact| artifact.sha256.is_some());
        let depends = edges.entry(package.name.clone()).or_default();
        let optional = ["optional-dependencies", "dev-dependencies"].into_iter().filter(|_| is_root);
        let groups = optional.filter_map(|key| entry.get(key)?.as_table()).flat_map(|groups| groups.values());
        let lists = entry.get("dependencies").into_iter().chain(groups).filter_map(toml::Value::as_array);
        for dependency in lists.flatten().filter_map(toml::Value::as_table) {
            if let Ok(required) = name::normalize(text_of(dependency, "name")) {
                depends.push((required.clone(), text_of(dependency, "marker").to_owned()));
                package.requires.push(required);
            }
        }
        if is_root { roots.push(package) } else { reader.set.packages.push(package) }
    }
    for name in roots.iter().flat_map(|root| &root.requires) {
        reader
            .set
            .packages
            .iter_mut()
            .filter(|package| package.name == *name)
            .for_each(|package| package.direct = true);
    }
    if reader.target.is_chosen() && !roots.is_empty() {
        let reached = reach(reader, &roots, &edges);
        reader.set.packages.retain(|package| reached.contains(&package.name));
    }
    Ok(())
}

fn reach(reader: &Reader<'_>, roots: &[Package], edges: &HashMap<String, Vec<(String, String)>>) -> HashSet<String> {
    let mut reached: HashSet<String> = HashSet::new();
    let mut queue: VecDeque<&str> = roots.iter().map(|root| root.name.as_str()).collect();
    while let Some(name) = queue.pop_front() {
        for (to, marker) in edges.get(name).into_iter().flatten() {
            if reader.target.holds(marker) && reached.insert(to.clone()) {
                queue.push_back(to);
            }
        }
    }
    reached
}
