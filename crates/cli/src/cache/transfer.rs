//! Values in and out: files, commands whose output is kept, exports.

use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use weir_base::checksum::hex;
use weir_base::{FileSystem, OpenMode, OsFileSystem};
use weir_cache::{Cache, KeyBuilder, PutOptions};

use crate::exit::Exit;

/// Output of a command that is kept at most, bytes; a longer one is passed through and not kept.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// A file, or standard input for `-`.
pub(super) fn read_input(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    OsFileSystem.read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a value to a file as a whole.
pub(super) fn write_output(path: &Path, value: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let file = OsFileSystem.open(path, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_all_at(value, 0)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What `run` keeps: exit code, then both streams with their lengths.
struct Outcome {
    code: u8,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.code];
        bytes.extend_from_slice(&(self.stdout.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.stdout);
        bytes.extend_from_slice(&self.stderr);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (stdout, stderr) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        Some(Self { code: *code, stdout: stdout.into(), stderr: stderr.into() })
    }

    fn repeat(&self) -> anyhow::Result<()> {
        std::io::stdout().lock().write_all(&self.stdout).context("cannot write the output")?;
        std::io::stderr().lock().write_all(&self.stderr).context("cannot write the output")
    }
}

/// Runs a command, or repeats what it said and how it ended.
pub(super) fn run_command(
    cache: &Cache,
    key: Option<String>,
    options: &PutOptions,
    failures: bool,
    command: &[OsString],
) -> anyhow::Result<Exit> {
    use std::os::unix::ffi::OsStrExt;
    let key = key.unwrap_or_else(|| {
        let folder = std::env::current_dir().unwrap_or_default();
        let key = KeyBuilder::new("run").part("folder", folder.as_os_str().as_bytes());
        command.iter().fold(key, |key, word| key.part("arg", word.as_bytes())).finish()
    });
    let mut ran = None;
    let outcome = cache.get_or_compute(&key, options, || {
        let outcome = run_passing_through(command).map_err(NotKept::Error)?;
        let size = outcome.stdout.len().max(outcome.stderr.len());
        if size >= OUTPUT_BYTES_MAX || (outcome.code != 0 && !failures) {
            return Err(NotKept::Code(outcome.code));
        }
        ran = Some(outcome.code);
        Ok(outcome.encode())
    });
    match (outcome, ran) {
        (Ok(_), Some(code)) | (Err(NotKept::Code(code)), _) => Ok(Exit::Command(code)),
        (Err(NotKept::Error(error)), _) => Err(error),
        (Ok(bytes), None) => {
            let Some(kept) = Outcome::decode(&bytes) else {
                // The key holds something else: not ours to replace.
                return run_passing_through(command).map(|outcome| Exit::Command(outcome.code));
            };
            kept.repeat()?;
            Ok(Exit::Command(kept.code))
        }
    }
}

/// Why an outcome was not kept.
enum NotKept {
    Code(u8),
    Error(anyhow::Error),
}

/// Runs a command; its output appears as it comes, and is kept up to its limit.
fn run_passing_through(command: &[OsString]) -> anyhow::Result<Outcome> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    let (stdout, stderr) = (child.stdout.take().context("no output")?, child.stderr.take().context("no output")?);
    let errors = std::thread::spawn(move || tee(stderr, std::io::stderr()));
    let stdout = tee(stdout, std::io::stdout())?;
    let stderr = errors.join().map_err(|_| anyhow::anyhow!("a reader failed"))??;
    let status = child.wait().context("cannot wait for the command")?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Outcome { code: u8::try_from(code).unwrap_or(u8::MAX), stdout, stderr })
}

fn tee(mut from: impl Read, mut to: impl Write) -> std::io::Result<Vec<u8>> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            to.flush()?;
            return Ok(kept);
        }
        to.write_all(&buffer[..count])?;
        if kept.len() < OUTPUT_BYTES_MAX {
            kept.extend_from_slice(&buffer[..count]);
        }
    }
}

/// Prints every live entry.
pub(super) fn export(cache: &Cache) -> anyhow::Result<Exit> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut after = None;
    while let Some(entry) = cache.next_entry(after.as_deref())? {
        let line = json!({
            "key": hex(&entry.key),
            "value": hex(&entry.value),
            "ttl_s": entry.ttl.map(|ttl| ttl.as_secs_f64()),
            "stale_s": entry.stale.map(|stale| stale.as_secs_f64()),
            "cost_s": entry.cost.as_secs_f64(),
            "tags": entry.tags,
        });
        writeln!(out, "{line}").context("cannot write the export")?;
        after = Some(entry.key);
    }
    out.flush().context("cannot write the export")?;
    Ok(Exit::Done)
}

/// Puts every entry of an export.
pub(super) fn import(cache: &Cache, path: &Path) -> anyhow::Result<Exit> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::io::Cursor::new(read_input(path)?))
    };
    for (number, line) in input.lines().enumerate() {
        let line = line.context("cannot read the export")?;
        put_line(cache, &line).with_context(|| format!("line {}", number + 1))?;
    }
    Ok(Exit::Done)
}

fn put_line(cache: &Cache, line: &str) -> anyhow::Result<()> {
    let fields: Value = serde_json::from_str(line).context("not JSON")?;
    let bytes =
        |name: &str| fields.get(name).and_then(Value::as_str).and_then(unhex).with_context(|| format!("no {name}"));
    let time = |name: &str| {
        fields.get(name).and_then(Value::as_f64).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    let tags = fields.get("tags").cloned().map(serde_json::from_value).transpose().context("tags")?.unwrap_or_default();
    let options = PutOptions { ttl: time("ttl_s"), stale: time("stale_s"), tags, cost: time("cost_s") };
    cache.put(bytes("key")?, &bytes("value")?, &options)?;
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
