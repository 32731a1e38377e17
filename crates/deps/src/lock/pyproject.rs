//! `pyproject.toml`: what a project asks for (PEP 621, PEP 735). It pins nothing, so versions are known only for `==`.

use super::{Broken, Reader, json_key_line, requirements};

pub(super) fn read(reader: &mut Reader<'_>) -> Result<(), Broken> {
    let table = reader.toml()?;
    let project = table.get("project").and_then(toml::Value::as_table);
    let groups = |value: Option<&toml::Value>| -> Vec<toml::Value> {
        let groups = value.and_then(toml::Value::as_table).into_iter().flat_map(|groups| groups.values());
        groups.filter_map(toml::Value::as_array).flatten().cloned().collect()
    };
    let mut wanted: Vec<toml::Value> =
        project.and_then(|project| project.get("dependencies")?.as_array()).cloned().unwrap_or_default();
    wanted.extend(groups(project.and_then(|project| project.get("optional-dependencies"))));
    wanted.extend(groups(table.get("dependency-groups")));
    for one in wanted.iter().filter_map(toml::Value::as_str) {
        let line = json_key_line(reader.text, one);
        requirements::requirement(reader, one, line, &[]);
    }
    Ok(())
}
