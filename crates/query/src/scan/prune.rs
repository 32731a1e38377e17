//! Leaves out files and runs in which no row can match, by what is known of their keys without opening them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, StringViewArray, TimestampNanosecondArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{self, BinaryExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use weir_engine::read::{Source, Times};
use weir_engine::schema::TIME;
use weir_engine::store::file::TagRange;

use super::StoredColumns;

/// What a filter says about keys.
#[derive(Debug)]
pub(crate) struct Pruning {
    predicate: Option<PruningPredicate>,
    /// The times outside which no row matches.
    pub(crate) wanted: Times,
}

impl Pruning {
    pub(crate) fn new(filter: Option<&Arc<dyn PhysicalExpr>>, schema: &SchemaRef) -> Self {
        let Some(filter) = filter else { return Self { predicate: None, wanted: i64::MIN..=i64::MAX } };
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
        Self { predicate: builder.try_build(Arc::clone(filter)).ok(), wanted: time_range(filter) }
    }

    /// The sources that may hold matching rows, in their order.
    pub(crate) fn sources(&self, sources: Vec<Source>) -> Result<Vec<Source>> {
        let Some(predicate) = &self.predicate else { return Ok(sources) };
        let keep = predicate.prune(&KeyRanges(&sources))?;
        Ok(sources.into_iter().zip(keep).filter_map(|(source, keep)| keep.then_some(source)).collect())
    }

    /// Which row groups of a file may hold matching rows.
    pub(crate) fn row_groups(&self, footer: &ParquetMetaData, stored: &StoredColumns) -> Result<Vec<bool>> {
        match &self.predicate {
            Some(predicate) => predicate.prune(&RowGroups { footer, stored }),
            None => Ok(vec![true; footer.num_row_groups()]),
        }
    }
}

/// What the filter says about time by itself: the range outside which no row matches.
pub(crate) fn time_range(filter: &Arc<dyn PhysicalExpr>) -> Times {
    let (mut start, mut end) = (i64::MIN, i64::MAX);
    for part in split_conjunction(filter) {
        let Some((operator, time)) = time_comparison(part) else { continue };
        match operator {
            Operator::Eq => (start, end) = (start.max(time), end.min(time)),
            Operator::Gt => start = start.max(time.saturating_add(1)),
            Operator::GtEq => start = start.max(time),
            Operator::Lt => end = end.min(time.saturating_sub(1)),
            Operator::LtEq => end = end.min(time),
            _ => {}
        }
    }
    start..=end
}

/// A comparison of `time` with a constant, as if `time` stood on the left.
pub(crate) fn time_comparison(expr: &Arc<dyn PhysicalExpr>) -> Option<(Operator, i64)> {
    let (column, operator, value) = comparison(expr)?;
    match value {
        ScalarValue::TimestampNanosecond(Some(time), None) if column.name() == TIME => Some((operator, *time)),
        _ => None,
    }
}

/// A comparison of a column with a constant, as if the column stood on the left.
pub(crate) fn comparison(expr: &Arc<dyn PhysicalExpr>) -> Option<(&expressions::Column, Operator, &ScalarValue)> {
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    if let (Some(column), Some(literal)) = (left.downcast_ref::<expressions::Column>(), right.downcast_ref::<Literal>())
    {
        return Some((column, *binary.op(), literal.value()));
    }
    let (literal, column) = (left.downcast_ref::<Literal>()?, right.downcast_ref::<expressions::Column>()?);
    Some((column, binary.op().swap()?, literal.value()))
}

/// Bounds of time and tags of each source. Runs of the buffer know their times only.
struct KeyRanges<'a>(&'a [Source]);

impl KeyRanges<'_> {
    fn times(&self, pick: impl Fn(&Times) -> i64) -> Option<ArrayRef> {
        let times = self.0.iter().map(|source| Some(pick(&source.times())));
        Some(Arc::new(times.collect::<TimestampNanosecondArray>()))
    }

    fn tag<'a, T: 'a>(
        &'a self,
        name: &'a str,
        pick: impl Fn(&'a TagRange) -> Option<T> + 'a,
    ) -> Option<Vec<Option<T>>> {
        let range = |source: &'a Source| match source {
            Source::File(file) => file.tags.iter().find(|tag| tag.name == name).and_then(&pick),
            Source::Run(_) => None,
        };
        let found: Vec<Option<T>> = self.0.iter().map(range).collect();
        found.iter().any(Option::is_some).then_some(found)
    }
}

/// Bounds of time and tags of each row group of a file.
struct RowGroups<'a> {
    footer: &'a ParquetMetaData,
    stored: &'a StoredColumns,
}

impl RowGroups<'_> {
    /// The statistics of a column, one for each row group.
    fn of<'a, T>(&'a self, name: &str, pick: impl Fn(&'a Statistics) -> Option<T>) -> Option<Vec<Option<T>>> {
        let columns = self.footer.file_metadata().schema_descr().root_schema().get_fields();
        let place = columns.iter().position(|field| self.stored.is_stored_as(name, field.name()))?;
        let groups = self.footer.row_groups().iter();
        // Columns of Weir's tables are flat: a root field is a leaf.
        Some(groups.map(|group| group.columns().get(place)?.statistics().and_then(&pick)).collect())
    }

    fn bound(&self, name: &str, largest: bool) -> Option<ArrayRef> {
        if name == TIME {
            let micros = self.of(name, |found| match found {
                Statistics::Int64(found) => if largest { found.max_opt() } else { found.min_opt() }.copied(),
                _ => None,
            })?;
            // What is below a microsecond is elsewhere.
            let widen = |micros: i64| micros.saturating_mul(1000).saturating_add(if largest { 999 } else { 0 });
            let nanos = micros.into_iter().map(|micros| micros.map(widen));
            return Some(Arc::new(nanos.collect::<TimestampNanosecondArray>()));
        }
        if !self.stored.is_tag(name) {
            return None;
        }
        let texts = self.of(name, |found| match found {
            Statistics::ByteArray(found) => {
                std::str::from_utf8(if largest { found.max_opt() } else { found.min_opt() }?.data()).ok()
            }
            _ => None,
        })?;
        Some(Arc::new(texts.into_iter().collect::<StringViewArray>()))
    }
}

impl PruningStatistics for RowGroups<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(&column.name, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(&column.name, true)
    }

    fn num_containers(&self) -> usize {
        self.footer.num_row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let found = self.of(&column.name, Statistics::null_count_opt)?;
        Some(Arc::new(found.into_iter().collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.footer.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

impl PruningStatistics for KeyRanges<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        if column.name == TIME {
            return self.times(|times| *times.start());
        }
        let found = self.tag(&column.name, |tag| tag.min.as_deref())?;
        Some(Arc::new(found.into_iter().collect::<StringViewArray>()))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        if column.name == TIME {
            return self.times(|times| *times.end());
        }
        let found = self.tag(&column.name, |tag| tag.max.as_deref())?;
        Some(Arc::new(found.into_iter().collect::<StringViewArray>()))
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let found = self.tag(&column.name, |tag| tag.nulls)?;
        Some(Arc::new(found.into_iter().collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = |source: &Source| match source {
            Source::File(file) => Some(file.rows),
            Source::Run(_) => None,
        };
        Some(Arc::new(self.0.iter().map(rows).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
