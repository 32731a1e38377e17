//! `/metrics`: the server's numbers in Prometheus' text format (version 0.0.4).
//!
//! A collector that fails leaves its numbers out (M1), is counted, and shows in `/health` after three failures in a row; it
//! never breaks the page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::database::{Component, Sample, SampleKind, State};
use crate::guard::Caller;
use crate::status::Dialect;
use crate::tokens::Right;

/// Upper bounds of the request duration histogram, seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];
const WARNING_AFTER: u32 = 3;
const UNHEALTHY_AFTER: u32 = 10;

/// The name of the requests' histogram.
pub(crate) const REQUESTS: &str = "weir_http_request_seconds";

/// Requests of one route and status.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Requests {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// Counters of the server itself.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), Requests>>,
    in_flight: Arc<AtomicU64>,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) lines_refused: AtomicU64,
    pub(crate) wire_bytes: AtomicU64,
    pub(crate) text_bytes: AtomicU64,
    pub(crate) own_samples: AtomicU64,
    pub(crate) own_samples_dropped: AtomicU64,
    log_lines_dropped: Arc<AtomicU64>,
    pub(crate) collectors: Collectors,
}

/// Counts a request as running until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicU64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Failures in a row of each collector.
#[derive(Debug, Default)]
pub(crate) struct Collectors {
    database: AtomicU32,
    process: AtomicU32,
}

impl Collectors {
    /// The collectors as one component of `/health`.
    pub(crate) fn component(&self) -> Component {
        let failing: Vec<_> = [("database", &self.database), ("process", &self.process)]
            .into_iter()
            .map(|(name, failures)| (name, failures.load(Relaxed)))
            .filter(|(_, failures)| *failures >= WARNING_AFTER)
            .collect();
        let worst = failing.iter().map(|(_, failures)| *failures).max().unwrap_or(0);
        let state = match worst {
            0 => State::Ok,
            worst if worst < UNHEALTHY_AFTER => State::Warning,
            _ => State::Unhealthy,
        };
        let told = |(name, failures): &(&str, u32)| format!("collector '{name}' failed {failures} times in a row");
        let reason = (!failing.is_empty()).then(|| failing.iter().map(told).collect::<Vec<_>>().join("; "));
        Component { name: "metrics", state, reason, blocks_writes: false }
    }
}

impl Metrics {
    pub(crate) fn new(log_lines_dropped: Arc<AtomicU64>) -> Self {
        Self {
            requests: Mutex::default(),
            in_flight: Arc::default(),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            lines_refused: AtomicU64::new(0),
            wire_bytes: AtomicU64::new(0),
            text_bytes: AtomicU64::new(0),
            own_samples: AtomicU64::new(0),
            own_samples_dropped: AtomicU64::new(0),
            log_lines_dropped,
            collectors: Collectors::default(),
        }
    }

    /// A request begins.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// A request was answered.
    pub(crate) fn finished(&self, route: &'static str, status: u16, took: Duration) {
        let mut all = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = all.entry((route, status)).or_default();
        requests.count += 1;
        requests.seconds += took.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| took.as_secs_f64() <= *bound) {
            requests.buckets[bucket] += 1;
        }
    }

    fn own(&self) -> Vec<Sample> {
        let counter = |name, help, value: &AtomicU64| Sample {
            name,
            help,
            kind: SampleKind::Counter,
            labels: Vec::new(),
            value: value.load(Relaxed) as f64,
        };
        let gauge = |name, help, value: &AtomicU64| Sample { kind: SampleKind::Gauge, ..counter(name, help, value) };
        vec![
            gauge("weir_http_requests_in_flight", "Requests being answered.", &self.in_flight),
            gauge("weir_http_connections", "Open connections.", &self.connections),
            counter(
                "weir_http_connections_refused_total",
                "Connections refused at the limit.",
                &self.connections_refused,
            ),
            counter("weir_write_rows_total", "Rows acknowledged.", &self.rows),
            counter("weir_write_lines_refused_total", "Lines refused.", &self.lines_refused),
            counter("weir_write_wire_bytes_total", "Bytes of write bodies as received.", &self.wire_bytes),
            counter("weir_write_text_bytes_total", "Bytes of write bodies after decompression.", &self.text_bytes),
            counter("weir_own_samples_total", "Samples of these numbers in database weir.", &self.own_samples),
            counter(
                "weir_own_samples_dropped_total",
                "Samples that were due and are not in database weir.",
                &self.own_samples_dropped,
            ),
            counter("weir_log_lines_dropped_total", "Log lines dropped at a full queue.", &self.log_lines_dropped),
        ]
    }

    /// Requests so far, by route and status.
    pub(crate) fn requests(&self) -> BTreeMap<(&'static str, u16), Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn render_requests(&self, page: &mut String) {
        let _ = writeln!(page, "# HELP {REQUESTS} Time from a request's head to its answer's head.");
        let _ = writeln!(page, "# TYPE {REQUESTS} histogram");
        for ((route, status), requests) in self.requests() {
            let labels = format!("route=\"{route}\",status=\"{status}\"");
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(requests.buckets) {
                below += count;
                let _ = writeln!(page, "{REQUESTS}_bucket{{{labels},le=\"{bound}\"}} {below}");
            }
            let _ = writeln!(page, "{REQUESTS}_bucket{{{labels},le=\"+Inf\"}} {}", requests.count);
            let _ = writeln!(page, "{REQUESTS}_sum{{{labels}}} {}", requests.seconds);
            let _ = writeln!(page, "{REQUESTS}_count{{{labels}}} {}", requests.count);
        }
    }
}

