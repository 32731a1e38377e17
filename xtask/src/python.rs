//! The Python environment of the tests: Delta readers that are not ours, pinned, below the target folder.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::shell;

const REQUIREMENTS: &str = include_str!("../python-requirements.txt");

/// The interpreter of the environment; made or brought up to date if it is not as `python-requirements.txt` says.
pub fn ensure() -> anyhow::Result<PathBuf> {
    let folder = shell::target_folder().join("test-python");
    let interpreter = folder.join("bin/python");
    let marker = folder.join("installed.txt");
    if interpreter.exists() && std::fs::read_to_string(&marker).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(interpreter);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(shell::target_folder())?;
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .context("the tests need python3 with its venv module")?;
    let requirements = shell::root().join("xtask/python-requirements.txt");
    let mut pip = Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"]);
    shell::run(pip.arg(requirements))?;
    std::fs::write(marker, REQUIREMENTS)?;
    Ok(interpreter)
}
