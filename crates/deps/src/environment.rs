//! Installed Python environments, read from the disk: no Python is started and nothing is imported.
//!
//! An environment is named by its interpreter, its folder, or a site-packages folder. The search for site-packages
//! follows what `site.py` does for virtual environments (`pyvenv.cfg`, `include-system-site-packages`), for CPython
//! prefixes and for Debian's `dist-packages`. Folders named by plain lines of `.pth` files are read too. What did not
//! change since the last reading comes from the store (`environment/snapshot.rs`).

mod snapshot;

use std::io;
use std::path::{Component, Path, PathBuf};

use weir_base::{Clock, FileSystem, Kind, OpenMode};

use crate::finding::{Code, Finding, Level};
use crate::licence::{FileText, text};
use crate::metadata::{self, HEADER_BYTES_MAX};
use crate::name;
use crate::package::{Lookups, Package, PackageSet};
use crate::store::Store;
use crate::{Error, Result, parallel};
use snapshot::{Remembered, Snapshot, Stamp};

/// Most licence files of one package that are read.
const LICENSE_FILES_MAX: usize = 100;
/// Most folders that are searched.
const SITE_FOLDERS_MAX: usize = 64;
/// Bytes read first: the header block of most packages fits.
const FIRST_READ_BYTES: usize = 16 << 10;

/// Finds the site-packages folders for an interpreter, an environment's folder or a site-packages folder itself.
///
/// Fails with `NotFound` when there is none, naming what was looked at.
pub fn site_folders(fs: &dyn FileSystem, path: &Path) -> Result<Vec<PathBuf>> {
    let found = fs.metadata(path).map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
    let mut folders = Vec::new();
    if found.is_dir {
        folders_of_dir(fs, path, &mut folders);
    } else {
        folders_of_interpreter(fs, path, &mut folders);
    }
    let mut seen = Vec::new();
    folders.retain(|folder| {
        let fresh = !seen.contains(folder) && fs.metadata(folder).is_ok_and(|found| found.is_dir);
        seen.push(folder.clone());
        fresh
    });
    add_pth_folders(fs, &mut folders);
    if folders.is_empty() {
        let why = format!(
            "no site-packages folder belongs to {} (name a virtual environment, an interpreter or a site-packages folder)",
            path.display()
        );
        return Err(Error::new(Kind::NotFound, why));
    }
    folders.truncate(SITE_FOLDERS_MAX);
    Ok(folders)
}

fn folders_of_dir(fs: &dyn FileSystem, dir: &Path, folders: &mut Vec<PathBuf>) {
    let name = dir.file_name().unwrap_or_default();
    if name == "site-packages" || name == "dist-packages" || has_metadata(fs, dir) {
        folders.push(dir.to_owned());
        return;
    }
    let config = fs.read(&dir.join("pyvenv.cfg")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    folders_of_prefix(fs, dir, folders);
    let Some(config) = config else { return };
    let value = |key: &str| {
        config.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    if value("include-system-site-packages").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        && let Some(prefix) = value("home").as_deref().map(Path::new).and_then(Path::parent)
    {
        folders_of_prefix(fs, prefix, folders);
    }
}

fn folders_of_prefix(fs: &dyn FileSystem, prefix: &Path, folders: &mut Vec<PathBuf>) {
    for lib in ["lib", "lib64", "local/lib"] {
        let Ok(mut entries) = fs.list(&prefix.join(lib)) else { continue };
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("python") || name.starts_with("pypy") {
                folders.push(entry.join("site-packages"));
                folders.push(entry.join("dist-packages"));
            }
        }
    }
    folders.push(prefix.join("Lib").join("site-packages"));
}

fn folders_of_interpreter(fs: &dyn FileSystem, python: &Path, folders: &mut Vec<PathBuf>) {
    let Some(bin) = python.parent() else { return };
    if let Some(prefix) = bin.parent() {
        if fs.exists(&prefix.join("pyvenv.cfg")).unwrap_or(false) {
            return folders_of_dir(fs, prefix, folders);
        }
        if bin.file_name().is_some_and(|name| name == "shims") {
            // pyenv's shims are scripts; its global version is in a file.
            let version = fs.read(&prefix.join("version")).unwrap_or_default();
            let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().trim().to_owned();
            if name::is_valid_version(&version) {
                return folders_of_prefix(fs, &prefix.join("versions").join(version), folders);
            }
        }
    }
    let real = std::fs::canonicalize(python).unwrap_or_else(|_| python.to_owned());
    let wanted = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(prefix) = real.parent().and_then(Path::parent) else { return };
    let mut all = Vec::new();
    folders_of_prefix(fs, prefix, &mut all);
    // `/usr` holds several versions side by side: only the interpreter's own and the shared `python3` count.
    let own = |folder: &PathBuf| {
        let version = folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        !wanted.contains('.') || version == wanted || version == "python3" || version == "Lib"
    };
    folders.extend(all.into_iter().filter(own));
}

fn has_metadata(fs: &dyn FileSystem, dir: &Path) -> bool {
    fs.list(dir).is_ok_and(|entries| entries.iter().any(|entry| is_metadata_folder(entry)))
}

fn is_metadata_folder(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "dist-info" || extension == "egg-info")
}

