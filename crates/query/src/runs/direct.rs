//! Runs read straight from decoded columns: no batch of rows is made on the way.
//!
//! The cache of columns keeps tags as runs and times as ascending stretches, so where a group ends is known (tags) or found by
//! galloping (buckets of time) without looking at the rows between. What is aggregated is the cached array itself, a range at a time.
//!
//! Where only the first buckets are wanted (`ORDER BY bucket DESC LIMIT n`), rows that lie behind the n best buckets found so far are
//! skipped: their groups cannot be among the first n any more ([`First`]). Where only the newest rows of each group matter, older row groups
//! are left out ([`Newest`]).

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use weir_engine::read::Times;
use weir_engine::schema::TIME;

use super::newest::Newest;
use super::states::State;
use crate::functions::Buckets;
use crate::scan::hot::{HotSource, Rows, Selected, Selection, Stretches, UnitColumns};

/// An aggregation that can be read so.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    source: HotSource,
    keys: Over,
    /// Over `keys`.
    groups: Vec<Arc<dyn PhysicalExpr>>,
    /// Tags at whose runs groups end, as places in the logical layout.
    tags: Vec<usize>,
    /// Grids at whose lines groups end, by the group that is on the grid.
    grids: Vec<(usize, Buckets)>,
    values: Over,
    /// Over `values`.
    states: Vec<State>,
    first: Option<First>,
    newest: Option<Newest>,
    /// Whether all of the source would be too much for the cache.
    large: bool,
}

/// Some columns of the logical layout.
#[derive(Debug, Clone)]
struct Over {
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// Only the groups of the first buckets are wanted.
#[derive(Debug, Clone)]
struct First {
    grid: Buckets,
    descending: bool,
    count: usize,
    /// The best starts found so far, of all partitions.
    found: Arc<Mutex<BTreeSet<i64>>>,
}

impl First {
    /// The times that may still matter.
    fn times(&self) -> Times {
        let found = self.found.lock().expect("no holder of this lock panics");
        let worst = if self.descending { found.first() } else { found.last() };
        match worst.filter(|_| found.len() >= self.count) {
            None => i64::MIN..=i64::MAX,
            Some(worst) if self.descending => *worst..=i64::MAX,
            Some(worst) => i64::MIN..=clamped(self.grid.after(i128::from(*worst), 1) - 1),
        }
    }

