//! Where the data is: the flags that every command on a database shares.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

/// Which database folder or server a command works on.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Target {
    /// Data folder [default: the platform's, as `weir doctor` tells].
    ///
    /// Where a server holds the folder, the command goes through that server's socket by itself.
    #[arg(long, env = "WEIR_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// A server to go through instead, such as http://127.0.0.1:8181.
    #[arg(long, value_name = "URL", conflicts_with_all = ["store", "config"])]
    pub(crate) server: Option<String>,
    /// A token for that server; in WEIR_TOKEN others on this machine do not see it.
    #[arg(long, env = "WEIR_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Secret>,
    /// Certificates to trust for https:// [default: SSL_CERT_FILE, else those of the system].
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: Open,
}

/// What must not be printed.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How to open a data folder.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Open {
    /// Where tables are: a folder, or s3://, gs://, az:// [default: DIR/tables].
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Configuration [default: DIR/weir.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// The data folder: as given, else the platform's (XDG base directory specification).
///
/// # Errors
/// When nothing says where, because there is no home.
pub(crate) fn data_folder(given: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".local/share")))
        .map(|base| base.join("weir"))
        .context("there is no home folder: say where the data is with --data or WEIR_DATA")
}

/// The file for the history of the interactive prompt, if there is a home.
pub(crate) fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base =
        set("XDG_STATE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(".local/state")));
    Some(base?.join("weir").join("sql_history"))
}