fn add_pth_folders(fs: &dyn FileSystem, folders: &mut Vec<PathBuf>) {
    let mut more = Vec::new();
    for folder in folders.iter() {
        let files = fs.list(folder).unwrap_or_default();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "pth")) {
            let Ok(bytes) = read_start(fs, file, 64 << 10) else { continue };
            for line in String::from_utf8_lossy(&bytes).lines().map(str::trim) {
                // A line that starts with "import" is code: never run, so what it would add stays unknown.
                if line.is_empty() || line.starts_with('#') || line.starts_with("import") {
                    continue;
                }
                let path = folder.join(line);
                if path != *folder
                    && fs.metadata(&path).is_ok_and(|found| found.is_dir)
                    && more.len() < SITE_FOLDERS_MAX
                {
                    more.push(path);
                }
            }
        }
    }
    more.retain(|path| !folders.contains(path));
    folders.extend(more);
}

/// How to read an environment.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Disk.
    pub fs: &'a dyn FileSystem,
    /// Remembers what was read.
    pub store: &'a dyn Store,
    /// Tells how old a file is.
    pub clock: &'a dyn Clock,
}

/// Reads all packages that are installed for `path` (see [`site_folders`]).
pub fn read(reading: Reading<'_>, path: &Path) -> Result<PackageSet> {
    let mut set = PackageSet { source: path.display().to_string(), ..PackageSet::default() };
    let mut infos: Vec<PathBuf> = Vec::new();
    let folders = site_folders(reading.fs, path)?;
    for folder in &folders {
        match reading.fs.list(folder) {
            Ok(entries) => infos.extend(entries.into_iter().filter(|entry| is_metadata_folder(entry))),
            Err(error) => set.problems.push(unreadable(folder, &error)),
        }
    }
    let (key, started) = (snapshot::key(&folders), reading.clock.now());
    let before = Snapshot::load(reading.store, &key);
    let found = parallel::map(&infos, parallel::threads(), |info| match before.current(reading.fs, info) {
        Some(entry) => (true, Ok(entry)),
        None => (false, Reader { fs: reading.fs, before: &before, info, stamps: Vec::new() }.package()),
    });
    let hits = found.iter().filter(|(known, _)| *known).count();
    set.lookups = Lookups { hits, misses: found.len() - hits };
    if hits != found.len() || hits != before.len() {
        let entries: Vec<&Remembered> = found.iter().filter_map(|(_, entry)| entry.as_ref().ok()).collect();
        Snapshot::save(reading.store, &key, &entries, started);
    }
    for (_, entry) in found {
        match entry {
            Ok(entry) => set.packages.push(entry.into_package()),
            Err(finding) => set.problems.push(finding),
        }
    }
    set.sort();
    Ok(set)
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    Finding::new(Code::DataMissing, Level::Deny, format!("cannot read {}: {error}", path.display()))
        .at(path.display().to_string(), 0)
}