    fn add(&self, times: &[i64]) {
        let mut found = self.found.lock().expect("no holder of this lock panics");
        for time in times {
            // A start before all times is the same as the first time: nothing lies before it.
            found.insert(clamped(self.grid.start(i128::from(*time))));
            if found.len() > self.count {
                if self.descending {
                    found.pop_first()
                } else {
                    found.pop_last()
                };
            }
        }
    }
}

fn clamped(time: i128) -> i64 {
    time.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl Direct {
    /// How to read `aggregate`; `None` when rows must be looked at one by one.
    pub(super) fn of(aggregate: &AggregateExec, states: &[State]) -> Result<Option<Self>> {
        let Some(scan) = aggregate.input().downcast_ref::<DataSourceExec>() else { return Ok(None) };
        let Some(source) = scan.data_source().downcast_ref::<HotSource>() else { return Ok(None) };
        if source.looks_at_rows()? {
            return Ok(None);
        }
        let (mut tags, mut grids) = (HashSet::new(), Vec::new());
        let groups: Vec<_> = aggregate.group_expr().expr().iter().map(|(expr, _)| Arc::clone(expr)).collect();
        for (index, group) in groups.iter().enumerate() {
            let columns = collect_columns(group);
            if is_volatile(group) {
                return Ok(None);
            }
            match grid_of(group) {
                Some(grid) => grids.push((index, grid)),
                None if columns.iter().all(|column| source.is_tag(column.name())) => {
                    tags.extend(columns.iter().map(Column::index).map(|index| source.output()[index]));
                }
                None => return Ok(None),
            }
        }
        if !states.iter().flat_map(State::expressions).all(|value| is_plain(source, value)) {
            return Ok(None);
        }
        let keys = Over::of(source, groups.iter())?;
        let groups = groups.into_iter().map(|group| reassign_expr_columns(group, &keys.schema));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let values = Over::of(source, states.iter().flat_map(State::expressions))?;
        let states = states.iter().map(|state| state.over(&values.schema)).collect::<Result<Vec<_>>>()?;
        let mut tags: Vec<usize> = tags.into_iter().collect();
        tags.sort_unstable();
        let newest = match grids.is_empty() && !tags.is_empty() {
            true => Newest::of(&states, source, &format!("{groups:?}"))?,
            false => None,
        };
        let large = source.is_large();
        let source = if newest.is_some() { source.narrowed(true) } else { source.clone() };
        Ok(Some(Self { source, keys, groups, tags, grids, values, states, first: None, newest, large }))
    }

    /// The same where only the groups of the `count` first buckets of one group are wanted; `None` when that is on no grid.
    pub(super) fn first(&self, group: usize, descending: bool, count: usize) -> Option<Self> {
        let (_, grid) = self.grids.iter().find(|(index, _)| *index == group)?;
        let first = First { grid: *grid, descending, count, found: Arc::default() };
        Some(Self { first: Some(first), source: self.source.narrowed(descending), ..self.clone() })
    }

    /// The same over `source`, which reads the same rows, with nothing found yet.
    pub(super) fn anew(&self, source: &HotSource) -> Self {
        let first = self.first.clone().map(|first| First { found: Arc::default(), ..first });
        let newest = self.newest.as_ref().map(Newest::anew);
        Self { source: source.clone(), first, newest, ..self.clone() }
    }

    /// What it reads, if most of that is left out: it may stay where all of it would be too much for the cache.
    pub(super) fn narrow(&self) -> Option<&HotSource> {
        Some(&self.source).filter(|source| source.is_narrow())
    }

    /// Whether it goes on also where groups turn out to be short: it skips rows, or all of them would be too much for the cache.
    pub(super) fn stays(&self) -> bool {
        self.first.is_some() || self.large
    }

    /// Whether rows are skipped because only some groups are wanted.
    pub(super) fn skips(&self) -> Option<usize> {
        self.first.as_ref().map(|first| first.count)
    }

    pub(super) fn selection(&self, partition: usize, context: Arc<TaskContext>) -> Result<Selection> {
        self.source.selection(partition, context)
    }

    /// The next unit that matters.
    pub(super) async fn next(&self, selection: &mut Selection) -> Result<Option<Selected>> {
        loop {
            let times = self.first.as_ref().map_or(i64::MIN..=i64::MAX, First::times);
            let Some((unit, rows)) = selection.unit(&times)? else { return Ok(None) };
            if let Some(newest) = &self.newest {
                if newest.is_past(&unit) {
                    selection.skip();
                    continue;
                }
                let (columns, passing) = selection.tags(&unit, rows.clone(), &self.tags).await?;
                let mut firsts = Vec::new();
                for rows in passing {
                    firsts.extend(self.by_tags(&columns, rows)?.iter().map(|rows| rows.start));
                }
                if !newest.may_change(&unit, &self.groups(&columns, &firsts.into())?)? {
                    selection.skip();
                    continue;
                }
            }
            if let Some(selected) = selection.read(&unit, rows).await? {
                return Ok(Some(selected));
            }
        }
    }

    /// Cuts rows where a tag changes.
    fn by_tags(&self, columns: &UnitColumns, rows: Rows) -> Result<Vec<Rows>> {
        let mut pieces = vec![rows];
        for tag in &self.tags {
            let tag = columns.get(*tag)?;
            let mut cut = Vec::with_capacity(pieces.len());
            pieces.iter().for_each(|rows| tag.each_run(rows, |_, rows| cut.push(rows)));
            pieces = cut;
        }
        Ok(pieces)
    }

    /// The groups of some rows.
    fn groups(&self, columns: &UnitColumns, rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
        let keys = self.keys.columns.iter().map(|column| columns.get(*column)?.take(rows));
        let keys = self.keys.batch(keys.collect::<Result<Vec<_>>>()?, rows.len())?;
        self.groups.iter().map(|group| group.evaluate(&keys)?.into_array(rows.len())).collect()
    }

    /// Where groups end among the selected rows of a unit.
    pub(super) fn runs(&self, selected: &Selected) -> Result<Vec<Range<usize>>> {
        let stretches = Stretches::of(&selected.columns)?;
        let mut runs = Vec::new();
        for rows in &selected.rows {
            let rows = match &self.first {
                Some(first) => stretches.within(rows.clone(), &first.times()),
                None => rows.clone(),
            };
            let before = runs.len();
            for rows in self.by_tags(&selected.columns, rows)? {
                self.cut(stretches.times, rows, &mut runs);
            }
            if let Some(first) = &self.first {
                let starts: Vec<i64> = runs[before..].iter().map(|run| stretches.times[run.start]).collect();
                first.add(&starts);
            }
        }
        Ok(runs)
    }

    /// Cuts rows of ascending times at the lines of the grids.
    fn cut(&self, times: &[i64], rows: Rows, runs: &mut Vec<Range<usize>>) {
        let (mut from, end) = (rows.start as usize, rows.end as usize);
        if self.grids.is_empty() {
            if from < end {
                runs.push(from..end);
            }
            return;
        }
        let mut guess = 1;
        while from < end {
            let time = i128::from(times[from]);
            let line = self.grids.iter().map(|(_, grid)| grid.after(grid.start(time), 1)).min();
            let to = match line.and_then(|line| i64::try_from(line).ok()) {
                Some(line) => from + before(&times[from..end], line, guess),
                None => end,
            };
            runs.push(from..to);
            (guess, from) = (to - from, to);
        }
    }

    /// The states of the runs of a unit, in the layout of a partial aggregation.
    pub(super) fn states(&self, selected: &Selected, runs: &[Range<usize>], schema: &SchemaRef) -> Result<RecordBatch> {
        let firsts = UInt32Array::from_iter_values(runs.iter().map(|run| run.start as u32));
        let mut columns = self.groups(&selected.columns, &firsts)?;
        let rows = selected.columns.rows()?;
        let values = self.values.columns.iter().map(|column| selected.columns.get(*column)?.whole());
        let values = self.values.batch(values.collect::<Result<Vec<_>>>()?, rows)?;
        for state in &self.states {
            if !state.of_runs(&values, runs, true, &mut columns)? {
                return datafusion::common::internal_err!("a time is NULL");
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(runs.len()));
        let states = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
        if let Some(newest) = &self.newest {
            newest.note(&states, self.groups.len())?;
        }
        Ok(states)
    }
}

impl Over {
    fn of<'a>(source: &HotSource, exprs: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>) -> Result<Self> {
        let columns: BTreeSet<usize> =
            exprs.flat_map(collect_columns).map(|column| source.output()[column.index()]).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        Ok(Self { schema: Arc::new(source.logical().project(&columns)?), columns })
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// Whether a value is there for all rows without being computed.
fn is_plain(source: &HotSource, value: &Arc<dyn PhysicalExpr>) -> bool {
    match value.downcast_ref::<Column>() {
        Some(column) => !source.is_tag(column.name()),
        None => value.downcast_ref::<Literal>().is_some(),
    }
}

/// How many of these ascending times lie before a line, of which the first does; `guess` is how many it may be.
fn before(times: &[i64], line: i64, guess: usize) -> usize {
    let is_before = |at: usize| times[at] < line;
    let (mut low, mut high) = (0, times.len());
    let mut step = guess / 8 + 1;
    let at = guess.min(times.len() - 1);
    if is_before(at) {
        low = at;
        while low + step < times.len() && is_before(low + step) {
            low += step;
            step *= 2;
        }
        high = high.min(low + step);
    } else {
        high = at;
        step = 1;
        while high > step && !is_before(high - step) {
            high -= step;
            step *= 2;
        }
        low = low.max(high.saturating_sub(step));
    }
    low + times[low..high].partition_point(|time| *time < line)
}

/// The grid that an expression rounds `time` down to.
fn grid_of(expr: &Arc<dyn PhysicalExpr>) -> Option<Buckets> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    let literal = |expr: &Arc<dyn PhysicalExpr>| Some(expr.downcast_ref::<Literal>()?.value().clone());
    let is_time =
        |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().is_some_and(|column| column.name() == TIME);
    match (call.fun().name(), call.args()) {
        ("date_trunc", [unit, time]) if is_time(time) => Buckets::of_unit(literal(unit)?.try_as_str()??),
        ("date_bin", [width, time]) if is_time(time) => Buckets::of_width(&literal(width)?),
        ("time_bucket", [width, time]) if is_time(time) => Buckets::parse("time_bucket", &literal(width)?, None).ok(),
        ("time_bucket", [width, time, origin]) if is_time(time) => {
            Buckets::parse("time_bucket", &literal(width)?, Some(&literal(origin)?)).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_from_any_guess() {
        let times: Vec<i64> = (0..100).map(|step| step * step).collect();
        for line in 1..10_000 {
            let wanted = times.partition_point(|time| *time < line);
            for guess in [1, 2, 7, 50, 99, 100, 1000] {
                assert_eq!(before(&times, line, guess), wanted, "{line} {guess}");
            }
        }
        assert_eq!(before(&[5], 6, 3), 1);
    }
}
