//! A table of files as DataFusion sees it: which files, which columns, and plain DataFusion below.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result as DataFusionResult, ScalarValue};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::sql::parser::Statement as Parsed;
use object_store::{ObjectMeta, ObjectStore};
use weir_base::Kind;

use super::local::{LOCAL_URL, LocalFiles, Place, object_path};
use super::words::{ExternalStatement, Format};
use super::{Externals, delta};
use crate::error::{Error, Result};

/// Files at one moment, and how they are read.
#[derive(Debug)]
pub(crate) struct FilesTable {
    schema: SchemaRef,
    /// Where each column of `schema` is among those of the files followed by those of the folders.
    places: Vec<usize>,
    table_schema: TableSchema,
    files: Vec<PartitionedFile>,
    format: Arc<dyn FileFormat>,
    url: ObjectStoreUrl,
}

/// What a location holds.
pub(super) struct Found {
    /// Columns in the files, where that is known without opening them.
    pub(super) stored: Option<Vec<Field>>,
    /// Columns whose values belong to whole files.
    pub(super) partition: Vec<Field>,
    pub(super) files: Vec<PartitionedFile>,
    /// The order of columns; those of files first where it is not said.
    pub(super) shown: Option<Vec<String>>,
}

/// Finds the files and columns that a statement is about.
pub(super) async fn open(externals: &Externals, statement: &ExternalStatement) -> Result<FilesTable> {
    let Externals { state, files } = externals;
    let path = LocalFiles::path_of(&statement.location)?;
    let objects: Arc<dyn ObjectStore> = Arc::clone(files) as _;
    let declared = Parsed::CreateExternalTable(statement.parsed.clone());
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(declared)) = state.statement_to_plan(declared).await? else {
        return Err(Error::new(Kind::Internal, "a CREATE EXTERNAL TABLE became something else"));
    };
    let missing = || Error::new(Kind::Internal, format!("there is no format {}", statement.format.word()));
    let factory = state.get_file_format_factory(statement.format.word()).ok_or_else(missing)?;
    let format = factory.create(state.as_ref(), &declared.options)?;
    let found = match (statement.format, files.find(path.clone()).await?) {
        (Format::Delta, Place::Folder(folder)) => {
            let folder = object_path(&folder).map_err(|error| Error::invalid(error.to_string()))?;
            delta::find(Arc::clone(&objects), &folder, files.files_max()).await?
        }
        (Format::Delta, Place::File(_)) => return Err(Error::invalid("a Delta table is a folder")),
        (_, Place::File(meta)) => Found { stored: None, partition: Vec::new(), files: vec![meta.into()], shown: None },
        (format, Place::Folder(folder)) => {
            let metas = files.walk(folder.clone(), format.extensions()).await?;
            partitioned(&folder, metas, declared.schema.as_arrow())?
        }
    };
    let stored = match found.stored {
        Some(stored) => stored,
        None => {
            stored_columns(state.as_ref(), &objects, &format, declared.schema.as_arrow(), &found, statement).await?
        }
    };
    finish(stored, found.partition, found.files, found.shown, format)
}

/// The columns in the files: those that the statement declares, or what the files say.
async fn stored_columns(
    state: &dyn Session,
    objects: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    declared: &Schema,
    found: &Found,
    statement: &ExternalStatement,
) -> Result<Vec<Field>> {
    let in_files = |field: &&Arc<Field>| !found.partition.iter().any(|part| part.name() == field.name());
    let fields =
        |schema: &Schema| schema.fields().iter().filter(in_files).map(|field| field.as_ref().clone()).collect();
    if !declared.fields().is_empty() {
        return Ok(fields(declared));
    }
    if found.files.is_empty() {
        let ends = statement.format.extensions().join(" or .");
        return Err(Error::new(Kind::NotFound, format!("no file in '{}' ends in .{ends}", statement.location)));
    }
    let metas: Vec<ObjectMeta> = found.files.iter().map(|file| file.object_meta.clone()).collect();
    let inferred = format.infer_schema(state, objects, &metas).await?;
    if inferred.fields().is_empty() {
        return Err(Error::invalid(format!("nothing in '{}' says which columns there are", statement.location)));
    }
    Ok(fields(&inferred))
}

fn finish(
    stored: Vec<Field>,
    partition: Vec<Field>,
    files: Vec<PartitionedFile>,
    shown: Option<Vec<String>>,
    format: Arc<dyn FileFormat>,
) -> Result<FilesTable> {
    let all: Vec<Field> = stored.iter().chain(&partition).cloned().collect();
    let place = |name: &String| all.iter().position(|field| field.name() == name);
    let places: Vec<usize> = match shown {
        Some(shown) => shown.iter().filter_map(place).collect(),
        None => (0..all.len()).collect(),
    };
    let schema = Arc::new(Schema::new(places.iter().map(|&place| all[place].clone()).collect::<Vec<_>>()));
    let partition: Vec<Arc<Field>> = partition.into_iter().map(Arc::new).collect();
    let table_schema = TableSchema::builder(Arc::new(Schema::new(stored))).with_table_partition_cols(partition).build();
    let url = ObjectStoreUrl::parse(LOCAL_URL)?;
    Ok(FilesTable { schema, places, table_schema, files, format, url })
}

/// Files in folders named `key=value`: the keys are columns, of the type that the statement declares or else text.
fn partitioned(folder: &Path, metas: Vec<ObjectMeta>, declared: &Schema) -> Result<Found> {
    let root = object_path(folder).map_err(|error| Error::invalid(error.to_string()))?;
    let pairs = |meta: &ObjectMeta| -> Vec<(String, String)> {
        let rest = meta.location.prefix_match(&root).into_iter().flatten();
        let mut parts: Vec<String> = rest.map(|part| part.as_ref().to_owned()).collect();
        parts.pop();
        let pair = |part: &String| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        parts.iter().filter_map(pair).collect()
    };
    let keys: Vec<String> = metas.first().map(pairs).unwrap_or_default().into_iter().map(|pair| pair.0).collect();
    let kind =
        |key: &String| declared.field_with_name(key).map_or(DataType::Utf8View, |field| field.data_type().clone());
    let partition: Vec<Field> = keys.iter().map(|key| Field::new(key, kind(key), true)).collect();
    let mut files = Vec::with_capacity(metas.len());
    for meta in metas {
        let values: BTreeMap<String, String> = pairs(&meta).into_iter().collect();
        if values.len() != keys.len() || !keys.iter().all(|key| values.contains_key(key)) {
            let what = format!("'/{}' is not in folders of {} as others are", meta.location, keys.join(", "));
            return Err(Error::invalid(what));
        }
        let scalar = |field: &Field| match values[field.name()].as_str() {
            "__HIVE_DEFAULT_PARTITION__" => ScalarValue::try_from(field.data_type()),
            text => ScalarValue::Utf8(Some(text.to_owned())).cast_to(field.data_type()),
        };
        let values = partition.iter().map(scalar).collect::<DataFusionResult<Vec<_>>>()?;
        files.push(PartitionedFile::from(meta).with_partition_values(values));
    }
    Ok(Found { stored: None, partition, files, shown: None })
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[datafusion::logical_expr::Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let asked: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.places.len()).collect());
        if self.files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&asked)?))));
        }
        let groups = FileGroup::new(self.files.clone()).split_files(state.config().target_partitions());
        let columns = asked.iter().map(|&index| self.places[index]).collect();
        let source = self.format.file_source(self.table_schema.clone());
        let config = FileScanConfigBuilder::new(self.url.clone(), source)
            .with_file_groups(groups)
            .with_projection_indices(Some(columns))?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(state, config).await
    }
}
