//! Samples of one series, and what they say together: how much a counter rose, how steep a value is, its area.
//!
//! Everything is defined on the samples in the order of their times, of those with equal times only the one with the
//! largest value: so the answer depends neither on the order in which rows come nor on how they were split.

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use datafusion::common::Result;
use std::sync::Arc;

use super::arguments::{complete_rows, nanos};

const SIGN: u64 = 1 << 63;

/// What kind of numbers the values are. Whole ones keep all their digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Signed,
    Unsigned,
}

impl Kind {
    pub(super) fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Signed,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Self::Unsigned,
            _ => Self::Float,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Float => DataType::Float64,
            Self::Signed => DataType::Int64,
            Self::Unsigned => DataType::UInt64,
        }
    }

    fn float(self, value: Ordered) -> f64 {
        match self {
            Self::Float => value.float(),
            Self::Signed => value.signed() as f64,
            Self::Unsigned => value.0 as f64,
        }
    }

    /// The difference, exact before it becomes a float.
    fn difference(self, value: Ordered, before: Ordered) -> f64 {
        match self {
            Self::Float => value.float() - before.float(),
            // Both kinds of whole numbers are shifted by the same amount.
            _ => (i128::from(value.0) - i128::from(before.0)) as f64,
        }
    }

    fn fell(self, value: Ordered, before: Ordered) -> bool {
        match self {
            Self::Float => value.float() < before.float(),
            _ => value < before,
        }
    }

    /// How far a counter rose; when it fell it was reset to 0 in between.
    fn rise(self, value: Ordered, before: Ordered) -> f64 {
        if self.fell(value, before) { self.float(value) } else { self.difference(value, before) }
    }
}

/// A number as bits that have its order; NaN is above all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ordered(u64);

impl Ordered {
    pub(super) fn of_float(value: f64) -> Self {
        let bits = value.to_bits();
        Self(if bits & SIGN == 0 { bits | SIGN } else { !bits })
    }

    pub(super) fn float(self) -> f64 {
        f64::from_bits(if self.0 & SIGN == 0 { !self.0 } else { self.0 & !SIGN })
    }

    fn signed(self) -> i64 {
        (self.0 ^ SIGN) as i64
    }
}

/// A value at a time in nanoseconds since 1970; ordered by time, then value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sample {
    pub(super) time: i64,
    value: Ordered,
}

/// The rows that have both a value and a time.
pub(super) fn samples(kind: Kind, values: &ArrayRef, times: &ArrayRef) -> Result<Vec<Sample>> {
    let (values, times) = (cast(values, &kind.data_type())?, nanos(times)?);
    let rows = [values.as_ref(), &times];
    let rows = complete_rows(&rows);
    let sample = |row: usize, value: Ordered| Sample { time: times.value(row), value };
    Ok(match kind {
        Kind::Float => {
            let values = values.as_primitive::<Float64Type>();
            rows.map(|row| sample(row, Ordered::of_float(values.value(row)))).collect()
        }
        Kind::Signed => {
            let values = values.as_primitive::<Int64Type>();
            rows.map(|row| sample(row, Ordered(values.value(row) as u64 ^ SIGN))).collect()
        }
        Kind::Unsigned => {
            let values = values.as_primitive::<UInt64Type>();
            rows.map(|row| sample(row, Ordered(values.value(row)))).collect()
        }
    })
}

/// Values and times of samples, as [`samples`] reads them.
pub(super) fn columns(kind: Kind, samples: &[Sample]) -> [ArrayRef; 2] {
    let values = samples.iter().map(|sample| sample.value);
    let values: ArrayRef = match kind {
        Kind::Float => Arc::new(values.map(|value| Some(value.float())).collect::<Float64Array>()),
        Kind::Signed => Arc::new(values.map(|value| Some(value.signed())).collect::<Int64Array>()),
        Kind::Unsigned => Arc::new(values.map(|value| Some(value.0)).collect::<UInt64Array>()),
    };
    let times = samples.iter().map(|sample| Some(sample.time)).collect::<Int64Array>();
    [values, Arc::new(times)]
}

/// What is asked about the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Measure {
    Rate,
    Increase,
    Irate,
    Delta,
    Derivative,
    Integral,
}

impl Measure {
    /// Whether the first and the last two samples are enough, so that the others need not be held.
    pub(super) fn is_of_ends(self) -> bool {
        matches!(self, Self::Irate | Self::Delta | Self::Derivative)
    }
}

/// The samples from the first to some time, folded into one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold {
    measure: Measure,
    kind: Kind,
    /// Seconds of the unit that is asked for.
    unit: f64,
    first: Option<Sample>,
    /// The sample before the last.
    before: Option<Sample>,
    last: Option<Sample>,
    sum: f64,
}

impl Fold {
    pub(super) fn new(measure: Measure, kind: Kind, unit: f64) -> Self {
        Self { measure, kind, unit, first: None, before: None, last: None, sum: 0.0 }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn last(&self) -> Option<Sample> {
        self.last
    }

    /// Forgets all samples.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.measure, self.kind, self.unit);
    }

    /// Adds a sample that is later than all before.
    pub(super) fn add(&mut self, sample: Sample) {
        if let Some(last) = self.last {
            debug_assert!(last.time < sample.time, "samples are folded in the order of their times");
            self.sum += match self.measure {
                Measure::Rate | Measure::Increase => self.kind.rise(sample.value, last.value),
                Measure::Integral => {
                    let height = self.kind.float(last.value) * 0.5 + self.kind.float(sample.value) * 0.5;
                    height * seconds(last, sample)
                }
                _ => 0.0,
            };
        }
        self.first = self.first.or(Some(sample));
        self.before = self.last;
        self.last = Some(sample);
    }

    /// Adds a sample at any time to a measure of the ends.
    pub(super) fn add_to_ends(&mut self, sample: Sample) {
        let replaces = |old: Option<Sample>, earlier: bool| {
            old.is_none_or(|old| match sample.time.cmp(&old.time) {
                std::cmp::Ordering::Equal => sample.value > old.value,
                order => order.is_lt() == earlier,
            })
        };
        if replaces(self.first, true) {
            self.first = Some(sample);
        }
        match self.last {
            Some(last) if sample.time < last.time => {
                if replaces(self.before, false) {
                    self.before = Some(sample);
                }
            }
            Some(last) if sample.time > last.time => {
                self.before = self.last;
                self.last = Some(sample);
            }
            _ => self.last = self.last.max(Some(sample)),
        }
    }

    /// The first and the last two samples.
    pub(super) fn ends(&self) -> Vec<Sample> {
        let mut ends: Vec<Sample> = [self.first, self.before, self.last].into_iter().flatten().collect();
        ends.dedup();
        ends
    }

    /// `None` with fewer than two times.
    pub(super) fn answer(&self) -> Option<f64> {
        let (first, before, last) = (self.first?, self.before?, self.last?);
        let apart = seconds(first, last);
        let change = self.kind.difference(last.value, first.value);
        Some(match self.measure {
            Measure::Increase => self.sum,
            Measure::Rate => self.sum / apart,
            Measure::Irate => self.kind.rise(last.value, before.value) / seconds(before, last),
            Measure::Delta => change,
            Measure::Derivative => change / apart * self.unit,
            Measure::Integral => self.sum / self.unit,
        })
    }
}

fn seconds(from: Sample, to: Sample) -> f64 {
    (i128::from(to.time) - i128::from(from.time)) as f64 / 1e9
}