/// Reads one package and takes the stamp of everything before it is read.
struct Reader<'a> {
    fs: &'a dyn FileSystem,
    before: &'a Snapshot,
    info: &'a Path,
    stamps: Vec<Stamp>,
}

impl Reader<'_> {
    fn package(mut self) -> Result<Remembered, Finding> {
        let info = self.info;
        let is_egg = info.extension().is_some_and(|extension| extension == "egg-info");
        let name = if is_egg { "PKG-INFO" } else { "METADATA" };
        self.stamp("");
        self.stamp(name);
        let path = info.join(name);
        let (path, bytes) = match read_headers(self.fs, &path) {
            Ok(bytes) => (path, bytes),
            // A single-file egg-info, as distutils wrote it.
            Err(_) if is_egg && self.fs.metadata(info).is_ok_and(|found| !found.is_dir) => {
                (info.to_owned(), read_headers(self.fs, info).map_err(|error| unreadable(info, &error))?)
            }
            Err(error) => {
                let message = format!("the package has no readable metadata: {error}");
                return Err(Finding::new(Code::Malformed, Level::Deny, message).at(path.display().to_string(), 0));
            }
        };
        let mut package = parsed(info, &path, &bytes)?;
        let declared = package.metadata.as_ref().map(|metadata| metadata.license_files.clone()).unwrap_or_default();
        package.texts = self.texts(&declared);
        Ok(Remembered::new(info, self.stamps, package))
    }

    fn stamp(&mut self, path: &str) {
        self.stamps.extend(Stamp::take(self.fs, self.info, path));
    }

    fn texts(&mut self, declared: &[String]) -> Vec<FileText> {
        let mut files: Vec<PathBuf> = Vec::new();
        for file in declared.iter().filter(|file| is_inside(file)) {
            files.push(Path::new("licenses").join(file));
            files.push(PathBuf::from(file));
        }
        let mut texts = self.files(&files);
        if texts.is_empty() {
            files = listed_texts(self.fs, self.info);
            texts = self.files(&files);
        }
        // A file that is added later shows in its folder.
        let mut folders: Vec<String> = vec!["licenses".into(), "license_files".into()];
        let above = |file: &PathBuf| file.ancestors().skip(1).map(|dir| dir.display().to_string()).collect::<Vec<_>>();
        folders.extend(files.iter().flat_map(above).filter(|folder| !folder.is_empty()));
        folders.sort_unstable();
        folders.dedup();
        folders.iter().for_each(|folder| self.stamp(folder));
        texts
    }

    fn files(&mut self, files: &[PathBuf]) -> Vec<FileText> {
        let mut texts: Vec<FileText> = Vec::new();
        for file in files.iter().take(2 * LICENSE_FILES_MAX) {
            if texts.len() >= LICENSE_FILES_MAX {
                break;
            }
            let name = file.display().to_string();
            let stamp = Stamp::take(self.fs, self.info, &name);
            let Ok(bytes) = read_start(self.fs, &self.info.join(file), text::TEXT_BYTES_MAX) else { continue };
            self.stamps.extend(stamp);
            let hash = weir_base::checksum::hex(&weir_base::checksum::blake3(&bytes));
            if texts.iter().any(|have| have.hash == hash) {
                continue;
            }
            let known = self.before.text(&hash).cloned();
            let licenses = known.unwrap_or_else(|| text::detect(&metadata::text_of(&bytes)));
            texts.push(FileText { file: name, hash, licenses });
        }
        texts
    }
}

