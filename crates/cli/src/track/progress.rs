//! How progress is told: a bar on a terminal, plain lines elsewhere, JSON lines when asked.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use weir_base::{Clock, SystemClock};
use weir_track::Progress;
use weir_track::progress::{Pace, Snapshot};

use crate::terminal::Terminal;

const TICK: Duration = Duration::from_millis(100);
/// Between two plain lines.
const LINE_EVERY: u32 = 50;

/// How progress is told on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ProgressForm {
    /// A bar on a terminal; elsewhere a line every few seconds.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

/// Tells about a [`Progress`] from a thread of its own until stopped.
pub(crate) struct Teller {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Form {
    Bar(MultiProgress, Vec<ProgressBar>),
    Lines,
    Json,
}

impl Teller {
    pub(crate) fn start(progress: &Progress, form: ProgressForm, terminal: &Terminal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let form = match form {
            ProgressForm::Json => Some(Form::Json),
            ProgressForm::Auto if terminal.draws_progress() => Some(Form::Bar(MultiProgress::new(), Vec::new())),
            ProgressForm::Auto if !terminal.is_quiet() => Some(Form::Lines),
            _ => None,
        };
        let thread = form.and_then(|form| {
            let (progress, stop) = (progress.clone(), Arc::clone(&stop));
            // Without a thread there is no telling, and the work goes on all the same.
            std::thread::Builder::new().name("weir-progress".into()).spawn(move || tell(&progress, form, &stop)).ok()
        });
        Self { stop, thread }
    }

    /// Tells the end, and stops.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.end();
    }
}

fn tell(progress: &Progress, mut form: Form, stop: &AtomicBool) {
    let (clock, mut pace) = (SystemClock::default(), Pace::default());
    let mut tick = 0;
    loop {
        let last = stop.load(Ordering::Acquire);
        let seen = progress.snapshot();
        pace.observe(clock.monotonic(), seen.done);
        match &mut form {
            Form::Bar(all, bars) => draw(all, bars, &seen, &pace, last),
            Form::Lines if tick % LINE_EVERY == LINE_EVERY - 1 => {
                let _ = writeln!(std::io::stderr(), "{}", line(&seen, &pace));
            }
            Form::Json if last || tick % 5 == 0 => {
                let _ = writeln!(std::io::stderr(), "{}", object(&seen, Some((&pace, clock.monotonic()))));
            }
            Form::Lines | Form::Json => {}
        }
        if last {
            return;
        }
        tick += 1;
        std::thread::park_timeout(TICK);
    }
}

fn draw(all: &MultiProgress, bars: &mut Vec<ProgressBar>, seen: &Snapshot, pace: &Pace, last: bool) {
    if last {
        let _ = all.clear();
        return;
    }
    let shown: Vec<&Snapshot> = std::iter::once(seen).chain(&seen.children).collect();
    while bars.len() > shown.len() {
        bars.pop().inspect(|bar| all.remove(bar));
    }
    while bars.len() < shown.len() {
        let bar = all.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{prefix:12} {bar:28} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bars.push(bar);
    }
    for (at, (bar, seen)) in bars.iter().zip(shown).enumerate() {
        bar.set_length(seen.total.unwrap_or(seen.done));
        bar.set_position(seen.done);
        bar.set_prefix(seen.what.clone());
        bar.set_message(if at == 0 {
            format!("{} {}", tail(seen, pace), seen.message)
        } else {
            seen.message.to_string()
        });
    }
}

fn tail(seen: &Snapshot, pace: &Pace) -> String {
    let rate = pace.per_second().map_or(String::new(), |rate| format!("{rate:.1}/s"));
    let left = pace.left(seen.total).map_or(String::new(), |left| {
        format!(", about {} left", weir_track::compare::millis(left.as_secs_f64() * 1e3))
    });
    rate + &left
}

fn line(seen: &Snapshot, pace: &Pace) -> String {
    let of = seen.total.map_or(String::new(), |total| format!(" of {total}"));
    format!("{}: {}{of}, {} {}", seen.what, seen.done, tail(seen, pace), seen.message).trim_end().to_owned()
}

fn object(seen: &Snapshot, pace: Option<(&Pace, Duration)>) -> Value {
    json!({
        "progress": seen.what,
        "done": seen.done,
        "total": seen.total,
        "message": &*seen.message,
        "ended": seen.ended,
        "elapsed_s": pace.map(|(_, elapsed)| elapsed.as_secs_f64()),
        "per_second": pace.and_then(|(pace, _)| pace.per_second()),
        "left_s": pace.and_then(|(pace, _)| pace.left(seen.total)).map(|left| left.as_secs_f64()),
        "parts": seen.children.iter().map(|child| object(child, None)).collect::<Vec<_>>(),
    })
}
