//! External tables: files of others that queries read where they lie. Here is only what is kept of one, its [`Definition`];
//! what it means is `query`'s to say.
//!
//! A definition is the metadata of a table of the store that never has rows (`docs/formats/store.md`): the catalog makes, drops and brings
//! back external tables as it does all others.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_base::Kind;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::names::NAME_BYTES_MAX;
use crate::schema::TableSchema;
use crate::store::{Change, Table};

/// How the names begin under which the catalog has external tables; nobody else's may.
pub const PREFIX: &str = "weir_external-";
/// The form of a definition.
const VERSION: u32 = 1;

/// What is kept of an external table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    version: u32,
    /// Its name.
    pub name: String,
    /// The statement that made it.
    pub sql: String,
}

impl Definition {
    /// A definition in the form of this version.
    pub fn new(name: String, sql: String) -> Self {
        Self { version: VERSION, name, sql }
    }

    fn parse(text: &str) -> Result<Self> {
        let damaged = |error| Error::wrap(Kind::Damaged, "the definition of an external table cannot be read", error);
        let definition: Self = serde_json::from_str(text).map_err(damaged)?;
        if definition.version != VERSION {
            let found = definition.version;
            let what = format!("an external table has a definition of version {found}, this is {VERSION}");
            return Err(Error::invalid(what));
        }
        Ok(definition)
    }
}

/// The name under which the catalog has an external table.
pub fn table_name(external: &str) -> String {
    format!("{PREFIX}{external}")
}

/// The name that people know: of an external table its own.
pub fn shown_name(table: &str) -> &str {
    table.strip_prefix(PREFIX).unwrap_or(table)
}

fn definition_of(table: &Table) -> Result<Option<Definition>> {
    // One whose first commit has not happened is none yet.
    table.snapshot().external.as_deref().map(Definition::parse).transpose()
}

impl Engine {
    /// The external tables of a database, by name.
    ///
    /// # Errors
    /// Those of the store; `damaged` for a definition that cannot be read.
    pub async fn externals(&self, database: &str) -> Result<Vec<Definition>> {
        let store = &self.shared.store;
        self.refresh_catalog().await?;
        let mut found = Vec::new();
        for name in store.tables_beginning(database, PREFIX) {
            if let Some(table) = store.table(database, &name).await? {
                found.extend(self.newest(&table).await?);
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// The external table of a name; `None` when there is none. A table of Weir's own with that name goes first.
    ///
    /// # Errors
    /// As [`Engine::externals`].
    pub async fn external(&self, database: &str, name: &str) -> Result<Option<Definition>> {
        self.refresh_catalog().await?;
        match self.shared.store.table(database, &table_name(name)).await? {
            Some(table) => self.newest(&table).await,
            None => Ok(None),
        }
    }

    async fn newest(&self, table: &Arc<Table>) -> Result<Option<Definition>> {
        if self.shared.store.is_shared() {
            table.refresh().await?;
        }
        definition_of(table)
    }

    /// Keeps a definition; with `replace` in the place of one of that name.
    ///
    /// # Errors
    /// `conflict` when there is a table of that name, external or not; those of the store.
    pub async fn create_external(&self, database: &str, definition: &Definition, replace: bool) -> Result<()> {
        crate::names::check_database(database)?;
        let name = &definition.name;
        if name.is_empty() || name.len() + PREFIX.len() > NAME_BYTES_MAX || crate::names::is_own(name) {
            return Err(Error::invalid(format!("'{name}' cannot be the name of an external table")));
        }
        let text = serde_json::to_string(definition)
            .map_err(|error| Error::wrap(Kind::Internal, "a definition cannot be written", error))?;
        // No write may make a table of that name meanwhile.
        let _gate = self.shared.hold_writes().await?;
        let exists = || Error::new(Kind::Conflict, format!("there is a table '{name}' already"));
        if self.shared.find(database, name).await?.is_some() {
            return Err(exists());
        }
        let table = self.shared.store.create_table(database, &table_name(name)).await?;
        if table.refresh().await?.version >= 0 && !replace {
            return Err(exists());
        }
        let external = Some((text, replace));
        let done = table.commit(Change { external, ..Change::columns(Arc::new(TableSchema::default())) }).await;
        match done {
            Err(error) if error.kind() == Kind::Conflict => Err(exists()),
            done => done.map(drop),
        }
    }
}
