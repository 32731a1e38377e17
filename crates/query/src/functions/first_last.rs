//! `first(value, time)` and `last(value, time)`: of the rows whose value is not NULL, the value at the smallest or largest
//! time. Between equal times any of the values is given. They become `first_value` and `last_value` with an order, which
//! have fast paths for many groups.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Expr, Signature, Volatility};

/// One of the two.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ByTime {
    last: bool,
    signature: Signature,
}

impl ByTime {
    pub(super) fn first() -> Self {
        Self { last: false, signature: Signature::any(2, Volatility::Immutable) }
    }

    pub(super) fn last() -> Self {
        Self { last: true, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ByTime {
    fn name(&self) -> &str {
        if self.last { "last" } else { "first" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [value, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64] => Ok(value.clone()),
            [value, time] if time.is_integer() => Ok(value.clone()),
            _ => plan_err!("{}(value, time) needs a time as its second argument", self.name()),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("{} is rewritten before it runs", self.name())
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        internal_err!("{} is rewritten before it runs", self.name())
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let (last, name) = (self.last, self.name().to_owned());
        Some(Box::new(move |function: AggregateFunction, _| {
            let mut params = function.params;
            let (Some(time), Some(value)) = (params.args.pop(), params.args.pop()) else {
                return plan_err!("{name}(value, time) takes two arguments");
            };
            let order = vec![Sort { expr: time, asc: true, nulls_first: last }];
            let function = if last { last_value_udaf() } else { first_value_udaf() };
            let nulls = Some(NullTreatment::IgnoreNulls);
            let rewritten =
                AggregateFunction::new_udf(function, vec![value], params.distinct, params.filter, order, nulls);
            Ok(Expr::AggregateFunction(rewritten))
        }))
    }
}
