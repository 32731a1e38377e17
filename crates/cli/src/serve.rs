//! `weir serve`: a server on a data folder until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weir_base::OsFileSystem;
use weir_server::tokens::TokenFile;
use weir_server::{Database, Server};

use crate::config::{Config, address, tls};
use crate::embedded;
use crate::exit::Exit;
use crate::folder::{Open, data_folder};
use crate::logging::{LogFormat, Logging};
use crate::runtime;
use crate::session::socket_of;
use crate::terminal::Terminal;

/// Serve a data folder over HTTP.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir serve --data ./data
  weir serve --data ./data --http 0.0.0.0:8181 --log json
  weir serve --data ./data --http 0.0.0.0:8181 --tls-cert cert.pem --tls-key key.pem
  weir serve --data ./data --store s3://bucket/weir

SIGTERM or SIGINT ends in order: running requests finish, everything is flushed, exit 0. A second
signal ends at once; nothing acknowledged is lost either way. `weir config` prints all settings.")]
pub(crate) struct Args {
    /// Data folder [default: the platform's, as `weir doctor` tells]; made when missing.
    #[arg(long, env = "WEIR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    open: Open,
    /// Where to listen [default: 127.0.0.1:8181]; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Certificate chain in PEM form: speak TLS only.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM form.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Form of the log on stderr [default: text].
    #[arg(long, value_enum)]
    log: Option<LogFormat>,
    /// What to log: error, warn, info, debug, or a filter [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Print the settings with their defaults and do nothing.
    #[arg(long)]
    print_config: bool,
}

/// Runs `weir serve`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    if args.print_config {
        return crate::terminal::print(crate::config::DEFAULT);
    }
    let data = data_folder(args.data.as_ref())?;
    let mut config = Config::load(&data, &args.open, terminal)?;
    if let Some(http) = &args.http {
        config.server.http = Some(address(http)?);
    }
    if let Some(files) = tls(args.tls_cert.as_ref(), args.tls_key.as_ref(), "--tls-cert and --tls-key")? {
        config.server.tls = Some(files);
    }
    config.log = args.log.unwrap_or(config.log);
    if let Some(level) = &args.log_level {
        config.log_level.clone_from(level);
    }
    let logging = Logging::start(config.log, &config.log_level)?;
    let outcome = runtime::block_on(serve(&mut config, &logging, terminal));
    drop(logging);
    outcome
}

/// Opens the folder, serves it, and closes it.
pub(crate) async fn serve(config: &mut Config, logging: &Logging, terminal: &Terminal) -> Result<Exit> {
    let mut signals = Signals::new()?;
    // Opening may replay a long log: a signal ends it, and the next start replays again.
    let database = tokio::select! {
        opened = embedded::open(config, "weir serve", terminal) => opened?,
        () = signals.next() => return Ok(Exit::Done),
    };
    config.server.socket = Some(socket_of(&config.engine.data));
    config.server.tokens = Some(TokenFile::new(Arc::new(OsFileSystem), &config.engine.data));
    let app = embedded::app(config, Arc::clone(&database), logging.dropped());
    let server = match Server::bind(Arc::clone(&app)).await {
        Ok(server) => server,
        Err(error) => {
            let _ = database.close(config.close_timeout).await;
            return Err(error).context("cannot serve");
        }
    };
    announce(&server, config, terminal);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(stop.clone()));
    let draining = tokio::spawn(crate::track::drain_always(Arc::clone(&database), config.clone(), stop.clone()));
    let retaining = tokio::spawn(retain_always(Arc::clone(&database), config.clone(), stop.clone()));
    let (name, every) = (config.server.name.clone(), config.server.own_metrics_every);
    let measuring = tokio::spawn(weir_server::own::record(app, name, every, stop.clone()));
    let refreshing = tokio::spawn(refresh_always(Arc::clone(&database), config.rollups_every, stop.clone()));
    signals.next().await;
    tracing::info!("stopping: running requests finish, then everything is flushed; a second signal ends at once");
    stop.cancel();
    let ending = async {
        let _ = (draining.await, retaining.await, measuring.await, refreshing.await);
        let stopped = serving.await.context("the server failed")?;
        if stopped.cut_off > 0 {
            tracing::warn!(connections = stopped.cut_off, "cut off at server.stop_timeout_s");
        }
        database.close(config.close_timeout).await.context("stopped, and what is not flushed stays in the log")
    };
    tokio::select! {
        ended = ending => ended?,
        () = signals.next() => {
            tracing::warn!("ended at once by a second signal; what is not flushed stays in the log");
            return Ok(Exit::Unavailable);
        }
    }
    tracing::info!("stopped; everything is flushed");
    Ok(Exit::Done)
}

