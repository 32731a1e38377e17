//! Aggregations of which the newest rows of each group tell everything: `max(time)` and `last(value, time)` by tags.
//!
//! Row groups are read the newest first. One whose groups have all been seen with values at later times than any of its own cannot change
//! the answer: it is left out, and to tell so only the tags of the groups are read. So the time that it takes depends on how many series there
//! are and not on how long their history is. Files that hold no others are left out without even that ([`Census`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampNanosecondType;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use datafusion::common::{Result, internal_err};

use super::census::Census;
use super::states::State;
use crate::scan::hot::{HotSource, Unit};

/// Groups past which all row groups are read: a bound of the memory that remembering them takes.
pub(super) const GROUPS_MAX: usize = 1 << 17;

/// What is known of the groups so far, of all partitions.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    /// Of each state: where its time is among the columns of all states, and whether there is one.
    places: Arc<[(usize, Option<usize>)]>,
    seen: Arc<Mutex<Seen>>,
    census: Option<Census>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Of each state of a group the time of its value, as far as there is one.
    groups: HashMap<OwnedRow, Box<[i64]>>,
    too_many: bool,
}

impl Newest {
    /// `None` when older rows matter to one of the states. `groups` says what the groups are.
    pub(super) fn of(states: &[State], source: &HotSource, groups: &str) -> Result<Option<Self>> {
        let (mut places, mut column) = (Vec::new(), 0);
        for state in states {
            let Some((time, set, columns)) = state.newest() else { return Ok(None) };
            places.push((column + time, set.map(|set| column + set)));
            column += columns;
        }
        if places.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { places: places.into(), seen: Arc::default(), census: Census::of(source, groups)? }))
    }

    /// The same with nothing seen yet.
    pub(super) fn anew(&self) -> Self {
        let census = self.census.as_ref().map(Census::anew);
        Self { places: Arc::clone(&self.places), seen: Arc::default(), census }
    }

    /// Whether it is known without a look that no row of the unit may change the answer.
    pub(super) fn is_past(&self, unit: &Unit) -> bool {
        self.census.as_ref().is_some_and(|census| census.is_past(unit))
    }

    /// Whether rows of a part of a unit, which are of these groups, may change the answer.
    pub(super) fn may_change(&self, unit: &Unit, groups: &[ArrayRef]) -> Result<bool> {
        if self.seen.lock().expect("no holder of this lock panics").too_many {
            return Ok(true);
        }
        let (rows, time) = (rows(groups)?, *unit.times.end());
        // Of equal times either may be the last; which of them is not to depend on what was left out.
        let newer = |times: &[i64]| times.iter().all(|known| *known > time);
        let changes = {
            let seen = self.seen.lock().expect("no holder of this lock panics");
            seen.too_many || rows.iter().any(|row| !seen.groups.get(&row.owned()).is_some_and(|times| newer(times)))
        };
        if let Some(census) = &self.census {
            census.note(unit, &rows, !changes);
        }
        Ok(changes)
    }

    /// Takes note of the states of some runs, after the columns of their groups.
    pub(super) fn note(&self, states: &RecordBatch, groups: usize) -> Result<()> {
        if self.seen.lock().expect("no holder of this lock panics").too_many {
            return Ok(());
        }
        let rows = rows(&states.columns()[..groups])?;
        let mut known = Vec::with_capacity(self.places.len());
        for (time, set) in self.places.iter() {
            let Some(times) = states.column(groups + time).as_primitive_opt::<TimestampNanosecondType>() else {
                return internal_err!("the time of a state is no time");
            };
            known.push((times, set.map(|set| states.column(groups + set).as_boolean())));
        }
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        for (index, row) in rows.iter().enumerate() {
            let none = || vec![i64::MIN; known.len()].into_boxed_slice();
            let times = seen.groups.entry(row.owned()).or_insert_with(none);
            for ((column, set), time) in known.iter().zip(times.iter_mut()) {
                if column.is_valid(index) && set.is_none_or(|set| set.value(index)) {
                    *time = (*time).max(column.value(index));
                }
            }
        }
        if seen.groups.len() > GROUPS_MAX {
            *seen = Seen { groups: HashMap::new(), too_many: true };
        }
        Ok(())
    }
}

/// Groups in a form that can be looked up.
fn rows(groups: &[ArrayRef]) -> Result<Rows> {
    let fields = groups.iter().map(|group| SortField::new(group.data_type().clone())).collect();
    Ok(RowConverter::new(fields)?.convert_columns(groups)?)
}
