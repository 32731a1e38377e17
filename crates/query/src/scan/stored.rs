//! From what a file holds to the logical layout: true names, `time` in nanoseconds, unsigned integers, columns that the
//! file lacks.
//!
//! The scan hands every file its expressions in the logical layout; this adapter rewrites them for the file at hand.
//! Comparisons of `time` and of unsigned fields with constants are rewritten to comparisons of the stored columns, so
//! that row groups and pages can be left out by their statistics.

use std::collections::{HashMap, HashSet};
use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, PrimitiveArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, lit};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use weir_engine::schema::{Role, TIME, TIME_NS, TableSchema};

use super::prune::comparison;

const NANOS: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

/// How the columns of one table are called in its files.
#[derive(Debug)]
pub(crate) struct StoredColumns {
    /// By true name.
    stored: HashMap<Arc<str>, Stored>,
}

#[derive(Debug)]
struct Stored {
    name: String,
    tag: bool,
}

impl StoredColumns {
    pub(crate) fn new(schema: &TableSchema) -> Self {
        let stored = schema.columns().iter().map(|column| {
            (Arc::from(column.name.as_str()), Stored { name: column.stored.clone(), tag: column.role == Role::Tag })
        });
        let time = (Arc::from(TIME), Stored { name: TIME.to_owned(), tag: false });
        Self { stored: stored.chain([time]).collect() }
    }

    /// Where a column is among those of a file.
    pub(crate) fn find(&self, name: &str, held: &Schema) -> Option<usize> {
        self.stored.get(name).and_then(|stored| held.index_of(&stored.name).ok())
    }

    /// Whether files call the column so.
    pub(crate) fn is_stored_as(&self, name: &str, stored: &str) -> bool {
        self.stored.get(name).is_some_and(|column| column.name == stored)
    }

    /// Whether the column is a tag.
    pub(crate) fn is_tag(&self, name: &str) -> bool {
        self.stored.get(name).is_some_and(|stored| stored.tag)
    }

    /// Columns of a file that are tags.
    pub(crate) fn tags_in(&self, held: &Schema) -> HashSet<usize> {
        self.stored.values().filter(|stored| stored.tag).filter_map(|stored| held.index_of(&stored.name).ok()).collect()
    }

    /// The name of a column of the table, without a copy of its text.
    pub(crate) fn shared_name(&self, name: &str) -> Arc<str> {
        self.stored.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name))
    }
}

impl PhysicalExprAdapterFactory for StoredColumns {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let columns = logical
            .fields()
            .iter()
            .map(|field| (field.name().clone(), (self.find(field.name(), &physical), field.data_type().clone())));
        Ok(Arc::new(Adapter { columns: columns.collect(), physical }))
    }
}

/// For one file.
#[derive(Debug)]
struct Adapter {
    /// By true name: where the column is in the file, and its logical type.
    columns: HashMap<String, (Option<usize>, DataType)>,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform_down(|expr| {
            if let Some(rewritten) = self.comparison(&expr)? {
                return Ok(Transformed::new(rewritten, true, TreeNodeRecursion::Jump));
            }
            match expr.downcast_ref::<Column>() {
                Some(column) => Ok(Transformed::new(self.column(column.name())?, true, TreeNodeRecursion::Jump)),
                None => Ok(Transformed::no(expr)),
            }
        })
        .data()
    }
}

