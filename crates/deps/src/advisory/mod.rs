//! Known vulnerabilities, offline: an export in the OSV format (zip or folder, JSON or YAML), compiled once to an index file.
//!
//! The index (`docs/formats/deps-advisories.md`) has a table of package names, so that a check reads only the records of
//! its packages. Records about the same flaw (aliases) are one finding. An advisory past its deadline is denied whatever
//! its level; a missing or broken index is a finding, never "no vulnerabilities".

pub mod cvss;
pub mod record;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_base::{FileSystem, Kind, OpenMode, Timestamp};

use crate::archive;
use crate::check::day_of;
use crate::finding::{Code, Finding, Level};
use crate::package::{Ecosystem, Package};
use crate::policy::Policy;
use crate::{Error, Result};
use cvss::Severity;
use record::Record;

const MAGIC: &[u8; 8] = b"WEIRADV1";
/// Largest record, bytes.
const RECORD_BYTES_MAX: u64 = 8 << 20;
/// Largest table of names, bytes.
const TABLE_BYTES_MAX: u32 = 256 << 20;
/// Most records.
const RECORDS_MAX: usize = 1_000_000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Table {
    /// Where the export came from.
    source: String,
    /// When it was compiled, nanoseconds UTC.
    compiled: Timestamp,
    records: usize,
    /// Files that could not be read.
    broken: Vec<String>,
    /// Name to (offset after the table, length).
    packages: BTreeMap<String, (u64, u32)>,
}

/// What compiling did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compiled {
    /// Records kept.
    pub records: usize,
    /// Packages they are about.
    pub packages: usize,
    /// Files that could not be read, with the reason.
    pub broken: Vec<String>,
}

/// Compiles an export (a zip file or a folder of JSON or YAML files) to the index at `to`.
pub fn compile(fs: &dyn FileSystem, from: &Path, to: &Path, now: Timestamp) -> Result<Compiled> {
    let mut by_name: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    let (mut broken, mut records) = (Vec::new(), 0usize);
    for_each_document(fs, from, &mut |file, bytes| {
        let parse = |bytes: Vec<u8>| if is_yaml(&file) { record::parse_yaml(&bytes) } else { record::parse(&bytes) };
        match bytes.and_then(|bytes| parse(bytes).map_err(Error::invalid)) {
            Ok(found) => {
                for (name, record) in found {
                    records += 1;
                    by_name.entry(name).or_default().push(record);
                }
            }
            Err(error) => broken.push(format!("{file}: {error}")),
        }
        if records > RECORDS_MAX {
            return Err(Error::new(Kind::Limit, format!("the export has more than {RECORDS_MAX} records")));
        }
        Ok(())
    })?;
    let mut table = Table {
        source: from.display().to_string(),
        compiled: now,
        records,
        broken: broken.clone(),
        ..Table::default()
    };
    table.broken.truncate(100);
    let mut blobs = Vec::new();
    for (name, found) in &by_name {
        let blob =
            serde_json::to_vec(found).map_err(|error| Error::wrap(Kind::Internal, "cannot encode records", error))?;
        let len =
            u32::try_from(blob.len()).map_err(|_| Error::new(Kind::Limit, "records of one package pass 4 GiB"))?;
        table.packages.insert(name.clone(), (blobs.len() as u64, len));
        blobs.extend(blob);
    }
    let encoded =
        serde_json::to_vec(&table).map_err(|error| Error::wrap(Kind::Internal, "cannot encode the table", error))?;
    let mut file = Vec::with_capacity(encoded.len() + blobs.len() + 16);
    file.extend(MAGIC);
    file.extend((encoded.len() as u32).to_le_bytes());
    file.extend(weir_base::checksum::crc32c(&encoded).to_le_bytes());
    file.extend(encoded);
    file.extend(blobs);
    if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs.create_dir_all(dir).map_err(|error| Error::io(format!("cannot make {}", dir.display()), error))?;
    }
    fs.replace(to, &file).map_err(|error| Error::io(format!("cannot write {}", to.display()), error))?;
    Ok(Compiled { records, packages: by_name.len(), broken })
}

