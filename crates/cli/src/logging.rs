//! Logs: structured lines to stderr, written by one thread from a bounded queue, so that a slow reader of stderr never
//! slows a request. What does not fit is dropped and counted (`weir_log_lines_dropped_total`).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines waiting to be written.
const QUEUE_LINES: usize = 4096;
/// How long the end of the program waits for the queue.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

enum Line {
    Text(Vec<u8>),
    End(SyncSender<()>),
}

#[derive(Clone)]
struct Queue {
    sender: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// One event being formatted; it is queued when complete.
struct Entry {
    queue: Queue,
    text: Vec<u8>,
}

/// Writes what is queued before the program ends.
pub(crate) struct Logging {
    queue: Queue,
}

impl Logging {
    /// Installs the log for the whole program.
    pub(crate) fn start(format: LogFormat, level: &str) -> Result<Self> {
        let filter = EnvFilter::try_new(level).with_context(|| format!("'{level}' is not a log level or filter"))?;
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let queue = Queue { sender, dropped: Arc::default() };
        std::thread::Builder::new().name("weir-log".into()).spawn(move || write_lines(&receiver))?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(queue.clone())
            .with_target(false);
        let installed = match format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => {
                builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
            }
        };
        installed.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
        Ok(Self { queue })
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queue.dropped)
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.queue.sender.try_send(Line::End(done)).is_ok() {
            let _: Result<(), RecvTimeoutError> = wait.recv_timeout(LAST_WAIT);
        }
    }
}

fn write_lines(receiver: &Receiver<Line>) {
    while let Ok(line) = receiver.recv() {
        match line {
            Line::Text(text) => {
                let _ = std::io::stderr().write_all(&text);
            }
            Line::End(done) => {
                let _ = done.send(());
            }
        }
    }
}

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && self.queue.sender.try_send(Line::Text(text)).is_err() {
            self.queue.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry { queue: self.clone(), text: Vec::with_capacity(256) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_full_queue_drops_and_counts_instead_of_waiting() {
        let (sender, receiver) = sync_channel(2);
        let queue = Queue { sender, dropped: Arc::default() };
        for _ in 0..5 {
            queue.make_writer().write_all(b"line\n").unwrap();
        }
        assert_eq!(queue.dropped.load(Relaxed), 3);
        assert_eq!(receiver.try_iter().count(), 2);
    }
}
