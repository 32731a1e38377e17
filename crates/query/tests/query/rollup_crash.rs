//! The power fails at every step of the disk while a rollup is made, filled and brought up to date: after a restart it is not there or
//! not behind what it says, and the next refresh has it right.

use std::sync::Arc;
use std::time::Duration;

use weir_base::Kind;
use weir_engine::Engine;
use weir_engine::config::Config;
use weir_engine::engine::Env;
use weir_engine::ingest::WriteOptions;
use weir_engine::rollup::Definition;
use weir_query::encode::{Encoding, encode};
use weir_query::{Request, Settings, SqlEngine};
use weir_sim::{Disk, Fault};

use futures::StreamExt;

const HOURLY: &str = "SELECT host, time_bucket('1 hour', time), count(*), sum(v), last(v, time) FROM m GROUP BY 1, 2";
const ASKED: &str = "SELECT host, count(*) AS n, sum(v) AS v, last(v, time) AS l FROM m GROUP BY host ORDER BY host";
const LATE: &str = "m,host=a v=100 7\nm,host=c v=3 7200000000000\n";

/// A process on a disk; only kernel locks are of the machine.
struct Process {
    engine: Engine,
    with: SqlEngine,
    without: SqlEngine,
}

struct World {
    disk: Disk,
    locks: Arc<tempfile::TempDir>,
    seed: u64,
}

impl World {
    async fn open(&self) -> Process {
        let random = Arc::new(weir_sim::Seeded::new(self.seed));
        let clock = Arc::<weir_sim::Clock>::default();
        let env = Env { fs: Arc::new(self.disk.clone()), clock: clock.clone(), random: random.clone() };
        let config = Config { background: false, ..Config::new(self.locks.path()) };
        let engine = loop {
            match Engine::open(config.clone(), env.clone()).await {
                Ok((engine, _)) => break engine,
                // The last query of the process before is still letting go.
                Err(error) if error.kind() == Kind::Conflict => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let sql = |query_rollups: bool| {
            let settings = Settings { query_rollups, ..Settings::new(1 << 30, 1) };
            SqlEngine::new(Arc::new(engine.clone()), settings, clock.clone(), random.clone()).unwrap()
        };
        Process { with: sql(true), without: sql(false), engine }
    }
}

impl Process {
    async fn write(&self, lines: &'static str) -> weir_engine::Result<()> {
        let mut write = self.engine.begin_write("db", WriteOptions::default())?;
        let fed = tokio::task::spawn_blocking(move || write.feed(lines.as_bytes()).map(|()| write)).await.unwrap();
        fed?.commit().await?;
        self.engine.flush(None).await.map(drop)
    }

    async fn definition(&self) -> Definition {
        let request = Request { database: "db".into(), sql: HOURLY.into(), ..Request::default() };
        self.without.define_rollup(&request, "hourly", None).await.unwrap()
    }

    /// Everything that happens to a rollup. What fails is for the next process.
    async fn act(&self, definition: &Definition) -> Result<(), Kind> {
        self.engine.create_rollup("db", definition).await.map_err(|error| error.kind())?;
        self.refresh_write_refresh().await
    }

    async fn refresh_write_refresh(&self) -> Result<(), Kind> {
        let refresh = || self.without.refresh_rollup(&self.engine, "db", "hourly");
        refresh().await.map_err(|error| error.kind())?;
        self.write(LATE).await.map_err(|error| error.kind())?;
        refresh().await.map_err(|error| error.kind())?;
        Ok(())
    }

    async fn ask(&self, sql: &SqlEngine, statement: &str) -> String {
        let request = Request { database: "db".into(), sql: statement.into(), ..Request::default() };
        let mut pieces = encode(sql.query(request).await.unwrap(), Encoding::Csv);
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        String::from_utf8(bytes).unwrap()
    }

    async fn same(&self) -> String {
        let (with, without) = (self.ask(&self.with, ASKED).await, self.ask(&self.without, ASKED).await);
        assert_eq!(with, without);
        with
    }
}

/// Steps of the disk until a rollup is made, and until all is done.
async fn steps_of(setup: &World, definition: &Definition) -> (u64, u64) {
    let world = World { disk: setup.disk.fork(0), locks: Arc::clone(&setup.locks), seed: 999 };
    let process = world.open().await;
    let before = world.disk.steps();
    process.engine.create_rollup("db", definition).await.unwrap();
    let made = world.disk.steps() - before;
    process.refresh_write_refresh().await.unwrap();
    (made, world.disk.steps() - before)
}

#[test]
fn after_a_crash_at_every_step_a_rollup_is_absent_or_right_e1() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let setup = World { disk: Disk::new(1), locks: Arc::new(tempfile::tempdir().unwrap()), seed: 1 };
        let process = setup.open().await;
        process.write("m,host=a v=1 0\nm,host=a v=2 3600000000000\nm,host=b v=5 1\n").await.unwrap();
        let definition = process.definition().await;
        drop(process);
        let (made, all) = steps_of(&setup, &definition).await;
        // Every step until the rollup is made, and after that some of all parts: queries take many.
        let (mut begun, mut behind) = (0, 0);
        for step in (0..=made).chain((made + 1..all.saturating_sub(5)).step_by(31)) {
            let world = World { disk: setup.disk.fork(step), locks: Arc::clone(&setup.locks), seed: step + 1_000 };
            let process = world.open().await;
            world.disk.inject(world.disk.steps() + step, Fault::PowerOff);
            let outcome = process.act(&definition).await;
            drop(process);
            let what = format!("power off at step {step} of {made} and {all}");
            assert!(world.disk.is_off(), "{what}: {outcome:?}");
            world.disk.power_cycle();
            let process = world.open().await;
            let rollups = process.engine.rollups("db").await.unwrap();
            process.same().await;
            match rollups.as_slice() {
                // With or without its row in the catalog: the same statement makes it, or finishes what was begun.
                [] => {
                    begun += usize::from(!process.engine.store().tables_beginning("db", "weir_rollup-").is_empty());
                    process
                        .engine
                        .create_rollup("db", &definition)
                        .await
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                [found] => assert_eq!(*found, definition, "{what}"),
                more => panic!("{what}: {more:?}"),
            }
            process.write(LATE).await.unwrap();
            behind +=
                usize::from(process.without.refresh_rollup(&process.engine, "db", "hourly").await.unwrap().is_some());
            assert_eq!(process.same().await, "host,n,v,l\na,3,103.0,2.0\nb,1,5.0,5.0\nc,1,3.0,3.0\n", "{what}");
            let plan = process.ask(&process.with, &format!("EXPLAIN {ASKED}")).await;
            assert!(plan.contains(": rollup hourly answers 1 spans of time, the table 0"), "{what}: {plan}");
        }
        assert!(
            begun > 0 && behind > 0,
            "{begun} of {made} steps left a row in the catalog alone, {behind} of {all} were behind"
        );
    });
}