/// Deletes what is past its age, until the server stops. A failure is told and tried again with the next round.
async fn retain_always(database: Arc<dyn Database>, config: Config, stop: CancellationToken) {
    while !config.retention.is_empty() {
        match database.retain(&config.retention).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "deleted what is past its age"),
            Err(error) => tracing::warn!(error = %weir_base::error::chain(&error), "what is past its age stays"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(config.retention_every) => {}
        }
    }
}

/// Brings rollups up to date, until the server stops.
async fn refresh_always(database: Arc<dyn Database>, every: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let refreshed = tokio::select! {
            () = stop.cancelled() => return,
            refreshed = database.refresh_rollups() => refreshed,
        };
        match refreshed {
            Ok(0) => {}
            Ok(rollups) => tracing::debug!(rollups, "rollups are up to date"),
            Err(error) => tracing::warn!(error = %weir_base::error::chain(&error), "rollups stay behind"),
        }
    }
}

fn announce(server: &Server, config: &Config, terminal: &Terminal) {
    let data = config.engine.data.display().to_string();
    let Some(at) = server.address() else { return };
    let (tls, tokens) = (config.server.tls.is_some(), server.needs_tokens());
    tracing::info!(address = %at, %data, tls, tokens, "listening");
    let scheme = if tls { "https" } else { "http" };
    terminal.say(format!("weir {} serves {data} at {scheme}://{at}", weir_server::VERSION));
    if let Some(open) = exposed(at.ip(), tokens, tls) {
        terminal.warn(open);
        tracing::warn!(address = %at, tls, tokens, "{open}");
    }
}

/// What others can do who reach an address, where they should not be able to.
fn exposed(ip: std::net::IpAddr, tokens: bool, tls: bool) -> Option<&'static str> {
    if ip.is_loopback() {
        return None;
    }
    match (tokens, tls) {
        (true, true) => None,
        (false, false) => Some(
            "NOT PROTECTED: whoever reaches this address may read, change and delete everything, and whoever sits on the way \
             can read along; make tokens (`weir token create`), and give a certificate (--tls-cert, --tls-key) or put a proxy in front",
        ),
        (false, true) => Some(
            "NOT PROTECTED: whoever reaches this address may read, change and delete everything; make tokens (`weir token create`)",
        ),
        (true, false) => Some(
            "NOT ENCRYPTED: whoever sits on the way to this address can read data and tokens, and use those; give a certificate \
             (--tls-cert, --tls-key) or put a proxy in front",
        ),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exposed_is_said_exactly() {
        let [local, other] = ["::1", "0.0.0.0"].map(|ip| ip.parse().unwrap());
        for (tokens, tls) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(exposed(local, tokens, tls), None);
            let told = exposed(other, tokens, tls).unwrap_or_default();
            assert_eq!(told.contains("NOT PROTECTED") && told.contains("weir token create"), !tokens, "{told}");
            assert_eq!(told.contains("--tls-cert"), !tls, "{told}");
            assert_eq!(told.is_empty(), tokens && tls, "{told}");
        }
    }
}
