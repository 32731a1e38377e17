//! Licence data that is newer than this binary: identifiers of the SPDX list and names for the alias table.
//!
//! `weir deps update` reads them from the files that SPDX publishes (`licenses.json`, `exceptions.json`) or from an alias
//! file (`{"aliases": {"Expat license": "MIT"}}`), and merges them into one file. [`install`] loads that file once for the
//! process. It can only add: what the binary knows stays as it is, so that no file can make a licence mean another one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_base::{FileSystem, Kind};

use super::names::{self, Named};
use crate::{Error, Result};

/// Largest file that is read, bytes. The SPDX list has about 350 KiB.
const BYTES_MAX: u64 = 64 << 20;

/// What was added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenceData {
    /// Version of the SPDX list, where it came with one.
    pub version: String,
    /// Identifiers that the binary does not have, in their official case.
    pub licenses: Vec<String>,
    /// Exceptions that the binary does not have.
    pub exceptions: Vec<String>,
    /// Names in normal form that the binary does not have, each with its expression.
    pub aliases: BTreeMap<String, String>,
}

struct Installed {
    licenses: HashMap<String, String>,
    exceptions: HashMap<String, String>,
    aliases: HashMap<String, Named>,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Whether `bytes` are licence data: one of the files that [`merge`] takes.
pub fn is_licence_data(document: &Value) -> bool {
    ["licenses", "exceptions"].iter().any(|key| document.get(key).is_some_and(Value::is_array))
        || document.get("aliases").is_some_and(Value::is_object)
}

/// Adds what a file has to the data at `to`.
///
/// # Errors
/// `Invalid`, naming the entry, when an identifier or the expression of an alias is none.
pub fn merge(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<LicenceData> {
    let document: Value = read(fs, from)?;
    let mut data: LicenceData = if fs.exists(to).unwrap_or(false) { read(fs, to)? } else { LicenceData::default() };
    if let Some(version) = document.get("licenseListVersion").and_then(Value::as_str) {
        data.version = version.chars().filter(|c| !c.is_control()).take(32).collect();
    }
    for (list, key, known) in
        [("licenses", "licenseId", &mut data.licenses), ("exceptions", "licenseExceptionId", &mut data.exceptions)]
    {
        for one in document.get(list).and_then(Value::as_array).into_iter().flatten() {
            let id = one.as_str().or_else(|| one.get(key)?.as_str()).unwrap_or_default();
            if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+".contains(&b))
            {
                return Err(Error::invalid(format!("{list} of {} has an entry without a {key}", from.display())));
            }
            let builtin = spdx::license_id(id).is_some() || spdx::exception_id(id).is_some();
            if !builtin && !known.iter().any(|have| have == id) {
                known.push(id.to_owned());
            }
        }
    }
    let ids: HashMap<String, &String> = data.licenses.iter().map(|id| (id.to_ascii_lowercase(), id)).collect();
    for (name, value) in document.get("aliases").and_then(Value::as_object).into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let parsed = super::expression::parse(text).map(|parsed| parsed.expression.to_string());
        let meant = parsed.or_else(|why| ids.get(&text.to_ascii_lowercase()).map(|id| (*id).clone()).ok_or(why));
        let meant = meant.map_err(|why| {
            Error::invalid(format!("the alias '{}' in {}: {why}", crate::name::printable(name), from.display()))
        })?;
        if names::alias(name).is_none() {
            data.aliases.insert(names::key(name), meant);
        }
    }
    let bytes =
        serde_json::to_vec(&data).map_err(|error| Error::wrap(Kind::Internal, "cannot encode the data", error))?;
    if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs.create_dir_all(dir).map_err(|error| Error::io(format!("cannot make {}", dir.display()), error))?;
    }
    fs.replace(to, &bytes).map_err(|error| Error::io(format!("cannot write {}", to.display()), error))?;
    Ok(data)
}