impl Adapter {
    /// The stored column of that name, and its place.
    fn stored(&self, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.physical.field(index).name(), index))
    }

    /// A logical column, computed from the file.
    fn column(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>> {
        let Some((place, kind)) = self.columns.get(name) else {
            return datafusion::common::internal_err!("a scan asks for column '{name}', which its table lacks");
        };
        let Some(index) = *place else { return Ok(lit(ScalarValue::try_from(kind)?)) };
        let stored = self.stored(index);
        if self.physical.field(index).data_type() == kind {
            return Ok(stored);
        }
        let whole: Arc<dyn PhysicalExpr> = Arc::new(CastExpr::new(stored, kind.clone(), None));
        match self.physical.index_of(TIME_NS) {
            Ok(below) if name == TIME => {
                Ok(Arc::new(JoinedTime { stored: self.stored(index), below: self.stored(below) }))
            }
            _ => Ok(whole),
        }
    }

    /// A comparison with a constant that the file's statistics can answer.
    fn comparison(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some((column, operator, value)) = comparison(expr) else { return Ok(None) };
        let Some((Some(index), _)) = self.columns.get(column.name()) else { return Ok(None) };
        match (value, self.physical.field(*index).data_type()) {
            (ScalarValue::TimestampNanosecond(Some(nanos), None), DataType::Timestamp(TimeUnit::Microsecond, zone))
                if column.name() == TIME =>
            {
                let micros = |value| lit(ScalarValue::TimestampMicrosecond(Some(value), zone.clone()));
                self.time_comparison(*index, operator, *nanos, &micros)
            }
            (ScalarValue::UInt64(Some(value)), DataType::Decimal128(precision, 0)) => {
                let value = lit(ScalarValue::Decimal128(Some(i128::from(*value)), *precision, 0));
                Ok(Some(Arc::new(BinaryExpr::new(self.stored(*index), operator, value))))
            }
            _ => Ok(None),
        }
    }

    fn time_comparison(
        &self,
        index: usize,
        operator: Operator,
        nanos: i64,
        micros: &dyn Fn(i64) -> Arc<dyn PhysicalExpr>,
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let (floor, rest) = (nanos.div_euclid(1000), nanos.rem_euclid(1000));
        let compare = |operator, value| Some(binary(self.stored(index), operator, micros(value)));
        if self.physical.index_of(TIME_NS).is_ok() {
            let exact = binary(self.column(TIME)?, operator, lit(ScalarValue::TimestampNanosecond(Some(nanos), None)));
            let coarse = match operator {
                Operator::Eq => compare(Operator::Eq, floor),
                Operator::Lt | Operator::LtEq => compare(Operator::LtEq, floor),
                Operator::Gt | Operator::GtEq => compare(Operator::GtEq, floor),
                _ => None,
            };
            return Ok(coarse.map(|coarse| binary(coarse, Operator::And, exact)));
        }
        Ok(match operator {
            Operator::Eq if rest != 0 => Some(lit(false)),
            Operator::NotEq if rest != 0 => Some(lit(true)),
            Operator::Eq | Operator::NotEq | Operator::LtEq | Operator::Gt => compare(operator, floor),
            Operator::Lt | Operator::GtEq => compare(operator, floor + i64::from(rest != 0)),
            _ => None,
        })
    }
}

fn binary(left: Arc<dyn PhysicalExpr>, operator: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}

/// `time` in nanoseconds from stored microseconds and the nanoseconds below them (none where NULL).
#[derive(Debug, Eq)]
struct JoinedTime {
    stored: Arc<dyn PhysicalExpr>,
    below: Arc<dyn PhysicalExpr>,
}

impl PartialEq for JoinedTime {
    fn eq(&self, other: &Self) -> bool {
        self.stored.eq(&other.stored) && self.below.eq(&other.below)
    }
}

impl Hash for JoinedTime {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.stored.hash(state);
        self.below.hash(state);
    }
}

impl Display for JoinedTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "weir_time({}, {})", self.stored, self.below)
    }
}

impl PhysicalExpr for JoinedTime {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(NANOS)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.stored.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let stored = self.stored.evaluate(batch)?.into_array(batch.num_rows())?;
        let stored = cast(&stored, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let below = cast(&self.below.evaluate(batch)?.into_array(batch.num_rows())?, &DataType::Int64)?;
        let (stored, below) = (stored.as_primitive::<TimestampMicrosecondType>(), below.as_primitive::<Int64Type>());
        let nanos = stored.values().iter().enumerate().map(|(row, micros)| {
            let rest = if below.is_null(row) { 0 } else { below.value(row) };
            micros.wrapping_mul(1000).wrapping_add(rest)
        });
        let nanos = PrimitiveArray::<TimestampNanosecondType>::new(nanos.collect(), stored.nulls().cloned());
        Ok(ColumnarValue::Array(Arc::new(nanos)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.stored, &self.below]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { stored: Arc::clone(&children[0]), below: Arc::clone(&children[1]) }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
