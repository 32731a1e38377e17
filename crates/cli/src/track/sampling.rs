//! Numbers of this process once a second, while a command runs: CPU time, memory, bytes read and written.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use weir_base::{Clock, SystemClock};
use weir_track::{Row, Sampled};

const EVERY: Duration = Duration::from_secs(1);
/// Most samples that are kept, a day's; of a longer command the first (S1).
const SAMPLES_MAX: usize = 86_400;

/// A thread that takes samples until it is stopped.
pub(crate) struct Sampling {
    stop: Sender<()>,
    thread: Option<JoinHandle<Vec<Row>>>,
}

impl Sampling {
    /// Takes the first sample at once. `process` is what the samples are found by.
    pub(crate) fn start(process: &str) -> Self {
        let (stop, stopped) = mpsc::channel();
        let process = process.to_owned();
        let take = move || {
            let clock = SystemClock::default();
            let mut rows = vec![Row::Sampled(sample(&process, &clock))];
            loop {
                let last = stopped.recv_timeout(EVERY);
                if rows.len() < SAMPLES_MAX {
                    rows.push(Row::Sampled(sample(&process, &clock)));
                }
                if !matches!(last, Err(RecvTimeoutError::Timeout)) {
                    return rows;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sampling".into()).spawn(take).ok();
        Self { stop, thread }
    }

    /// Takes a last sample and returns all.
    pub(crate) fn stop(mut self) -> Vec<Row> {
        let _ = self.stop.send(());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// What the kernel tells of this process; what it does not tell is left out (M1).
fn sample(process: &str, clock: &dyn Clock) -> Sampled {
    let mut sampled = Sampled { time_ns: clock.now(), process: process.to_owned(), ..Sampled::default() };
    let mut tell =
        |name: &str, value: Option<f64>| sampled.measures.extend(value.map(|value| (name.to_owned(), value)));
    tell("cpu_ms", of_kernel("/proc/self/stat").as_deref().and_then(cpu_ms));
    let status = of_kernel("/proc/self/status");
    let kibibytes = |field: &str| Some(number(status.as_deref()?, field, " kB")? * 1024.0);
    tell("memory_bytes", kibibytes("VmRSS:"));
    tell("peak_memory_bytes", kibibytes("VmHWM:"));
    let io = of_kernel("/proc/self/io");
    for (name, field) in [("read_bytes", "read_bytes:"), ("written_bytes", "write_bytes:")] {
        tell(name, io.as_deref().and_then(|io| number(io, field, "")));
    }
    sampled
}

#[allow(clippy::disallowed_methods, reason = "a file of the kernel, not of the disk")]
fn of_kernel(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// User and system time out of `/proc/self/stat` (proc_pid_stat(5), fields 14 and 15), in ticks of 10 ms: the kernel tells
/// programs 100 ticks a second on every architecture.
fn cpu_ms(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) * 10.0)
}

fn number(text: &str, field: &str, unit: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(unit)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_what_the_kernel_does_not_tell_is_absent() {
        let text = "VmRSS:\t  12 kB\nVmHWM: none\n";
        assert_eq!(number(text, "VmRSS:", " kB"), Some(12.0));
        assert_eq!((number(text, "VmHWM:", " kB"), number(text, "VmSwap:", " kB")), (None, None));
        assert_eq!(cpu_ms("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0"), Some(3000.0));
        assert_eq!(cpu_ms("7 (a) R 1"), None);
    }

    #[test]
    fn a_process_is_sampled_at_the_beginning_and_at_the_end() {
        let rows = Sampling::start("me").stop();
        let [Row::Sampled(first), .., Row::Sampled(last)] = &rows[..] else { panic!("{rows:?}") };
        assert!(first.time_ns <= last.time_ns && first.process == "me");
        assert!(last.measures["memory_bytes"] > 1e5 && last.measures["cpu_ms"] >= first.measures["cpu_ms"], "{last:?}");
    }
}
