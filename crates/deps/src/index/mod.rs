//! Metadata of packages that are not installed, from a package index, through the store.
//!
//! For each package: the store by file hash or by name and version; the `.metadata` file beside a wheel (PEP 658, tried
//! even when it is not advertised); ranges of the wheel; the JSON document of the version. What cannot be had is a
//! finding (`data-missing`), never a clean package. Offline, only the store is asked.

pub mod files;
pub mod http;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_base::Kind;

use crate::archive;
use crate::check::Newest;
use crate::finding::{Code, Finding, Level};
use crate::licence::{FileText, text};
use crate::metadata::{self, HEADER_BYTES_MAX, Metadata};
use crate::name::redact_url;
use crate::package::{Ecosystem, Package, PackageSet};
use crate::store::Store;
use crate::{Error, Result, environment, parallel};
use files::RemoteFile;
use http::Http;

/// Largest page of a project, bytes.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Largest `.metadata` file or JSON document, bytes.
const METADATA_BYTES_MAX: u64 = 8 << 20;
/// Bytes fetched from the end of a wheel at first: what finding the list of files needs, and mostly all of it.
const TAIL_BYTES: u64 = archive::TAIL_BYTES_MAX;
/// Requests under way at once.
const CONCURRENCY: usize = 16;
/// How long "this version has no metadata" is believed.
const MISSING_LIFE: Duration = Duration::from_secs(3600);
/// How long a project's page is believed when the newest version is asked for.
const PAGE_LIFE: Duration = Duration::from_secs(6 * 3600);

/// What is remembered of one release.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    metadata: Option<Metadata>,
    /// Licence files by name, where the wheel was opened.
    texts: Vec<(String, String, text::TextLicenses)>,
    /// Why there is none.
    missing: Option<String>,
}

/// How to fetch.
pub struct Fetch<'a> {
    /// The index's simple page root, such as `https://index.test/simple/`; `None` is offline.
    pub index: Option<&'a str>,
    /// The client; unused offline.
    pub http: Option<&'a Http<'a>>,
    /// What is known already.
    pub store: &'a dyn Store,
    /// Level of what cannot be had.
    pub missing: Level,
    /// Ask for the newest version of every package, for the rule about packages that are behind.
    pub newest: bool,
    /// Open wheels for licence texts when the metadata names a family only.
    pub texts: bool,
}

/// Fills in metadata for the packages of a set that have none. Gives the newest versions where they were asked for.
pub fn fill(set: &mut PackageSet, fetch: &Fetch<'_>) -> HashMap<String, Newest> {
    let newest: Mutex<HashMap<String, Newest>> = Mutex::default();
    let wanted: Vec<usize> = (0..set.packages.len())
        .filter(|at| {
            let package = &set.packages[*at];
            package.ecosystem == Ecosystem::Pypi && (package.metadata.is_none() || fetch.newest)
        })
        .collect();
    let packages = &set.packages;
    let answers = parallel::map(&wanted, CONCURRENCY, |at| {
        let package = &packages[*at];
        let mut lookup = Lookup { fetch, package, page: None, asked: false };
        let known = package.metadata.is_none().then(|| lookup.known());
        if fetch.newest
            && let Some(found) = lookup.newest()
        {
            newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(package.name.clone(), found);
        }
        (!lookup.asked, known)
    });
    for (at, (hit, known)) in wanted.into_iter().zip(answers) {
        let package = &mut set.packages[at];
        *(if hit { &mut set.lookups.hits } else { &mut set.lookups.misses }) += 1;
        match known {
            Some(Ok(known)) => adopt(package, known, fetch.missing),
            Some(Err(error)) => missing(package, &weir_base::error::chain(&error), fetch.missing),
            None => {}
        }
    }
    newest.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn adopt(package: &mut Package, known: Known, level: Level) {
    if let Some(why) = &known.missing {
        return missing(package, why, level);
    }
    if let Some(metadata) = &known.metadata
        && package.requires.is_empty()
    {
        package.requires = metadata.requires.iter().filter_map(|one| environment::required_name(one)).collect();
    }
    package.metadata = known.metadata;
    package.texts = known.texts.into_iter().map(|(file, hash, licenses)| FileText { file, hash, licenses }).collect();
}

fn missing(package: &mut Package, why: &str, level: Level) {
    // An SBOM that states the licence needs nothing from an index.
    if package.stated_license.is_some() {
        return;
    }
    let finding = Finding::new(Code::DataMissing, level, format!("its metadata could not be had: {why}"))
        .with_fix("weir deps warm, with the index reachable");
    package.problems.push(finding.at(package.file.clone(), package.line));
}

struct Lookup<'a> {
    fetch: &'a Fetch<'a>,
    package: &'a Package,
    page: Option<Result<Vec<RemoteFile>>>,
    /// The store did not have all that was wanted.
    asked: bool,
}