fn read<T: serde::de::DeserializeOwned>(fs: &dyn FileSystem, path: &Path) -> Result<T> {
    let io = |error| Error::io(format!("cannot read {}", path.display()), error);
    if fs.metadata(path).map_err(io)?.len > BYTES_MAX {
        return Err(Error::new(Kind::Limit, format!("{} is larger than 64 MiB", path.display())));
    }
    let bytes = fs.read(path).map_err(io)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::wrap(Kind::Invalid, format!("{} is not licence data", path.display()), error))
}

/// Makes the data at `path` count for the rest of the process; once, before anything is parsed.
///
/// # Errors
/// Those of reading; the data that the binary has still counts.
pub fn install(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    let data: LicenceData = read(fs, path)?;
    let folded = |ids: Vec<String>| ids.into_iter().map(|id| (id.to_ascii_lowercase(), id)).collect();
    // The names live as long as the process, as the built-in ones do.
    let aliases = data.aliases.into_iter().map(|(name, meant)| (name, Named::Exact(meant.leak()))).collect();
    let installed = Installed { licenses: folded(data.licenses), exceptions: folded(data.exceptions), aliases };
    let _ = INSTALLED.set(installed);
    Ok(())
}

/// The official case of an identifier that only the newer list has.
pub(super) fn license(id: &str) -> Option<&'static str> {
    INSTALLED.get()?.licenses.get(&id.to_ascii_lowercase()).map(String::as_str)
}

/// The official case of an exception that only the newer list has.
pub(super) fn exception(id: &str) -> Option<&'static str> {
    INSTALLED.get()?.exceptions.get(&id.to_ascii_lowercase()).map(String::as_str)
}

/// What a name in normal form means, where only the newer table has it.
pub(super) fn alias(key: &str) -> Option<&'static Named> {
    INSTALLED.get()?.aliases.get(key)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use weir_base::OsFileSystem;

    use super::*;

    fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        OsFileSystem.replace(&path, text.as_bytes()).unwrap();
        path
    }

    #[test]
    fn newer_data_adds_and_never_changes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let to = dir.join("below/licences");
        let list = put(
            dir,
            "licenses.json",
            r#"{"licenseListVersion": "9.9", "licenses": [{"licenseId": "MIT"}, {"licenseId": "Weir-Test-1.0", "name": "x"}]}"#,
        );
        let exceptions =
            put(dir, "exceptions.json", r#"{"exceptions": [{"licenseExceptionId": "Weir-Test-exception"}]}"#);
        let aliases = put(
            dir,
            "aliases.json",
            r#"{"aliases": {"MIT License": "GPL-3.0-only", "The Weir Test": "weir-test-1.0", "Two of them!": "MIT OR ISC"}}"#,
        );
        merge(&OsFileSystem, &list, &to).unwrap();
        merge(&OsFileSystem, &exceptions, &to).unwrap();
        let data = merge(&OsFileSystem, &aliases, &to).unwrap();
        assert_eq!((data.version.as_str(), data.licenses.len(), data.aliases.len()), ("9.9", 1, 2));
        let parse = |text: &str| super::super::expression::parse(text).map(|parsed| parsed.expression.to_string());
        assert!(parse("Weir-Test-1.0").is_err());
        install(&OsFileSystem, &to).unwrap();
        assert_eq!(parse("weir-test-1.0 WITH weir-test-exception").unwrap(), "Weir-Test-1.0 WITH Weir-Test-exception");
        assert!(matches!(names::alias("the WEIR test"), Some(Named::Exact("Weir-Test-1.0"))));
        assert!(matches!(names::alias("MIT License"), Some(Named::Exact("MIT"))), "what is built in stays");
        for (name, text) in [
            ("a.json", r#"{"licenses": [{"licenseId": "x y"}]}"#),
            ("b.json", r#"{"aliases": {"x": "nonsense"}}"#),
            ("c.json", "{"),
        ] {
            assert_eq!(merge(&OsFileSystem, &put(dir, name, text), &to).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
    }
}