/// The page, which is about all databases.
pub(crate) async fn render(Shared(app): Shared<Arc<App>>, request: Request) -> Response {
    if let Err(problem) = Caller::in_request(request.extensions()).check_everywhere(Right::Read) {
        return problem.respond(Dialect::Weir);
    }
    let samples = gather(&app);
    let mut page = String::with_capacity(16 << 10);
    app.metrics.render_requests(&mut page);
    render_samples(&samples, &mut page);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// Every number but those of the requests; what could not be measured is absent (M1). Takes no lock that a write or query holds.
pub(crate) fn gather(app: &App) -> Vec<Sample> {
    let mut samples = app.metrics.own();
    let collectors = &app.metrics.collectors;
    collect(&mut samples, &collectors.database, app.database.samples());
    collect(&mut samples, &collectors.process, process::samples());
    for part in app.database.components() {
        samples.push(Sample {
            name: "weir_component_state",
            help: "State of a component: 0 ok, 1 warning, 2 unhealthy.",
            kind: SampleKind::Gauge,
            labels: vec![("component", part.name.to_owned())],
            value: f64::from(part.state as u8),
        });
    }
    samples
}

fn collect<E: std::error::Error + 'static>(
    into: &mut Vec<Sample>,
    failures: &AtomicU32,
    found: Result<Vec<Sample>, E>,
) {
    match found {
        Ok(found) => {
            failures.store(0, Relaxed);
            into.extend(found);
        }
        Err(error) => {
            failures.fetch_add(1, Relaxed);
            tracing::warn!(error = %weir_base::error::chain(&error), "a metrics collector failed");
        }
    }
}

/// Samples of one name stand together under one heading, as the format demands.
fn render_samples(samples: &[Sample], page: &mut String) {
    let mut by_name: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_name.entry(sample.name).or_default().push(sample);
    }
    for (name, group) in by_name {
        let kind = match group[0].kind {
            SampleKind::Counter => "counter",
            SampleKind::Gauge => "gauge",
        };
        let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {kind}", group[0].help);
        for sample in group {
            page.push_str(name);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(page, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
            }
            let _ = writeln!(page, "{} {}", if sample.labels.is_empty() { "" } else { "}" }, sample.value);
        }
    }
}

/// The process as the kernel sees it (proc(5): `/proc/self/stat` and `/proc/self/status`).
mod process {
    use super::{Sample, SampleKind};

    /// Memory and CPU of this process; names as other exporters have them.
    pub(super) fn samples() -> std::io::Result<Vec<Sample>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        parse(&stat, &status).ok_or_else(|| std::io::Error::other("/proc/self/stat is not as expected"))
    }

    fn parse(stat: &str, status: &str) -> Option<Vec<Sample>> {
        // The second field, the name in parentheses, may hold spaces: count from the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        let kib = |key: &str| -> Option<f64> {
            status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
        };
        let sample = |name, help, kind, value| Sample { name, help, kind, labels: Vec::new(), value };
        let ticks_per_second = 100.0; // USER_HZ, the same on all architectures that Weir builds for.
        Some(vec![
            sample(
                "process_cpu_seconds_total",
                "User and system CPU time.",
                SampleKind::Counter,
                ticks / ticks_per_second,
            ),
            sample("process_resident_memory_bytes", "Resident memory.", SampleKind::Gauge, kib("VmRSS:")? * 1024.0),
            sample(
                "process_resident_memory_peak_bytes",
                "Largest resident memory so far.",
                SampleKind::Gauge,
                kib("VmHWM:")? * 1024.0,
            ),
            sample("process_threads", "Threads.", SampleKind::Gauge, fields.get(17)?.parse().ok()?),
        ])
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
            let stat = "1 (a) b)) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 7 0 0";
            let status = "VmHWM:\t 2048 kB\nVmRSS:\t 1024 kB\n";
            let found = parse(stat, status).unwrap();
            let values: Vec<_> = found.iter().map(|sample| sample.value).collect();
            assert_eq!(values, [2.0, 1024.0 * 1024.0, 2048.0 * 1024.0, 7.0]);
            assert!(parse("nonsense", status).is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_heading_per_name_and_labels_are_escaped() {
        let sample = |labels, value| Sample { name: "x", help: "An x.", kind: SampleKind::Gauge, labels, value };
        let mut page = String::new();
        render_samples(
            &[sample(vec![("a", "1\"\\\n".into()), ("b", "2".into())], 1.5), sample(vec![("a", "z".into())], 2.0)],
            &mut page,
        );
        assert_eq!(page, "# HELP x An x.\n# TYPE x gauge\nx{a=\"1\\\"\\\\\\n\",b=\"2\"} 1.5\nx{a=\"z\"} 2\n");
    }

    #[test]
    fn m1_a_failing_collector_is_absent_and_shows_after_three_in_a_row() {
        let metrics = Metrics::new(Arc::default());
        let failures = &metrics.collectors.database;
        let mut samples = Vec::new();
        for expected in [State::Ok, State::Ok, State::Warning] {
            collect(&mut samples, failures, Err(std::io::Error::other("broken")));
            assert_eq!(metrics.collectors.component().state, expected);
        }
        assert!(samples.is_empty());
        for _ in 0..7 {
            collect(&mut samples, failures, Err(std::io::Error::other("broken")));
        }
        assert_eq!(metrics.collectors.component().state, State::Unhealthy);
        collect::<std::io::Error>(&mut samples, failures, Ok(Vec::new()));
        assert_eq!(metrics.collectors.component().state, State::Ok);
    }
}