impl Lookup<'_> {
    /// The store's key: by the hashes of the artifacts where they are given, which never become wrong.
    fn key(&self) -> (String, Option<Duration>) {
        let mut hashes: Vec<&str> = self.package.artifacts.iter().filter_map(|one| one.sha256.as_deref()).collect();
        hashes.sort_unstable();
        match hashes.is_empty() {
            false => (
                format!(
                    "meta/1/{}",
                    weir_base::checksum::hex(&weir_base::checksum::blake3(hashes.concat().as_bytes()))
                ),
                None,
            ),
            true => (
                format!("meta/1/{}/{}", self.package.name, self.package.version),
                Some(Duration::from_secs(7 * 86_400)),
            ),
        }
    }

    fn known(&mut self) -> Result<Known> {
        if self.package.version.is_empty() {
            self.asked = true;
            return Err(Error::new(Kind::NotFound, "no version is pinned, so there is none to look up"));
        }
        let (key, life) = self.key();
        if let Some(known) = self.fetch.store.get(&key).and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(known);
        }
        self.asked = true;
        if self.fetch.http.is_none() {
            return Err(Error::new(Kind::NotFound, "it is not at hand, and the check is offline"));
        }
        let known = match self.ask() {
            Ok(known) => known,
            Err(error) if error.kind() == Kind::NotFound => {
                Known { metadata: None, texts: Vec::new(), missing: Some(weir_base::error::chain(&error)) }
            }
            Err(error) => return Err(error),
        };
        let life = if known.missing.is_some() { Some(MISSING_LIFE) } else { life };
        if let Ok(encoded) = serde_json::to_vec(&known) {
            self.fetch.store.put(&key, &encoded, life);
        }
        Ok(known)
    }

    fn http(&self) -> Result<&Http<'_>> {
        self.fetch.http.ok_or_else(|| Error::new(Kind::NotFound, "the check is offline"))
    }

    fn ask(&mut self) -> Result<Known> {
        let package = self.package;
        let wheel = self.wheel()?;
        if let Some(wheel) = &wheel {
            let found = match self.metadata_file(wheel) {
                Err(error) if error.kind() == Kind::NotFound => None,
                other => Some(other?),
            };
            let needs_texts = |metadata: &Metadata| {
                let resolved = crate::licence::resolve(metadata, &[]);
                resolved.expression.is_none() || resolved.rung == crate::licence::Rung::Fuzzy
            };
            match found {
                Some(metadata) if !(self.fetch.texts && needs_texts(&metadata)) => {
                    return Ok(known(metadata, Vec::new()));
                }
                // The metadata alone does not tell: a wheel that cannot be read in ranges changes nothing.
                Some(metadata) => {
                    let texts = self.wheel_parts(wheel).map(|(_, texts)| texts).unwrap_or_default();
                    return Ok(known(metadata, texts));
                }
                None => {}
            }
            match self.wheel_parts(wheel) {
                Err(error) if error.kind() == Kind::NotFound => {}
                other => {
                    let (metadata, texts) = other?;
                    return Ok(known(metadata, texts));
                }
            }
        }
        match self.document()? {
            Some(metadata) => Ok(known(metadata, Vec::new())),
            None => Err(Error::new(
                Kind::NotFound,
                format!("the index has no metadata of {} {}", package.name, package.version),
            )),
        }
    }

    /// The wheel that the lock file lists, else the best one on the project's page.
    fn wheel(&mut self) -> Result<Option<RemoteFile>> {
        let listed = self.package.artifacts.iter().filter(|one| one.name.ends_with(".whl") && one.url.is_some());
        if let Some(one) = listed.min_by_key(|one| (!one.name.ends_with("-any.whl"), one.size.unwrap_or(u64::MAX))) {
            return Ok(Some(RemoteFile {
                name: one.name.clone(),
                url: one.url.clone().unwrap_or_default(),
                sha256: one.sha256.clone(),
                metadata_sha256: None,
                size: one.size,
                day: None,
                yanked: false,
            }));
        }
        let (name, version) = (self.package.name.clone(), self.package.version.clone());
        match self.page() {
            Ok(files) => Ok(files::best_wheel(files, &name, &version).cloned()),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(Error::new(error.kind(), weir_base::error::chain(error))),
        }
    }

    fn page(&mut self) -> Result<&Vec<RemoteFile>, &Error> {
        if self.page.is_none() {
            self.page = Some(self.read_page());
        }
        self.page.as_ref().expect("it was just set").as_ref()
    }

    fn read_page(&self) -> Result<Vec<RemoteFile>> {
        let root = self.fetch.index.ok_or_else(|| Error::new(Kind::NotFound, "no index is configured"))?;
        let url = format!("{}/{}/", root.trim_end_matches('/'), self.package.name);
        let accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
        let answer = self.http()?.get(&url, &[("accept", accept)], PAGE_BYTES_MAX)?;
        if answer.status != 200 {
            return Err(not_found(&url, answer.status));
        }
        files::parse(&answer.body, &answer.content_type, &url)
            .map_err(|why| Error::new(Kind::Damaged, format!("{}: {why}", redact_url(&url))))
    }

    fn metadata_file(&self, wheel: &RemoteFile) -> Result<Metadata> {
        let url = format!("{}.metadata", wheel.url.split('#').next().unwrap_or_default());
        let answer = self.http()?.get(&url, &[], METADATA_BYTES_MAX)?;
        if answer.status != 200 {
            // Stores of files answer 403 for what they do not have.
            return Err(Error::new(Kind::NotFound, format!("{} answered {}", redact_url(&url), answer.status)));
        }
        if let Some(wanted) = &wheel.metadata_sha256
            && *wanted != crate::digest::sha256_hex(&answer.body)
        {
            return Err(Error::new(
                Kind::Damaged,
                format!("{} has another hash than the index says", redact_url(&url)),
            ));
        }
        self.checked(&answer.body)
    }

    /// Metadata must be about the package that was asked for.
    fn checked(&self, bytes: &[u8]) -> Result<Metadata> {
        let end = metadata::header_end(bytes).unwrap_or(bytes.len()).min(HEADER_BYTES_MAX);
        let (metadata, problems) = metadata::parse(&bytes[..end]);
        if crate::name::normalize_lossy(&metadata.name) != self.package.name {
            let why = problems.first().map_or(String::new(), |one| format!(" (line {}: {})", one.line, one.message));
            return Err(Error::new(Kind::Damaged, format!("the index gave metadata of another package{why}")));
        }
        Ok(metadata)
    }

    fn wheel_parts(&self, wheel: &RemoteFile) -> Result<(Metadata, Vec<FileText>)> {
        let ranges = Ranges::open(self.http()?, &wheel.url)?;
        let entries = archive::entries(&ranges)?;
        let in_info = |name: &str, file: &str| {
            name.split_once('/').is_some_and(|(dir, rest)| dir.ends_with(".dist-info") && rest == file)
        };
        let entry = entries
            .iter()
            .find(|entry| in_info(&entry.name, "METADATA"))
            .ok_or_else(|| Error::new(Kind::Damaged, "the wheel has no METADATA"))?;
        let metadata = self.checked(&archive::read(&ranges, entry, METADATA_BYTES_MAX)?)?;
        let mut texts = Vec::new();
        for entry in entries.iter().filter(|entry| entry.name.contains(".dist-info/")) {
            let file = entry.name.split_once('/').map_or("", |(_, file)| file);
            let last = file.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
            if texts.len() >= 10 || !(text::is_license_file(&last)) || entry.size > text::TEXT_BYTES_MAX as u64 {
                continue;
            }
            let bytes = archive::read(&ranges, entry, text::TEXT_BYTES_MAX as u64)?;
            let hash = weir_base::checksum::hex(&weir_base::checksum::blake3(&bytes));
            let licenses = environment::detect_cached(self.fetch.store, &hash, &bytes);
            texts.push(FileText { file: file.to_owned(), hash, licenses });
        }
        Ok((metadata, texts))
    }

    /// The JSON document of the version; of the newest one only when that is the version asked for.
    fn document(&self) -> Result<Option<Metadata>> {
        let Some(root) = self.fetch.index.and_then(|index| index.trim_end_matches('/').strip_suffix("/simple")) else {
            return Ok(None);
        };
        let (name, version) = (&self.package.name, &self.package.version);
        for url in [format!("{root}/pypi/{name}/{version}/json"), format!("{root}/pypi/{name}/json")] {
            let answer = self.http()?.get(&url, &[], METADATA_BYTES_MAX)?;
            if answer.status != 200 {
                continue;
            }
            let info = serde_json::from_slice::<serde_json::Value>(&answer.body)
                .map_err(|error| Error::wrap(Kind::Damaged, format!("{} is not JSON", redact_url(&url)), error))?;
            let metadata = from_document(&info);
            if crate::name::normalize_lossy(&metadata.name) == *name && metadata.version == *version {
                return Ok(Some(metadata));
            }
        }
        Ok(None)
    }

    fn newest(&mut self) -> Option<Newest> {
        let key = format!("newest/1/{}/{}", self.package.name, self.package.version);
        if let Some(known) = self.fetch.store.get(&key).and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Some(known);
        }
        self.asked = true;
        self.fetch.http?;
        let (name, version) = (self.package.name.clone(), self.package.version.clone());
        let found = files::newest(self.page().ok()?, &name, &version)?;
        self.fetch.store.put(&key, &serde_json::to_vec(&found).ok()?, Some(PAGE_LIFE));
        Some(found)
    }
}

