//! From the words of an ASOF JOIN to a LEFT JOIN with a marker that the rule finds again.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    JoinConstraint, JoinOperator, ObjectName, Select, Statement, TableFactor, TableWithJoins, Value, VisitMut,
    VisitorMut,
};

use crate::error::Error;

/// The name of the marker.
pub(super) const MARKER: &str = "asof_match";

/// Rewrites every ASOF JOIN of a statement.
///
/// # Errors
/// `invalid` for a MATCH_CONDITION that compares no two times, and for USING and NATURAL.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<(), Error> {
    match statement.visit(&mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(Error::invalid(message)),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = &'static str;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        select.from.iter_mut().try_for_each(tables)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => tables(table_with_joins),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn tables(tables: &mut TableWithJoins) -> ControlFlow<&'static str> {
    for join in &mut tables.joins {
        let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator else { continue };
        let marker = match marked(match_condition) {
            Ok(marker) => marker,
            Err(message) => return ControlFlow::Break(message),
        };
        let condition = match constraint {
            JoinConstraint::None => marker,
            JoinConstraint::On(on) => Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(on.clone()))),
                op: BinaryOperator::And,
                right: Box::new(marker),
            },
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return ControlFlow::Break("ASOF JOIN takes its keys from ON, not from USING or NATURAL");
            }
        };
        join.join_operator = JoinOperator::LeftOuter(JoinConstraint::On(condition));
    }
    ControlFlow::Continue(())
}

/// `a >= b` as a call of the marker: `asof_match(a, '>=', b)`.
fn marked(condition: &Expr) -> Result<Expr, &'static str> {
    let wrong = "MATCH_CONDITION must compare a time of one table with one of the other by >=, >, <= or <";
    let (left, op, right) = match condition {
        Expr::Nested(inner) => return marked(inner),
        Expr::BinaryOp { left, op, right } => (left, op, right),
        _ => return Err(wrong),
    };
    let op = match op {
        BinaryOperator::GtEq => ">=",
        BinaryOperator::Gt => ">",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Lt => "<",
        _ => return Err(wrong),
    };
    let op = Expr::Value(Value::SingleQuotedString(op.to_owned()).into());
    let argument = |expr: Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let args = vec![argument(left.as_ref().clone()), argument(op), argument(right.as_ref().clone())];
    Ok(Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(MARKER)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }))
}

/// The marker, to be registered.
pub(crate) fn marker() -> ScalarUDF {
    ScalarUDF::from(Marker { signature: Signature::any(3, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        MARKER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        for time in [&arguments[0], &arguments[2]] {
            let orders = time.is_integer() || time.is_null();
            if !(orders || matches!(time, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)) {
                return plan_err!("MATCH_CONDITION compares times, not {time}");
            }
        }
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{MARKER} may only stand in an ASOF JOIN")
    }
}
