//! `weir track run`: a command from outside; several runs, and two commands in turns.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::json;
use wait4::Wait4;
use weir_base::{Clock, SystemClock};
use weir_track::compare::{self, Comparison, Rule, millis};
use weir_track::{Finished, Row, Started};

use super::history::{Folder, Recorder};
use crate::exit::Exit;
use crate::terminal::{self, Terminal};

/// A run this many robust standard deviations off the median is named as an outlier (Iglewicz and Hoaglin, 1993).
const OUTLIER: f64 = 3.5;
/// Starts of an empty shell from which its own time is taken.
const SHELL_RUNS: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weir track run --name build -- make
  weir track run --name grep --runs 50 --warmup 3 --label tool=rg -- rg -c error big.log
  weir track run --name grep --runs 60 --vs 'grep -c error big.log' -- rg -c error big.log

The exit code is that of the first run that failed, else 0.")]
pub(super) struct Args {
    /// Name of the operation [default: the program's].
    #[arg(long)]
    name: Option<String>,
    /// How often to run it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// How often to run it before, without recording.
    #[arg(long, default_value_t = 0)]
    warmup: u32,
    /// A label, as name=value (repeatable).
    #[arg(long = "label", value_parser = super::label, value_name = "K=V")]
    labels: Vec<(String, String)>,
    /// A second command, run in turns with the first and compared with it; it gets the label side=vs, the first side=main.
    #[arg(long, value_name = "COMMAND")]
    vs: Option<String>,
    /// Run the command line by a shell, and take the shell's own start off.
    #[arg(long)]
    shell: bool,
    /// The slowdown that matters in a comparison.
    #[arg(long, default_value = "5%", value_parser = super::fraction)]
    threshold: f64,
    /// Let through what the command prints, also with many runs.
    #[arg(long)]
    show_output: bool,
    /// Print what was measured as JSON.
    #[arg(long)]
    json: bool,
    /// How progress is told: a bar on a terminal, lines elsewhere; or JSON lines.
    #[arg(long, value_enum, default_value_t)]
    progress: super::progress::ProgressForm,
    #[command(flatten)]
    folder: Folder,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// One command with what its runs took.
struct Side {
    words: Vec<String>,
    labels: weir_track::Labels,
    runs: Vec<Measured>,
}

/// One run.
#[derive(Debug, Clone, Copy)]
struct Measured {
    wall_ms: f64,
    user_ms: f64,
    system_ms: f64,
    /// None when it is not above what this process itself had when it started the command.
    peak_bytes: Option<u64>,
    code: i32,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let clock = SystemClock::default();
    let name = args.name.clone().unwrap_or_else(|| program(&args.command[0]));
    let mut sides = sides(args)?;
    let shell_ms = if args.shell { shell_start_ms(&clock)? } else { 0.0 };
    let mut recorder = Recorder::open(&args.folder)?;
    let series = recorder.id();
    let quiet = !args.show_output && (args.json || args.runs + args.warmup > 1 || sides.len() > 1);
    for side in &sides {
        for _ in 0..args.warmup {
            let warm = measure(&side.words, quiet, &clock, 0.0)?;
            anyhow::ensure!(warm.code == 0, "a warm-up run of {} ended with {}", side.words.join(" "), warm.code);
        }
    }
    let progress = weir_track::Progress::new(&name, Some(u64::from(args.runs) * sides.len() as u64));
    let teller = super::progress::Teller::start(&progress, args.progress, terminal);
    for round in 0..args.runs {
        for at in 0..sides.len() {
            // Every other round the other one goes first, so that neither always runs after the same neighbour.
            let at = if round % 2 == 1 { sides.len() - 1 - at } else { at };
            let side = &mut sides[at];
            let (id, start_ns) = (recorder.id(), recorder.now());
            let labels = side.labels.clone();
            let started = Started { id: id.clone(), name: name.clone(), labels, start_ns, ..Started::default() };
            recorder.append(vec![Row::Started(started)])?;
            let measured = measure(&side.words, quiet, &clock, shell_ms)?;
            let mut row = row_of(&measured, &name, side, recorder.now());
            (row.id, row.run, row.round) = (Some(id), Some(series.clone()), Some(round));
            recorder.append(vec![Row::Finished(row)])?;
            side.runs.push(measured);
            progress.add(1);
        }
    }
    progress.finish();
    teller.stop();
    recorder.close()?;
    tell(args, &name, &sides, terminal)?;
    let failed = sides.iter().flat_map(|side| &side.runs).find(|run| run.code != 0);
    Ok(failed.map_or(Exit::Done, |run| Exit::Command(u8::try_from(run.code).unwrap_or(1))))
}

fn program(word: &str) -> String {
    let first = word.split_whitespace().next().unwrap_or(word);
    first.rsplit('/').next().unwrap_or(first).to_owned()
}

fn sides(args: &Args) -> Result<Vec<Side>> {
    let in_shell = |line: String| vec!["sh".to_owned(), "-c".to_owned(), line];
    let words = if args.shell { in_shell(args.command.join(" ")) } else { args.command.clone() };
    let mut labels = super::labels(&args.labels);
    let Some(other) = &args.vs else { return Ok(vec![Side { words, labels, runs: Vec::new() }]) };
    let other_words = if args.shell { in_shell(other.clone()) } else { split(other)? };
    labels.insert("side".into(), "main".into());
    let main = Side { words, labels: labels.clone(), runs: Vec::new() };
    labels.insert("side".into(), "vs".into());
    Ok(vec![main, Side { words: other_words, labels, runs: Vec::new() }])
}

/// A command line in words, as a shell splits it: quotes and backslashes, nothing else.
fn split(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (None | Some('"'), '\\') => word.get_or_insert_default().push(letters.next().unwrap_or('\\')),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    anyhow::ensure!(quote.is_none(), "a quote in '{line}' is not closed");
    words.extend(word);
    if words.is_empty() {
        bail!("the second command is empty");
    }
    Ok(words)
}

/// How long an empty shell takes, in milliseconds.
fn shell_start_ms(clock: &dyn Clock) -> Result<f64> {
    let words: Vec<String> = ["sh", "-c", ""].map(str::to_owned).to_vec();
    let times: Result<Vec<f64>> = (0..SHELL_RUNS).map(|_| Ok(measure(&words, true, clock, 0.0)?.wall_ms)).collect();
    Ok(compare::median(&times?))
}

fn measure(words: &[String], quiet: bool, clock: &dyn Clock, shell_ms: f64) -> Result<Measured> {
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    if quiet {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    let before = clock.monotonic();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", words[0]))?;
    let used = child.wait4().with_context(|| format!("cannot wait for {}", words[0]))?;
    let wall_ms = (clock.monotonic() - before).as_secs_f64() * 1e3;
    let code = used.status.code().unwrap_or_else(|| {
        // As shells tell it: 128 and the signal.
        std::os::unix::process::ExitStatusExt::signal(&used.status).map_or(1, |signal| 128 + signal)
    });
    Ok(Measured {
        // A shell that happened to start faster than usual must not make a duration of nothing.
        wall_ms: (wall_ms - shell_ms).max(1e-6),
        user_ms: used.rusage.utime.as_secs_f64() * 1e3,
        system_ms: used.rusage.stime.as_secs_f64() * 1e3,
        // The kernel counts the moment before the program is loaded too, when the child is still a copy of this process:
        // a peak below that tells about us and not about the command (M1).
        peak_bytes: Some(used.rusage.maxrss).filter(|peak| *peak > own_peak_bytes().unwrap_or(0)),
        code,
    })
}

/// Most memory that this process had so far, in bytes.
#[allow(clippy::disallowed_methods, reason = "a file of the kernel, not of the disk")]
fn own_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn row_of(measured: &Measured, name: &str, side: &Side, end_ns: i64) -> Finished {
    let mut measures = BTreeMap::from([
        ("user_ms".to_owned(), measured.user_ms),
        ("system_ms".to_owned(), measured.system_ms),
        ("exit_code".to_owned(), f64::from(measured.code)),
    ]);
    measures.extend(measured.peak_bytes.map(|peak| ("peak_memory_bytes".to_owned(), peak as f64)));
    Finished {
        name: name.to_owned(),
        labels: side.labels.clone(),
        end_ns,
        duration_ns: (measured.wall_ms * 1e6) as u64,
        count: 1,
        failures: u64::from(measured.code != 0),
        measures,
        ..Finished::default()
    }
}

fn tell(args: &Args, name: &str, sides: &[Side], terminal: &Terminal) -> Result<()> {
    let compared = match sides {
        [main, vs] if args.runs as usize >= compare::RUNS_MIN => {
            let wall = |side: &Side| side.runs.iter().map(|run| run.wall_ms).collect::<Vec<_>>();
            Some(compare::compare(&wall(vs), &wall(main), true, Rule { threshold: args.threshold })?)
        }
        _ => None,
    };
    if args.json {
        let sides: Vec<_> = sides.iter().map(side_json).collect();
        let told = json!({"name": name, "sides": sides, "comparison": compared});
        terminal::print(format!("{told}\n"))?;
        return Ok(());
    }
    for side in sides {
        terminal.say(side_line(name, side));
        for (run, ms) in outliers(&side.runs) {
            terminal.say(format!("  outlier: run {} took {}", run + 1, millis(ms)));
        }
    }
    if let Some(found) = compared {
        terminal.say(sentence(&found));
    }
    Ok(())
}

fn sentence(found: &Comparison) -> String {
    format!("compared with --vs: {}", found.sentence("the command"))
}

fn side_line(name: &str, side: &Side) -> String {
    let column = |of: fn(&Measured) -> f64| side.runs.iter().map(of).collect::<Vec<_>>();
    let wall = column(|run| run.wall_ms);
    let (low, high) = wall.iter().fold((f64::MAX, 0f64), |(low, high), ms| (low.min(*ms), high.max(*ms)));
    let failed = side.runs.iter().filter(|run| run.code != 0).count();
    let (user, system) = (compare::median(&column(|run| run.user_ms)), compare::median(&column(|run| run.system_ms)));
    let peak = side.runs.iter().filter_map(|run| run.peak_bytes).max();
    let peak = peak.map_or(String::new(), |peak| format!(", peak {}", weir_base::ByteSize::new(peak)));
    let label = side.labels.get("side").map_or(String::new(), |side| format!(" ({side})"));
    let spread = if wall.len() > 1 {
        format!(" ± {} ({} to {}, {} runs)", millis(compare::spread(&wall)), millis(low), millis(high), wall.len())
    } else {
        String::new()
    };
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!(
        "{name}{label}: {}{spread}, user {}, system {}{peak}{failures}",
        millis(compare::median(&wall)),
        millis(user),
        millis(system),
    )
}

/// Runs far off the median: which, and how long.
fn outliers(runs: &[Measured]) -> Vec<(usize, f64)> {
    let wall: Vec<f64> = runs.iter().map(|run| run.wall_ms).collect();
    let (middle, spread) = (compare::median(&wall), compare::spread(&wall));
    if wall.len() < 5 || spread <= 0.0 {
        return Vec::new();
    }
    wall.into_iter().enumerate().filter(|(_, ms)| (ms - middle).abs() > OUTLIER * spread).collect()
}

fn side_json(side: &Side) -> serde_json::Value {
    let column = |of: fn(&Measured) -> f64| side.runs.iter().map(of).collect::<Vec<_>>();
    let wall = column(|run| run.wall_ms);
    json!({
        "command": side.words,
        "labels": side.labels,
        "median_ms": compare::median(&wall),
        "spread_ms": compare::spread(&wall),
        "wall_ms": wall,
        "user_ms": column(|run| run.user_ms),
        "system_ms": column(|run| run.system_ms),
        "peak_memory_bytes": side.runs.iter().map(|run| run.peak_bytes).collect::<Vec<_>>(),
        "exit_codes": side.runs.iter().map(|run| run.code).collect::<Vec<_>>(),
        "outliers": outliers(&side.runs).iter().map(|(run, _)| run).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_command_is_split_as_a_shell_would() {
        assert_eq!(split(r#"a 'b c' "d \" e" f\ g ''"#).unwrap(), ["a", "b c", "d \" e", "f g", ""]);
        assert!(split("a 'b").is_err() && split("  ").is_err());
    }
}
