//! The files and columns of a Delta table that another program wrote, by Weir's own reader of Delta's log.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore};
use weir_engine::store::foreign::{self, ForeignFile};

use super::table::Found;
use crate::error::{Error, Result, from_engine};

/// Reads what the log in a folder says now.
pub(super) async fn find(objects: Arc<dyn ObjectStore>, folder: &ObjectPath, files_max: usize) -> Result<Found> {
    let table = foreign::read(&objects, folder.as_ref()).await.map_err(from_engine)?;
    if table.files.len() > files_max {
        let what = format!(
            "the Delta table has {} files, more than {files_max} (setting query_external_files_max)",
            table.files.len()
        );
        return Err(Error::new(weir_base::Kind::Limit, what));
    }
    let is_partition = |field: &Field| table.partitioned_by.contains(field.name());
    let partition: Vec<Field> = table.columns.iter().filter(|field| is_partition(field)).cloned().collect();
    let stored: Vec<Field> = table.columns.iter().filter(|field| !is_partition(field)).cloned().collect();
    let files = table.files.iter().map(|file| opened(file, &partition)).collect::<Result<Vec<_>>>()?;
    let shown = table.columns.iter().map(|field| field.name().clone()).collect();
    Ok(Found { stored: Some(stored), partition, files, shown: Some(shown) })
}

fn opened(file: &ForeignFile, partition: &[Field]) -> Result<PartitionedFile> {
    let meta = ObjectMeta {
        location: ObjectPath::parse(&file.path).map_err(|error| Error::invalid(error.to_string()))?,
        last_modified: (UNIX_EPOCH + Duration::from_millis(file.modified_ms.unsigned_abs())).into(),
        size: file.size,
        e_tag: None,
        version: None,
    };
    let values = partition.iter().map(|field| value(field, file)).collect::<Result<Vec<_>>>()?;
    Ok(PartitionedFile::from(meta).with_partition_values(values))
}

/// The value of a column for all rows of a file. Empty text is how Delta writes NULL.
fn value(field: &Field, file: &ForeignFile) -> Result<ScalarValue> {
    let text = file.partition.get(field.name()).cloned().flatten().filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(ScalarValue::try_from(field.data_type())?) };
    match field.data_type() {
        DataType::Utf8View => Ok(ScalarValue::Utf8View(Some(text))),
        kind => Ok(ScalarValue::Utf8(Some(text)).cast_to(kind)?),
    }
}