fn parsed(info: &Path, path: &Path, bytes: &[u8]) -> Result<Package, Finding> {
    let shown = path.display().to_string();
    let (mut metadata, problems) = metadata::parse(bytes);
    let mut package = Package { file: shown.clone(), dist_info: Some(info.to_owned()), ..Package::default() };
    for problem in problems {
        package
            .problems
            .push(Finding::new(Code::Malformed, Level::Warn, problem.message).at(shown.clone(), problem.line));
    }
    // A file without a usable name is still a package: the folder's name says which.
    let folder = info.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (folder_name, folder_version) = folder.split_once('-').unwrap_or((folder.as_str(), ""));
    package.name = match name::normalize(&metadata.name).or_else(|_| name::normalize(folder_name)) {
        Ok(name) => name,
        Err(error) => return Err(Finding::new(Code::Malformed, Level::Deny, error.to_string()).at(shown, 1)),
    };
    package.version = [metadata.version.as_str(), folder_version]
        .into_iter()
        .find(|version| name::is_valid_version(version))
        .unwrap_or_default()
        .to_owned();
    package.pinned = true;
    package.requires = std::mem::take(&mut metadata.requires).iter().filter_map(|line| required_name(line)).collect();
    package.metadata = Some(metadata);
    Ok(package)
}

/// The name in a requirement that is not tied to an extra. Markers of platforms are not asked: what is not installed
/// is not in the set anyway.
pub(crate) fn required_name(requirement: &str) -> Option<String> {
    let (spec, marker) = requirement.split_once(';').unwrap_or((requirement, ""));
    if marker.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "extra") {
        return None;
    }
    let spec = spec.trim_start();
    let end = spec.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(spec.len());
    name::normalize(&spec[..end]).ok()
}

fn read_start(fs: &dyn FileSystem, path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; max.min(FIRST_READ_BYTES)];
    let mut filled = 0;
    loop {
        let count = file.read_at(&mut bytes[filled..], filled as u64)?;
        filled += count;
        if count == 0 || filled == max {
            bytes.truncate(filled);
            return Ok(bytes);
        }
        if filled == bytes.len() {
            bytes.resize((bytes.len() * 4).min(max), 0);
        }
    }
}

/// Reads until the header block is complete.
fn read_headers(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; FIRST_READ_BYTES];
    let mut filled = 0;
    loop {
        let count = file.read_at(&mut bytes[filled..], filled as u64)?;
        let searched = filled.saturating_sub(3);
        filled += count;
        if let Some(end) = metadata::header_end(&bytes[searched..filled]) {
            bytes.truncate(searched + end);
            return Ok(bytes);
        }
        if count == 0 || filled >= HEADER_BYTES_MAX {
            bytes.truncate(filled);
            return Ok(bytes);
        }
        if filled == bytes.len() {
            bytes.resize((bytes.len() * 4).min(HEADER_BYTES_MAX), 0);
        }
    }
}

/// What a text states, remembered by its content hash; never expires, as the rules' version is in the key.
pub(crate) fn detect_cached(store: &dyn Store, hash: &str, bytes: &[u8]) -> text::TextLicenses {
    let key = format!("text/{}/{hash}", text::RULES_VERSION);
    if let Some(known) = store.get(&key).and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return known;
    }
    let licenses = text::detect(&metadata::text_of(bytes));
    if let Ok(encoded) = serde_json::to_vec(&licenses) {
        store.put(&key, &encoded, None);
    }
    licenses
}

/// Whether a path from a file stays below where it starts.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 512
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Licence files by their name, for metadata that does not list them.
fn listed_texts(fs: &dyn FileSystem, info: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs.list(info).unwrap_or_default() {
        let Some(name) = entry.file_name().map(PathBuf::from) else { continue };
        let lower = name.display().to_string().to_ascii_lowercase();
        if lower == "licenses" || lower == "license_files" {
            list_below(fs, info, &name, 0, &mut files);
        } else if text::is_license_file(&lower) {
            files.push(name);
        }
    }
    files.sort();
    files
}

fn list_below(fs: &dyn FileSystem, info: &Path, dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    for entry in fs.list(&info.join(dir)).unwrap_or_default() {
        let Some(name) = entry.file_name() else { continue };
        let below = dir.join(name);
        match fs.metadata(&entry) {
            Ok(found) if found.is_dir && depth < 8 => list_below(fs, info, &below, depth + 1, files),
            Ok(found) if !found.is_dir && files.len() < LICENSE_FILES_MAX => files.push(below),
            _ => {}
        }
    }
}
