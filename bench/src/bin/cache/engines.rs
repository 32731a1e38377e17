//! The cache and its rivals behind one face, each as its makers say it is fast and safe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use redb::{ReadableDatabase, TableDefinition};
use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, LIMIT_DEFAULT, PutOptions};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cache");

/// Looks at a value.
pub(crate) type Seen<'a> = &'a mut dyn FnMut(&[u8]);

/// What a worker does with each.
pub(crate) trait Engine {
    /// Stores a value.
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()>;
    /// Shows the value of a key, without a copy where the engine gives one; whether there is one.
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool>;
}

struct Weir(Cache);
impl Engine for Weir {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.0.put(key, value, &PutOptions::default())?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        Ok(self.0.get(key).map(|value| seen(&value)).is_some())
    }
}

struct Sqlite(rusqlite::Connection);
impl Engine for Sqlite {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.0.prepare_cached("INSERT OR REPLACE INTO cache VALUES (?1, ?2)")?.execute((key, value))?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        let mut statement = self.0.prepare_cached("SELECT value FROM cache WHERE key = ?1")?;
        let mut rows = statement.query([key])?;
        let Some(row) = rows.next()? else { return Ok(false) };
        seen(row.get_ref(0)?.as_blob()?);
        Ok(true)
    }
}

/// A file per key, replaced by rename.
struct Files(PathBuf, u64);
impl Engine for Files {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let staged = self.0.join(format!("{key}.{}", self.1));
        std::fs::write(&staged, value)?;
        std::fs::rename(staged, self.0.join(key))?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        match std::fs::read(self.0.join(key)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => {
                seen(&other?);
                Ok(true)
            }
        }
    }
}

struct Cacache(PathBuf);
impl Engine for Cacache {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        cacache::write_sync(&self.0, key, value)?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        match cacache::read_sync(&self.0, key) {
            Err(cacache::Error::EntryNotFound(..)) => Ok(false),
            other => {
                seen(&other?);
                Ok(true)
            }
        }
    }
}

/// One process only: the file is locked. Commits without a sync, as the others.
struct Redb(redb::Database);
impl Engine for Redb {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let mut write = self.0.begin_write()?;
        write.set_durability(redb::Durability::None)?;
        write.open_table(TABLE)?.insert(key.as_bytes(), value)?;
        write.commit()?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key.as_bytes())?.map(|value| seen(value.value())).is_some())
    }
}

struct Redis(redis::Connection);
impl Engine for Redis {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        redis::cmd("SET").arg(key).arg(value).query::<()>(&mut self.0)?;
        Ok(())
    }
    fn get(&mut self, key: &str, seen: Seen<'_>) -> anyhow::Result<bool> {
        let found: Option<Vec<u8>> = redis::cmd("GET").arg(key).query(&mut self.0)?;
        Ok(found.map(|value| seen(&value)).is_some())
    }
}

/// Opens an engine by its name; `seed` tells processes apart, `limit` is in bytes, 0 for none.
pub(crate) fn open(name: &str, dir: &Path, seed: u64, limit: u64) -> anyhow::Result<Box<dyn Engine>> {
    Ok(match name {
        "weir" => {
            let limit = Some(if limit == 0 { LIMIT_DEFAULT } else { ByteSize::new(limit) });
            let options =
                CacheOptions { limit, lock_deadline: Duration::from_secs(30), ..CacheOptions::new(dir, "bench") };
            Box::new(Weir(Cache::open(options)?))
        }
        "sqlite" => {
            let sql = rusqlite::Connection::open(dir.join("cache.db"))?;
            sql.busy_timeout(Duration::from_secs(60))?;
            sql.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, value BLOB)",
            )?;
            Box::new(Sqlite(sql))
        }
        "files" => Box::new(Files(dir.to_owned(), seed)),
        "cacache" => Box::new(Cacache(dir.to_owned())),
        "redb" => {
            let database = redb::Database::create(dir.join("cache.redb"))?;
            let write = database.begin_write()?;
            write.open_table(TABLE)?;
            write.commit()?;
            Box::new(Redb(database))
        }
        "redis" => {
            let url = format!("unix://{}", dir.join("redis.sock").display());
            Box::new(Redis(redis::Client::open(url)?.get_connection()?))
        }
        other => bail!("unknown engine {other}"),
    })
}
