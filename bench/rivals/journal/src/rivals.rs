//! The other stores, each with one transaction a batch.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::{BATCH, Outcome, batch, bytes_in};

/// One row per record.
pub fn sqlite(batches: usize, durable: bool) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir_in(".")?;
    let mut connection = rusqlite::Connection::open(dir.path().join("db"))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", if durable { "full" } else { "off" })?;
    connection.execute("CREATE TABLE log (sequence INTEGER PRIMARY KEY, time INTEGER, key TEXT, payload TEXT)", [])?;
    let mut times = Vec::with_capacity(batches);
    for number in 0..batches {
        let batch = batch(number);
        let start = Instant::now();
        let transaction = connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO log (time, key, payload) VALUES (?1, ?2, ?3)")?;
            for (key, payload) in batch.keys.iter().zip(&batch.payloads) {
                insert.execute((number as i64, key, payload))?;
            }
        }
        transaction.commit()?;
        times.push(start.elapsed());
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0))?;
    ensure!(count as usize == batches * BATCH, "sqlite lost records");
    drop(connection);
    Ok(Outcome { times, stored_bytes: bytes_in(dir.path())? })
}

const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");

pub fn redb(batches: usize, durable: bool) -> anyhow::Result<Outcome> {
    use redb::ReadableTableMetadata;
    let dir = tempfile::tempdir_in(".")?;
    let database = redb::Database::create(dir.path().join("db"))?;
    let mut times = Vec::with_capacity(batches);
    for number in 0..batches {
        let batch = batch(number);
        let start = Instant::now();
        let mut transaction = database.begin_write()?;
        transaction.set_durability(if durable { redb::Durability::Immediate } else { redb::Durability::None });
        {
            let mut table = transaction.open_table(TABLE)?;
            for (index, payload) in batch.payloads.iter().enumerate() {
                table.insert((number * BATCH + index) as u64, payload.as_bytes())?;
            }
        }
        transaction.commit()?;
        times.push(start.elapsed());
    }
    let count = database.begin_read()?.open_table(TABLE)?.len()?;
    ensure!(count as usize == batches * BATCH, "redb lost records");
    drop(database);
    Ok(Outcome { times, stored_bytes: bytes_in(dir.path())? })
}

pub fn fjall(batches: usize, durable: bool) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir_in(".")?;
    let keyspace = fjall::Config::new(dir.path()).open()?;
    let log = keyspace.open_partition("log", fjall::PartitionCreateOptions::default())?;
    let mut times = Vec::with_capacity(batches);
    for number in 0..batches {
        let batch = batch(number);
        let start = Instant::now();
        let mut write = keyspace.batch();
        for (index, payload) in batch.payloads.iter().enumerate() {
            write.insert(&log, ((number * BATCH + index) as u64).to_be_bytes(), payload.as_bytes());
        }
        write.commit()?;
        keyspace.persist(if durable { fjall::PersistMode::SyncAll } else { fjall::PersistMode::Buffer })?;
        times.push(start.elapsed());
    }
    ensure!(log.len()? == batches * BATCH, "fjall lost records");
    drop((log, keyspace));
    Ok(Outcome { times, stored_bytes: bytes_in(dir.path())? })
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
    Ok(Outcome { times, stored_bytes: bytes_in(dir.path())? })
}
