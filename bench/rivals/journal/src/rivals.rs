//! The other stores, each with one transaction a batch.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::stores::{Store, bytes_in};
use crate::{BATCH, Batch, Outcome, batch};

pub struct Sqlite {
    dir: tempfile::TempDir,
    connection: rusqlite::Connection,
    durable: bool,
}

impl Sqlite {
    pub fn open(durable: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let connection = rusqlite::Connection::open(dir.path().join("db"))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", if durable { "full" } else { "off" })?;
        connection
            .execute("CREATE TABLE log (sequence INTEGER PRIMARY KEY, time INTEGER, key TEXT, payload TEXT)", [])?;
        Ok(Self { dir, connection, durable })
    }
}

impl Store for Sqlite {
    fn name(&self) -> String {
        format!("sqlite, WAL, synchronous={}", if self.durable { "FULL" } else { "OFF" })
    }

    fn append(&mut self, number: usize, batch: &Batch, _written: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let transaction = self.connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO log (time, key, payload) VALUES (?1, ?2, ?3)")?;
            for (key, payload) in batch.keys.iter().zip(&batch.payloads) {
                insert.execute((number as i64, key, payload))?;
            }
        }
        transaction.commit()?;
        Ok(start.elapsed())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)> {
        let count: i64 = self.connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0))?;
        drop(self.connection);
        Ok((count as u64, bytes_in(self.dir.path())?))
    }
}

const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");

pub struct Redb {
    dir: tempfile::TempDir,
    database: redb::Database,
    durable: bool,
}

impl Redb {
    pub fn open(durable: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let database = redb::Database::create(dir.path().join("db"))?;
        Ok(Self { dir, database, durable })
    }
}

impl Store for Redb {
    fn name(&self) -> String {
        format!("redb, {}", if self.durable { "immediate" } else { "none" })
    }

    fn append(&mut self, number: usize, batch: &Batch, _written: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(if self.durable { redb::Durability::Immediate } else { redb::Durability::None });
        {
            let mut table = transaction.open_table(TABLE)?;
            for (index, payload) in batch.payloads.iter().enumerate() {
                table.insert((number * BATCH + index) as u64, payload.as_bytes())?;
            }
        }
        transaction.commit()?;
        Ok(start.elapsed())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)> {
        use redb::ReadableTableMetadata;
        let count = self.database.begin_read()?.open_table(TABLE)?.len()?;
        drop(self.database);
        Ok((count, bytes_in(self.dir.path())?))
    }
}

pub struct Fjall {
    dir: tempfile::TempDir,
    keyspace: fjall::Keyspace,
    log: fjall::PartitionHandle,
    durable: bool,
}

impl Fjall {
    pub fn open(durable: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let keyspace = fjall::Config::new(dir.path()).open()?;
        let log = keyspace.open_partition("log", fjall::PartitionCreateOptions::default())?;
        Ok(Self { dir, keyspace, log, durable })
    }
}

impl Store for Fjall {
    fn name(&self) -> String {
        if self.durable { "fjall, SyncData" } else { "fjall, no sync" }.to_owned()
    }

    fn append(&mut self, number: usize, batch: &Batch, _written: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut write = self.keyspace.batch();
        for (index, payload) in batch.payloads.iter().enumerate() {
            write.insert(&self.log, ((number * BATCH + index) as u64).to_be_bytes(), payload.as_bytes());
        }
        write.commit()?;
        // Data without metadata, as everybody else here.
        self.keyspace.persist(if self.durable { fjall::PersistMode::SyncData } else { fjall::PersistMode::Buffer })?;
        Ok(start.elapsed())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)> {
        let count = self.log.len()? as u64;
        let Self { dir, keyspace, log, .. } = *self;
        drop((log, keyspace));
        Ok((count, bytes_in(dir.path())?))
    }
}

/// Reads, inflates, extends, deflates and replaces the whole file for each batch, as the store that the journal replaced did.
const PYTHON: &str = r#"
import gzip, json, os, sys, time
path = sys.argv[1]
def write(data):
    with gzip.open(path + ".tmp", "wt", encoding="utf-8", compresslevel=6) as f:
        json.dump(data, f, separators=(",", ":"))
    os.replace(path + ".tmp", path)
write({"operations": []})
batch = []
for line in sys.stdin:
    if line.strip():
        batch.append(json.loads(line))
        continue
    start = time.perf_counter()
    with gzip.open(path, "rt", encoding="utf-8") as f:
        data = json.load(f)
    data["operations"].extend(batch)
    write(data)
    print(int((time.perf_counter() - start) * 1e9), flush=True)
    batch = []
with gzip.open(path, "rt", encoding="utf-8") as f:
    print(len(json.load(f)["operations"]), flush=True)
"#;

pub fn python(batches: usize) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir_in(".")?;
    let path = dir.path().join("operations.json.gz");
    let mut child = Command::new("python3")
        .args(["-c".as_ref(), PYTHON.as_ref(), path.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let mut input = child.stdin.take().context("no stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut times = Vec::with_capacity(batches);
    for number in 0..batches {
        input.write_all((batch(number).payloads.join("\n") + "\n\n").as_bytes())?;
        let nanos = lines.next().context("python3 ended")??;
        times.push(Duration::from_nanos(nanos.parse()?));
    }
    drop(input);
    let count: usize = lines.next().context("python3 ended")??.parse()?;
    ensure!(count == batches * BATCH, "the rewritten file lost records");
    child.wait()?;
    Ok(Outcome { name: "python, gzip-JSON rewritten".to_owned(), times, stored_bytes: bytes_in(dir.path())? })
}
