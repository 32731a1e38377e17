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
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use weir_engine::read::{Source, Times};
use weir_engine::schema::TIME;
use weir_engine::store::file::TagRange;

/// The sources that may hold matching rows, in their order, and the times outside which no row matches.
pub(crate) fn prune(
    sources: Vec<Source>,
    filter: Option<&Arc<dyn PhysicalExpr>>,
    schema: &SchemaRef,
) -> Result<(Vec<Source>, Times)> {
    let Some(filter) = filter else { return Ok((sources, i64::MIN..=i64::MAX)) };
    let wanted = time_range(filter);
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
    let Ok(predicate) = builder.try_build(Arc::clone(filter)) else { return Ok((sources, wanted)) };
    let keep = predicate.prune(&KeyRanges(&sources))?;
    Ok((sources.into_iter().zip(keep).filter_map(|(source, keep)| keep.then_some(source)).collect(), wanted))
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
        Some(Arc::new(self.0.iter().map(|source| Some(source.rows())).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