fn known(metadata: Metadata, texts: Vec<FileText>) -> Known {
    let texts = texts.into_iter().map(|text| (text.file, text.hash, text.licenses)).collect();
    Known { metadata: Some(metadata), texts, missing: None }
}

fn not_found(url: &str, status: u16) -> Error {
    let kind = if matches!(status, 401 | 403) { Kind::Unavailable } else { Kind::NotFound };
    Error::new(kind, format!("{} answered {status}", redact_url(url)))
}

fn from_document(document: &serde_json::Value) -> Metadata {
    let info = document.get("info").unwrap_or(&serde_json::Value::Null);
    let text = |key: &str| {
        info.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let list = |key: &str| -> Vec<String> {
        let values = info.get(key).and_then(serde_json::Value::as_array).into_iter().flatten();
        values.filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    Metadata {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        license_expression: text("license_expression"),
        license: text("license"),
        license_classifiers: list("classifiers")
            .iter()
            .filter_map(|one| one.strip_prefix("License ::").map(|rest| rest.trim().to_owned()))
            .collect(),
        requires: list("requires_dist"),
        url: text("home_page"),
        author: text("author"),
        summary: text("summary"),
        ..Metadata::default()
    }
}

/// A remote archive read in ranges: its tail once, then what the list points to.
struct Ranges<'a> {
    http: &'a Http<'a>,
    url: &'a str,
    len: u64,
    tail: Vec<u8>,
}

impl<'a> Ranges<'a> {
    fn open(http: &'a Http<'a>, url: &'a str) -> Result<Self> {
        let range = format!("bytes=-{TAIL_BYTES}");
        let whole = || Error::new(Kind::NotFound, format!("{} is not served in ranges", redact_url(url)));
        let answer = match http.get(url, &[("range", &range), ("accept-encoding", "identity")], TAIL_BYTES) {
            // More than was asked for: the whole file.
            Err(error) if error.kind() == Kind::Limit => return Err(whole()),
            answer => answer?,
        };
        if answer.status != 206 {
            return Err(whole());
        }
        let len = answer.content_range.rsplit('/').next().and_then(|len| len.parse().ok());
        match len {
            Some(len) if answer.body.len() as u64 <= len => Ok(Self { http, url, len, tail: answer.body }),
            _ => Err(Error::new(Kind::Damaged, format!("{} answered a range without its length", redact_url(url)))),
        }
    }
}

impl archive::Source for Ranges<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>> {
        let tail_at = self.len - self.tail.len() as u64;
        if offset >= tail_at {
            let from = usize::try_from(offset - tail_at).unwrap_or(usize::MAX);
            let part = usize::try_from(count).ok().and_then(|count| self.tail.get(from..from.checked_add(count)?));
            return part.map(<[u8]>::to_vec).ok_or_else(|| Error::new(Kind::Damaged, "the archive ends early"));
        }
        if count > METADATA_BYTES_MAX {
            return Err(Error::new(Kind::Limit, "a part of the archive is larger than 8 MiB"));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let range = format!("bytes={offset}-{}", offset + count - 1);
        let answer = self.http.get(self.url, &[("range", &range), ("accept-encoding", "identity")], count)?;
        if answer.status != 206 || answer.body.len() as u64 != count {
            return Err(Error::new(Kind::Damaged, format!("{} answered another range", redact_url(self.url))));
        }
        Ok(answer.body)
    }
}
