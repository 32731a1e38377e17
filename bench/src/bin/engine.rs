//! The engine alone, without HTTP: TSBS lines into [`weir_engine::Engine`] and out to files, in one process, for profiles.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_bench::tsbs::Generator;
use weir_engine::Engine;
use weir_engine::config::Config;
use weir_engine::engine::Env;
use weir_engine::ingest::WriteOptions;

#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures wall time and prints")]
fn main() -> anyhow::Result<()> {
    let requests: usize = std::env::args().nth(1).map_or(Ok(400), |text| text.parse())?;
    let dir = std::env::args().nth(2).unwrap_or_else(|| "engine-bench".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (engine, _) = Engine::open(Config::new(&dir), Env::default()).await?;
        let shape = Arc::new(Mutex::new(Generator::new(100, 1)));
        let start = Instant::now();
        let tasks: Vec<_> = (0..4usize)
            .map(|connection| {
                let (engine, shape) = (engine.clone(), Arc::clone(&shape));
                tokio::spawn(async move {
                    let mut rows = 0;
                    for _ in (connection..requests).step_by(4) {
                        let mut write = engine.begin_write("bench", WriteOptions::default())?;
                        let shape = Arc::clone(&shape);
                        let feed = move || -> weir_engine::Result<_> {
                            let mut body = Vec::new();
                            shape.lock().map_err(|_| weir_engine::Error::invalid("poisoned"))?.body(10_000, &mut body);
                            write.feed(&body)?;
                            Ok(write)
                        };
                        rows += tokio::task::spawn_blocking(feed).await??.commit().await?.rows;
                    }
                    anyhow::Ok(rows)
                })
            })
            .collect();
        let mut rows = 0;
        for task in tasks {
            rows += task.await??;
        }
        let acknowledged = start.elapsed();
        engine.flush(None).await?;
        let flushed = start.elapsed();
        let rate = |elapsed: Duration| rows as f64 / elapsed.as_secs_f64();
        println!(
            "{rows} rows: {:.0} acknowledged/s, {:.0} in files/s; {:?}",
            rate(acknowledged),
            rate(flushed),
            engine.stats()
        );
        engine.close(Duration::from_secs(60)).await?;
        anyhow::Ok(())
    })
}
