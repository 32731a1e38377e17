//! Opening the index: connection settings, tables, versions. See `docs/formats/cache.md`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use weir_base::Kind;

use crate::error::{Error, IndexContext, Result};

/// Bytes of one page of the index.
pub(crate) const PAGE_BYTES: u64 = 4096;
const APPLICATION_ID: i64 = 0x5745_4952;
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE state (one INTEGER PRIMARY KEY, lim INTEGER NOT NULL, entry_limit INTEGER NOT NULL,
  blob_bytes INTEGER NOT NULL, reserved INTEGER NOT NULL, entries INTEGER NOT NULL, live_bytes INTEGER NOT NULL,
  small_bytes INTEGER NOT NULL, index_pages INTEGER NOT NULL, doomed INTEGER NOT NULL, policy INTEGER NOT NULL,
  next_id INTEGER NOT NULL, small_hand INTEGER NOT NULL, main_hand INTEGER NOT NULL, floor REAL NOT NULL,
  epoch INTEGER NOT NULL, evicted INTEGER NOT NULL) STRICT;
CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, version INTEGER NOT NULL, flags INTEGER NOT NULL,
  codec INTEGER NOT NULL, freq INTEGER NOT NULL, size INTEGER NOT NULL, raw INTEGER NOT NULL, written INTEGER NOT NULL,
  expires INTEGER, dead INTEGER, cost INTEGER NOT NULL, rank REAL, blob BLOB, value BLOB) STRICT;
CREATE INDEX entries_dead ON entries(dead) WHERE dead IS NOT NULL;
CREATE INDEX entries_rank ON entries(rank) WHERE rank IS NOT NULL;
CREATE TABLE blobs (hash BLOB PRIMARY KEY, bytes INTEGER NOT NULL, refs INTEGER NOT NULL, owner INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE doomed (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE tags (tag TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (tag, id)) STRICT, WITHOUT ROWID;
CREATE INDEX tags_id ON tags(id);
CREATE TABLE writers (id INTEGER PRIMARY KEY, reserved INTEGER NOT NULL) STRICT;
CREATE TABLE ghosts (slot INTEGER PRIMARY KEY, mark INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (1, ?LIMIT?, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0.0, 1, 0);
";

/// Opens a connection to the index at `path`, which must exist (an empty file is an empty index).
pub(crate) fn connect(path: &Path, read_only: bool) -> Result<Connection> {
    let access = if read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let sql = Connection::open_with_flags(path, flags).doing("cannot open the index")?;
    configure(&sql, read_only)?;
    if read_only && application_id(&sql).is_err() {
        return connect_immutable(path);
    }
    Ok(sql)
}

/// For a member who may only read while nobody has the index open: SQLite cannot make its shared memory then, and there is
/// no log to see. Refused when there is one.
fn connect_immutable(path: &Path) -> Result<Connection> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        return Err(Error::new(Kind::Unavailable, "the index has a log that cannot be read without write permission"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let text = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let sql = Connection::open_with_flags(format!("file:{text}?immutable=1"), flags).doing("cannot open the index")?;
    configure(&sql, true)?;
    Ok(sql)
}

fn configure(sql: &Connection, read_only: bool) -> Result<()> {
    let settings = || -> rusqlite::Result<()> {
        sql.busy_timeout(Duration::from_millis(100))?;
        // The log stays for the next process, which reads at most its budget; a checkpoint at every close would sync.
        sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        sql.set_prepared_statement_cache_capacity(64);
        if !read_only {
            sql.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0")?;
        }
        sql.execute_batch("PRAGMA cache_size = -4096; PRAGMA cache_spill = OFF; PRAGMA temp_store = MEMORY")
    };
    settings().doing("cannot configure the index")
}

fn pragma(sql: &Connection, name: &str) -> Result<i64> {
    sql.pragma_query_value(None, name, |row| row.get(0)).doing("cannot read the index")
}

fn application_id(sql: &Connection) -> Result<i64> {
    pragma(sql, "application_id")
}

/// Checks that the index is ours and of a version that this build knows; `false` when it is empty.
pub(crate) fn check(sql: &Connection) -> Result<bool> {
    match (application_id(sql)?, pragma(sql, "user_version")?) {
        (APPLICATION_ID, VERSION) => Ok(true),
        (0, 0) if pragma(sql, "page_count")? <= 1 => Ok(false),
        (APPLICATION_ID, version) if version > VERSION => Err(Error::new(
            Kind::Unavailable,
            format!(
                "the index has format {version}, this build reads up to {VERSION}; update weir or use another folder"
            ),
        )),
        (found, version) => {
            Err(Error::new(Kind::Damaged, format!("not an index of weir (application {found:#x}, format {version})")))
        }
    }
}

/// Makes the tables of an empty index; the caller holds the namespace's lock.
pub(crate) fn create(sql: &Connection, limit: u64) -> Result<()> {
    let make = || -> rusqlite::Result<()> {
        sql.execute_batch("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")?;
        let tables = TABLES.replace("?LIMIT?", &limit.to_string());
        sql.execute_batch(&format!(
            "BEGIN IMMEDIATE; {tables} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; \
             UPDATE state SET index_pages = (SELECT page_count FROM pragma_page_count); COMMIT"
        ))
    };
    make().doing("cannot make the index")
}
