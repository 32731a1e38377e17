//! Functions of time series that DataFusion lacks.
//!
//! Each file holds one family; what they compute is said in `docs/guide/sql.md`.
//!
//! - `time_bucket(width, time [, origin])`: the start of the bucket that a time lies in ([`mod@time_bucket`]).
//! - `first(value, time)`, `last(value, time)`: the value of the first or last row that has one ([`first_last`]).
//! - `selector_first`, `_last`, `_min`, `_max`: a chosen row's value and time ([`selectors`]).
//! - `rate`, `increase`, `irate`, `delta`, `derivative`, `integral` of (value, time) ([`rates`] over [`samples`]).
//! - `percentile`, `approx_percentile` ([`percentile`]), `mode` ([`mode`]), `histogram_quantile` ([`histogram`]).
//! - `moving_average`, `ewma` over windows ([`moving`]).

mod arguments;
mod bucket;
mod first_last;
mod histogram;
mod mode;
mod moving;
mod percentile;
mod rates;
mod samples;
mod selectors;
#[cfg(test)]
mod tests;
mod time_bucket;

use std::sync::Arc;

use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, ScalarUDFImpl};

pub(crate) use bucket::{Buckets, Width, time_nanos};

use crate::{asof, gapfill};

/// The plain function that the markers of gap filling become.
pub(crate) fn time_bucket() -> impl ScalarUDFImpl {
    time_bucket::TimeBucket::default()
}

/// Adds them to a session.
pub(crate) fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    let scalars = builder.scalar_functions().get_or_insert_default();
    scalars.push(Arc::new(ScalarUDF::from(time_bucket::TimeBucket::default())));
    scalars.extend(gapfill::markers().into_iter().map(Arc::new));
    scalars.push(Arc::new(asof::marker()));
    let aggregates = builder.aggregate_functions().get_or_insert_default();
    aggregates.push(Arc::new(AggregateUDF::from(first_last::ByTime::first())));
    aggregates.push(Arc::new(AggregateUDF::from(first_last::ByTime::last())));
    let single = vec![mode::function(), histogram::function()];
    let ours = [rates::functions(), selectors::functions(), percentile::functions(), single];
    aggregates.extend(ours.into_iter().flatten().map(Arc::new));
    let windows = builder.window_functions().get_or_insert_default();
    windows.extend(moving::functions().into_iter().map(Arc::new));
    builder
}
