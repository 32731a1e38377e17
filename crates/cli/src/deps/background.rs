//! Runs this very command again as a process of its own, which outlives the shell that asked for it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::input;
use crate::exit::Exit;
use crate::terminal::Terminal;

/// Starts the command without `--background`; what it says goes to `deps/warm.log` in the data folder.
#[allow(clippy::disallowed_methods, reason = "a log of another process, which has no clock and no disk of ours")]
pub(super) fn start(terminal: &Terminal) -> anyhow::Result<Exit> {
    let folder = input::data_folder()?.join("deps");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let log = folder.join("warm.log");
    let output = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--background");
    let child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A group of its own: an interrupt at the terminal does not reach it.
        .process_group(0)
        .spawn()
        .context("cannot start the process")?;
    terminal.say(format!("warming in the background (process {}); its words go to {}", child.id(), log.display()));
    Ok(Exit::Done)
}
