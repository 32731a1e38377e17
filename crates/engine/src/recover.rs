//! After a restart: the rows of the WAL that no committed version holds go back into the buffer.
//!
//! For each table the `txn` of its latest version under this WAL's writer id says up to which sequence its rows are in
//! files; a record's rows of that table are skipped up to there and applied above, in sequence order. Replaying twice
//! gives the same (E1).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use weir_base::{Kind, OpenMode};
use weir_journal::Reader;

use crate::chunk::Chunk;
use crate::engine::{Opened, Shared};
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::table::TableState;
use crate::wal;

/// The id under which this WAL commits: read from `wal/writer`, made anew for a new WAL.
///
/// # Errors
/// `damaged` when the WAL has records and the id is missing or malformed: guessing one would flush rows twice.
pub(crate) fn writer_id(env: &crate::engine::Env, wal: &Path, next_sequence: u64) -> Result<String> {
    let path = wal.join("writer");
    let context = || format!("cannot read {}", path.display());
    if env.fs.exists(&path).map_err(|error| Error::io(context(), error))? {
        let file = env.fs.open(&path, OpenMode::Read).map_err(|error| Error::io(context(), error))?;
        let mut bytes = vec![0; file.len().map_err(|error| Error::io(context(), error))?.min(100) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|error| Error::io(context(), error))?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        let id = text.trim();
        return match id.parse::<weir_base::id::Uuid>() {
            Ok(_) => Ok(id.to_owned()),
            Err(_) => Err(Error::new(Kind::Damaged, format!("{} does not hold a writer id", path.display()))),
        };
    }
    if next_sequence > FIRST_SEQUENCE {
        return Err(Error::new(Kind::Damaged, format!("{} is missing though the log has records", path.display())));
    }
    let id = weir_base::id::uuid_v7(env.clock.as_ref(), env.random.as_ref()).to_string();
    env.fs
        .replace(&path, id.as_bytes())
        .map_err(|error| Error::io(format!("cannot write {}", path.display()), error))?;
    Ok(id)
}

/// The sequence of the first record of a new journal.
const FIRST_SEQUENCE: u64 = 1;

/// Reads the WAL back into the buffer, flushing on the way when the buffer fills.
pub(crate) async fn replay(shared: &Arc<Shared>, wal_dir: &Path) -> Result<Opened> {
    let mut opened = Opened::default();
    let mut committed: HashMap<(String, String), u64> = HashMap::new();
    let env = weir_journal::Env { fs: Arc::clone(&shared.env.fs), clock: Arc::clone(&shared.env.clock) };
    let reader = Reader::open(env, wal_dir).map_err(crate::ingest::from_journal)?;
    let (sender, mut records) = tokio::sync::mpsc::channel(4);
    let decoder = tokio::task::spawn_blocking(move || {
        for record in reader.records_from(0) {
            let decoded = record.map_err(crate::ingest::from_journal).and_then(|record| {
                (record.kind == wal::KIND_ROWS)
                    .then(|| wal::decode(&record.payload))
                    .transpose()
                    .map(|rows| (record.sequence, rows))
            });
            if sender.blocking_send(decoded).is_err() {
                break;
            }
        }
    });
    while let Some(record) = records.recv().await {
        let (sequence, Some((database, tables))) = record? else { continue };
        for rows in tables {
            let state = shared.table_or_new(&database, &rows.table).await?;
            let key = (database.clone(), rows.table.clone());
            let done = match committed.get(&key) {
                Some(done) => *done,
                None => {
                    let done = committed_until(shared, &database, &rows.table).await?;
                    committed.insert(key, done);
                    done
                }
            };
            if sequence <= done {
                opened.records_skipped += 1;
                continue;
            }
            opened.rows_recovered += rows.len() as u64;
            apply(shared, &state, rows, sequence).await?;
        }
    }
    decoder.await.map_err(|error| Error::wrap(Kind::Internal, "reading the log panicked", error))?;
    Ok(opened)
}

/// The last sequence of this WAL whose rows are in files of a table, also of one of its name that was dropped since: those rows
/// went with it.
async fn committed_until(shared: &Arc<Shared>, database: &str, table: &str) -> Result<u64> {
    let mut done = 0;
    for entry in shared.store.tables_with_dropped() {
        if entry.database == database && entry.table == table {
            let snapshot = shared.store.table_in(&entry.folder).await?.snapshot();
            done = done.max(snapshot.transactions.get(&shared.writer).map_or(0, |txn| *txn as u64));
        }
    }
    Ok(done)
}

async fn apply(shared: &Arc<Shared>, state: &Arc<TableState>, rows: Rows, sequence: u64) -> Result<()> {
    let mut memory = shared.memory.reservation();
    if memory.resize(rows.bytes() as u64).is_err() {
        // Flushing while replaying is safe: records come in order, so a table's frozen rows are all of its rows so far.
        crate::flush::flush_all(shared, shared.tables.all()).await?;
        memory.resize(rows.bytes() as u64)?;
    }
    let wider = state.widened(&rows, usize::MAX)?;
    let schema = wider.clone().unwrap_or_else(|| state.schema());
    let chunk = Chunk::new(rows, &schema, &state.dictionary())?;
    memory.resize(chunk.bytes() as u64)?;
    state.apply(chunk, wider, memory, sequence, shared.env.clock.monotonic());
    Ok(())
}
