//! The policy and the data that a check judges by.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weir_base::OsFileSystem;
use weir_deps::check::Report;
use weir_deps::finding::{Code, Finding, Level};
use weir_deps::licence::newer;
use weir_deps::policy::{DEFAULT_TOML, POLICY_BYTES_MAX, Policy};
use weir_deps::report::diff;

use super::input;
use crate::exit::Exit;
use crate::terminal::Terminal;

/// Largest file of licence data, bytes.
const LICENCES_BYTES_MAX: u64 = 64 << 20;

/// Flags for the rules.
#[derive(Debug, clap::Args)]
pub(crate) struct RuleArgs {
    /// The policy [default: weir-deps.toml in the current folder, else the built-in one].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Index of advisories made by `weir deps update` [default: deps/advisories in the data folder, if it is there].
    #[arg(long, value_name = "FILE")]
    advisories: Option<PathBuf>,
}

impl RuleArgs {
    /// The index of advisories: the named one, also when it is missing, else the default one if it is there.
    pub(crate) fn advisories(&self) -> Option<PathBuf> {
        self.advisories.clone().or_else(|| advisories_file().ok().filter(|path| path.exists()))
    }
}

/// Makes the licence data count that `weir deps update` brought, if it did.
pub(crate) fn install_newer_licences(terminal: &Terminal) {
    let Some(file) = licences_file().ok().filter(|path| path.exists()) else { return };
    if let Err(error) = newer::install(&OsFileSystem, &file) {
        terminal.warn(format!(
            "the licence data that was brought later cannot be used: {}",
            weir_base::error::chain(&error)
        ));
    }
}

/// Whether a file is licence data and not an export of advisories.
pub(crate) fn is_licence_data(path: &Path) -> bool {
    if path.is_dir() || path.extension().is_some_and(|extension| extension != "json") {
        return false;
    }
    let document =
        input::read_file(path, LICENCES_BYTES_MAX).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    document.is_some_and(|document| newer::is_licence_data(&document))
}

/// Where licence data is that is newer than this binary.
pub(crate) fn licences_file() -> anyhow::Result<PathBuf> {
    Ok(input::data_folder()?.join("deps").join("licences"))
}

/// Where the index of advisories is by default.
pub(crate) fn advisories_file() -> anyhow::Result<PathBuf> {
    Ok(input::data_folder()?.join("deps").join("advisories"))
}

/// The policy that the flags name, with its warnings shown.
pub(crate) fn read_policy(args: &RuleArgs, terminal: &Terminal) -> anyhow::Result<Policy> {
    let here = Path::new("weir-deps.toml");
    let policy = match &args.policy {
        Some(path) => parse_policy(path)?,
        None if here.exists() => parse_policy(here)?,
        None => Policy::default(),
    };
    for warning in &policy.warnings {
        terminal.warn(warning);
    }
    Ok(policy)
}

/// Reads one policy file.
pub(crate) fn parse_policy(path: &Path) -> anyhow::Result<Policy> {
    let bytes = input::read_file(path, POLICY_BYTES_MAX as u64)?;
    Policy::parse(&String::from_utf8_lossy(&bytes)).with_context(|| path.display().to_string())
}

/// Writes the commented default.
#[allow(clippy::disallowed_methods, reason = "a file of the user's, made once, never replaced")]
pub(crate) fn init(file: &Path, terminal: &Terminal) -> anyhow::Result<Exit> {
    use std::io::Write;
    let mut made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .with_context(|| format!("cannot make {}", file.display()))?;
    made.write_all(DEFAULT_TOML.as_bytes())?;
    terminal.say(format!("wrote {}", file.display()));
    Ok(Exit::Done)
}

/// Adds a finding to every package whose licence differs from the one in the last recorded run.
pub(crate) fn alert(before: Option<&Report>, report: &mut Report) {
    let Some(before) = before else { return };
    for change in diff::compare(before, report).iter().filter(|change| change.license_changed) {
        let old = change.license_before.as_deref().unwrap_or("unknown");
        let new = change.license.as_deref().unwrap_or("unknown");
        let message = format!("its licence was '{old}' in the last run and is '{new}' now");
        if let Some(package) = report.packages.iter_mut().find(|package| package.name == change.name) {
            package.findings.push(Finding::new(Code::LicenseChanged, Level::Warn, message));
        }
    }
    report.recount();
}

/// Packages that two policies judge differently.
pub(crate) fn side_by_side(decides: &Report, shadow: &Report) -> Vec<String> {
    let pairs = decides.packages.iter().zip(&shadow.packages);
    pairs
        .filter(|(one, other)| (one.verdict, one.level) != (other.verdict, other.level))
        .map(|(one, other)| {
            let words = |verdict: &str, level: &str| format!("{verdict} ({level})");
            format!(
                "  {} {}: {}, in the shadow {}",
                one.name,
                one.version,
                words(one.verdict.word(), one.level.word()),
                words(other.verdict.word(), other.level.word())
            )
        })
        .collect()
}
