//! What to check: the environment or file that the flags name.

use std::path::{Path, PathBuf};

use weir_base::{Clock, FileSystem, OpenMode, OsFileSystem, SystemClock};
use weir_deps::package::PackageSet;
use weir_deps::store::NoStore;
use weir_deps::{Error, environment};

/// Flags that name the input.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InputArgs {
    /// Interpreter whose environment is read; it is not started.
    #[arg(long, value_name = "PATH", group = "source")]
    python: Option<PathBuf>,
    /// Virtual environment or site-packages folder.
    #[arg(long, value_name = "DIR", group = "source")]
    env: Option<PathBuf>,
}

/// Reads the input; without a flag, the active virtual environment, `.venv`, or the interpreter on the search path.
pub(crate) fn read(args: &InputArgs) -> anyhow::Result<PackageSet> {
    let path = match (&args.python, &args.env) {
        (Some(path), _) | (None, Some(path)) => path.clone(),
        (None, None) => default_environment()?,
    };
    let reading = environment::Reading { fs: &OsFileSystem, store: &NoStore };
    Ok(environment::read(reading, &path)?)
}

#[allow(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn default_environment() -> anyhow::Result<PathBuf> {
    if let Some(active) = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(active));
    }
    if Path::new(".venv/pyvenv.cfg").exists() {
        return Ok(PathBuf::from(".venv"));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    for name in ["python3", "python"] {
        if let Some(found) = std::env::split_paths(&search).map(|dir| dir.join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    anyhow::bail!("no environment is active: name one with --env, --python or --lock")
}

/// Now, nanoseconds UTC.
pub(crate) fn now() -> weir_base::Timestamp {
    SystemClock::default().now()
}

/// A whole file, up to a size.
pub(crate) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let io = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = OsFileSystem.open(path, OpenMode::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > bytes_max {
        return Err(Error::new(weir_base::Kind::Limit, format!("{} is larger than {bytes_max} bytes", path.display())));
    }
    OsFileSystem.read(path).map_err(io)
}
