//! The tables of some databases only: what a query cannot see through this, no way of asking shows it.
//!
//! It stands below the catalog, where every name of a statement arrives (`other.t`, subqueries, SHOW, `information_schema`), so that no
//! form of SQL can be forgotten. It is no permission by itself: `server` says which databases a caller has.

use std::sync::Arc;

use async_trait::async_trait;
use weir_base::Kind;
use weir_engine::Error;
use weir_engine::external;
use weir_engine::past::{At, Past};
use weir_engine::read::{ReadSnapshot, Tables};
use weir_engine::rollup::Definition;

#[derive(Debug)]
struct Scoped {
    tables: Arc<dyn Tables>,
    databases: Arc<[String]>,
}

/// `tables`, without what is not in `databases`; `None` for all.
pub(crate) fn within(tables: Arc<dyn Tables>, databases: Option<Arc<[String]>>) -> Arc<dyn Tables> {
    match databases {
        Some(databases) => Arc::new(Scoped { tables, databases }),
        None => tables,
    }
}

impl Scoped {
    fn holds(&self, database: &str) -> bool {
        self.databases.iter().any(|name| name == database)
    }

    fn check(&self, database: &str) -> Result<(), Error> {
        if self.holds(database) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, format!("this token may not read database '{database}'")))
    }
}

#[async_trait]
impl Tables for Scoped {
    async fn databases(&self) -> Result<Vec<String>, Error> {
        let mut names = self.tables.databases().await?;
        names.retain(|name| self.holds(name));
        Ok(names)
    }

    async fn tables(&self, database: &str) -> Result<Vec<String>, Error> {
        self.check(database)?;
        self.tables.tables(database).await
    }

    async fn snapshot(&self, database: &str, table: &str) -> Result<Option<ReadSnapshot>, Error> {
        self.check(database)?;
        self.tables.snapshot(database, table).await
    }

    async fn snapshot_at(&self, database: &str, table: &str, at: At) -> Result<Past, Error> {
        self.check(database)?;
        self.tables.snapshot_at(database, table, at).await
    }

    async fn rollups(&self, database: &str) -> Result<Vec<Definition>, Error> {
        self.check(database)?;
        self.tables.rollups(database).await
    }

    async fn externals(&self, database: &str) -> Result<Vec<external::Definition>, Error> {
        self.check(database)?;
        self.tables.externals(database).await
    }

    async fn external(&self, database: &str, name: &str) -> Result<Option<external::Definition>, Error> {
        self.check(database)?;
        self.tables.external(database, name).await
    }

    fn objects(&self) -> Arc<dyn object_store::ObjectStore> {
        self.tables.objects()
    }
}
