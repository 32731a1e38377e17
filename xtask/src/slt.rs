//! The files of SQL with answers that belong to the pinned DataFusion, below the target folder.
//!
//! They are in a published package. Cargo fetches it, its checksum is compared with the one below, and it is unpacked once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use crate::shell;

const PACKAGE: &str = "datafusion-sqllogictest";
/// That of DataFusion in `Cargo.lock`.
const VERSION: &str = "55.2.0";
const SHA256: &str = "b270cea4d8c2b2c42773e60164204386fb97d7936736e5f126ac751b86d7dabe";

/// The folder of the files, unpacked when it is not there.
pub fn ensure() -> anyhow::Result<PathBuf> {
    let lock = std::fs::read_to_string(shell::root().join("Cargo.lock"))?;
    ensure!(
        lock.contains(&format!("name = \"datafusion\"\nversion = \"{VERSION}\"")),
        "Cargo.lock has another DataFusion than {VERSION}: bring the files of {PACKAGE} to the same version"
    );
    let folder = shell::target_folder().join(format!("{PACKAGE}-{VERSION}"));
    let files = folder.join("test_files");
    if files.exists() {
        return Ok(files);
    }
    let archive = fetched()?;
    let bytes = std::fs::read(&archive).with_context(|| archive.display().to_string())?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(digest == SHA256, "{} has the checksum {digest}, not {SHA256}", archive.display());
    let staging = shell::target_folder().join(format!("{PACKAGE}.{}", std::process::id()));
    std::fs::create_dir_all(&staging)?;
    shell::run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&staging))?;
    // Two runs at once unpack the same.
    if let Err(error) = std::fs::rename(staging.join(format!("{PACKAGE}-{VERSION}")), &folder) {
        ensure!(files.exists(), "cannot move the files to {}: {error}", folder.display());
    }
    std::fs::remove_dir_all(&staging)?;
    Ok(files)
}

/// The package as cargo keeps it.
fn fetched() -> anyhow::Result<PathBuf> {
    if let Some(archive) = kept()? {
        return Ok(archive);
    }
    let mut info = shell::cargo();
    shell::output(info.args(["info", "--quiet", &format!("{PACKAGE}@{VERSION}")]))?;
    kept()?.with_context(|| format!("cargo did not keep {PACKAGE} {VERSION}"))
}

fn kept() -> anyhow::Result<Option<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).context("no home folder")?;
    let registries = home.join("registry/cache");
    if !registries.exists() {
        return Ok(None);
    }
    let archive = |registry: &Path| registry.join(format!("{PACKAGE}-{VERSION}.crate"));
    for registry in registries.read_dir()? {
        let archive = archive(&registry?.path());
        if archive.exists() {
            return Ok(Some(archive));
        }
    }
    Ok(None)
}