/// OSV exports are JSON, the advisory database of the PyPA is YAML.
fn is_record(name: &str) -> bool {
    name.ends_with(".json") || is_yaml(name)
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

type Visit<'a> = &'a mut dyn FnMut(String, Result<Vec<u8>>) -> Result<()>;

fn for_each_document(fs: &dyn FileSystem, from: &Path, visit: Visit<'_>) -> Result<()> {
    let found = fs.metadata(from).map_err(|error| Error::io(format!("cannot read {}", from.display()), error))?;
    if found.is_dir {
        return for_each_file(fs, from, 0, visit);
    }
    let file =
        fs.open(from, OpenMode::Read).map_err(|error| Error::io(format!("cannot read {}", from.display()), error))?;
    for entry in archive::entries(&file)? {
        if is_record(&entry.name) {
            visit(entry.name.clone(), archive::read(&file, &entry, RECORD_BYTES_MAX))?;
        }
    }
    Ok(())
}

fn for_each_file(fs: &dyn FileSystem, dir: &Path, depth: usize, visit: Visit<'_>) -> Result<()> {
    let mut entries = fs.list(dir).map_err(|error| Error::io(format!("cannot list {}", dir.display()), error))?;
    entries.sort();
    for path in entries {
        let Ok(found) = fs.metadata(&path) else { continue };
        if found.is_dir && depth < 8 {
            for_each_file(fs, &path, depth + 1, visit)?;
        } else if is_record(&path.to_string_lossy()) {
            let bytes = if found.len > RECORD_BYTES_MAX {
                Err(Error::new(Kind::Limit, "the record is larger than 8 MiB"))
            } else {
                fs.read(&path).map_err(|error| Error::io("cannot read it", error))
            };
            visit(path.display().to_string(), bytes)?;
        }
    }
    Ok(())
}

/// The records of a set's packages.
#[derive(Debug, Default)]
pub struct Advisories {
    by_name: HashMap<String, Vec<Record>>,
    missing: Vec<String>,
    path: PathBuf,
}

impl Advisories {
    /// Reads the records of `names` from an index. What cannot be read is remembered and becomes a finding.
    pub fn open<'a>(fs: &dyn FileSystem, path: &Path, names: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self { path: path.to_owned(), ..Self::default() };
        if let Err(error) = found.load(fs, path, names) {
            found.missing.push(format!("advisories could not be looked up: {}", weir_base::error::chain(&error)));
        }
        found
    }

    fn load<'a>(&mut self, fs: &dyn FileSystem, path: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let broken = || Error::new(Kind::Damaged, format!("{} is not an advisory index", path.display()));
        let io = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file: Arc<dyn weir_base::File> = fs.open(path, OpenMode::Read).map_err(io)?;
        let mut head = [0; 16];
        file.read_exact_at(&mut head, 0).map_err(|_| broken())?;
        let table_bytes = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if &head[..8] != MAGIC
            || table_bytes > TABLE_BYTES_MAX
            || u64::from(table_bytes) + 16 > file.len().map_err(io)?
        {
            return Err(broken());
        }
        let mut table = vec![0; table_bytes as usize];
        file.read_exact_at(&mut table, 16).map_err(|_| broken())?;
        if weir_base::checksum::crc32c(&table).to_le_bytes() != head[12..16] {
            return Err(broken());
        }
        let table: Table = serde_json::from_slice(&table).map_err(|_| broken())?;
        if !table.broken.is_empty() {
            self.missing.push(format!(
                "{} advisory records could not be read, the first: {}",
                table.broken.len(),
                table.broken[0]
            ));
        }
        let size = file.len().map_err(io)?;
        for name in names {
            let Some((offset, len)) = table.packages.get(name) else { continue };
            let at = 16 + u64::from(table_bytes) + offset;
            if at + u64::from(*len) > size {
                return Err(broken());
            }
            let mut blob = vec![0; *len as usize];
            file.read_exact_at(&mut blob, at).map_err(|_| broken())?;
            self.by_name.insert(name.to_owned(), serde_json::from_slice(&blob).map_err(|_| broken())?);
        }
        Ok(())
    }

    /// Adds the findings of one package.
    pub(crate) fn judge(&self, package: &Package, policy: &Policy, now: Timestamp, findings: &mut Vec<Finding>) {
        if package.ecosystem != Ecosystem::Pypi {
            return;
        }
        let mut told: HashSet<&str> = HashSet::new();
        let records = self.by_name.get(&package.name).map_or(&[][..], Vec::as_slice);
        let mut affecting: Vec<&Record> = records.iter().filter(|record| record.affects(&package.version)).collect();
        // The record with a severity speaks for its aliases.
        affecting.sort_by(|a, b| (a.severity, &a.id).cmp(&(b.severity, &b.id)));
        for record in affecting {
            let ids = || std::iter::once(record.id.as_str()).chain(record.aliases.iter().map(String::as_str));
            let known = ids().any(|id| told.contains(id));
            told.extend(ids());
            if !known {
                findings.push(finding(record, package, policy, now));
            }
        }
    }

    /// What could not be looked at.
    pub fn problems(&self, policy: &Policy) -> Vec<Finding> {
        let make = |why: &String| {
            Finding::new(Code::DataMissing, policy.levels.missing, why.clone())
                .at(self.path.display().to_string(), 0)
                .with_fix("weir deps update EXPORT")
        };
        self.missing.iter().map(make).collect()
    }
}

fn finding(record: &Record, package: &Package, policy: &Policy, now: Timestamp) -> Finding {
    let rules = &policy.advisories;
    let today = day_of(now);
    let at = match record.severity {
        Severity::Critical => 0,
        Severity::High => 1,
        Severity::Medium => 2,
        Severity::Low => 3,
        Severity::Unknown => 4,
    };
    let mut level = rules.levels[at];
    let aliases = if record.aliases.is_empty() { String::new() } else { format!(" ({})", record.aliases.join(", ")) };
    let mut message = format!("{}{aliases}, {}: {}", record.id, record.severity.word(), record.summary);
    if let Some(days) = rules.deadline_days.get(at)
        && age_days(&record.published, &today) > i64::from(*days)
    {
        level = Level::Deny;
        message.push_str(&format!("; published {}, past the deadline of {days} days", record.published));
    }
    let ignored = rules.ignore.iter().find(|(id, _, last)| {
        (*id == record.id || record.aliases.contains(id)) && last.as_ref().is_none_or(|last| *last >= today)
    });
    if let Some((_, reason, _)) = ignored {
        level = Level::Allow;
        message.push_str(&format!("; ignored: {reason}"));
    }
    let fix = match record.fixed_after(&package.version) {
        Some(fixed) => format!("upgrade to {fixed} or later"),
        None => "no fixed version is known: replace or isolate it".into(),
    };
    Finding::new(Code::Advisory, level, message).with_fix(fix).at(package.file.clone(), package.line)
}

fn age_days(published: &str, today: &str) -> i64 {
    let parse = |day: &str| day.parse::<jiff::civil::Date>().ok();
    match (parse(published), parse(today)) {
        (Some(from), Some(to)) => i64::from((to - from).get_days()),
        _ => 0,
    }
}
