//! The server's own numbers as rows of database `weir`, so that SQL answers questions about them too.
//!
//! Every so often what `/metrics` shows becomes a few lines that go through the ordinary write call. Numbers without labels are
//! the fields of one row of table `server`, by their names on the page without `weir_`, which is reserved; a number with labels has
//! a table of its own, `server_` and such a name, with the labels as tags. What a collector could not measure is absent (M1).
//!
//! It is never in the way of anything else (S1): one sample is on its way at a time, and one that comes due meanwhile, or that is
//! refused at a limit, is dropped and counted. A sample is not synced, so it costs no one a wait for the disk. It does not feed on
//! itself either: how many rows a sample has depends on the metrics, routes and statuses that there are, not on the samples before.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use weir_base::Kind;
use weir_engine::ingest::WriteOptions;
use weir_engine::spool::{DATABASE, escaped};

use crate::app::App;
use crate::database::Sample;
use crate::error::{Error, Result};
use crate::metrics::{self, Requests};

/// The table of numbers without labels; those of the others begin with it.
const TABLE: &str = "server";

/// Writes a sample every `every`, the first after that time, until `stop`. The rows say that they are of `server`.
pub async fn record(app: Arc<App>, server: String, every: Duration, stop: CancellationToken) {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Dropping the set ends what is in it.
    let mut writing = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        while writing.try_join_next().is_some() {}
        if writing.is_empty() {
            let lines = lines(&app, &server);
            writing.spawn(keep(Arc::clone(&app), lines));
        } else {
            app.metrics.own_samples_dropped.fetch_add(1, Relaxed);
        }
    }
}

async fn keep(app: Arc<App>, lines: String) {
    let outcome = write(&app, lines).await;
    if let Err(error) = outcome {
        app.metrics.own_samples_dropped.fetch_add(1, Relaxed);
        let told = weir_base::error::chain(&error);
        if error.kind() == Kind::Invalid {
            // The next one will be refused too.
            tracing::warn!(error = %told, "a sample of the server's own numbers was refused");
        } else {
            tracing::debug!(error = %told, "a sample of the server's own numbers was dropped");
        }
    } else {
        app.metrics.own_samples.fetch_add(1, Relaxed);
    }
}

async fn write(app: &App, lines: String) -> Result<()> {
    let options = WriteOptions { no_sync: true, ..WriteOptions::default() };
    let mut session = app.database.begin_write(DATABASE, options)?;
    let fed = tokio::task::spawn_blocking(move || session.feed(lines.as_bytes()).map(|()| session));
    let session = fed.await.map_err(|error| Error::wrap(Kind::Internal, "parsing a sample panicked", error))??;
    let written = session.commit().await?;
    match written.rejected.first() {
        Some(refused) => Err(Error::invalid(format!("{}: {}", refused.reason, refused.original_line))),
        None => Ok(()),
    }
}

/// Everything measured now, in line protocol with one time.
fn lines(app: &App, server: &str) -> String {
    let (now, tag) = (app.clock.now(), format!(",server={}", escaped(server)));
    let (plain, labelled): (Vec<_>, Vec<_>) = metrics::gather(app)
        .into_iter()
        .filter(|sample| sample.value.is_finite())
        .partition(|sample| sample.labels.is_empty());
    let mut text = String::with_capacity(4 << 10);
    let fields: Vec<String> = plain.iter().map(|sample| format!("{}={}", short(sample.name), sample.value)).collect();
    if !fields.is_empty() {
        let _ = writeln!(text, "{TABLE}{tag} {} {now}", fields.join(","));
    }
    for sample in &labelled {
        let _ = writeln!(text, "{}{tag}{} value={} {now}", table(sample.name), tags(sample), sample.value);
    }
    for ((route, status), Requests { count, seconds, .. }) in app.metrics.requests() {
        let requests = table(metrics::REQUESTS);
        let route = escaped(route);
        let _ = writeln!(text, "{requests}{tag},route={route},status={status} count={count},sum={seconds} {now}");
    }
    text
}

/// A number's name without the program's.
fn short(name: &str) -> &str {
    name.strip_prefix("weir_").unwrap_or(name)
}

/// Where a number with labels goes.
fn table(name: &str) -> String {
    format!("{TABLE}_{}", short(name))
}

fn tags(sample: &Sample) -> String {
    let written = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    written.map(|(label, value)| format!(",{label}={}", escaped(value))).collect()
}
