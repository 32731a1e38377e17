//! Which parts of a snapshot can be read as they are and which must be merged first (E3).
//!
//! Files of a steady stream overlap a little at their edges (late rows), so "files that overlap" would chain up to the
//! whole table. The plan therefore works on time: where only one source holds rows of a key range, its part of that time
//! is read plainly; the zones where two or more can hold the same key are merged. A plain stretch is worth a scan of its
//! own only when it is a good part of its source ([`PLAIN_SHARE`]); else the zones on both sides grow over it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{MemoryRun, ReadSnapshot};
use crate::store::file::DataFile;

/// A stretch of time in which a source is alone is read plainly when it is at least this part of the source's time.
pub const PLAIN_SHARE: u64 = 4;

/// Times in nanoseconds UTC, both ends included.
pub type Times = RangeInclusive<i64>;

/// One place where rows of a table lie.
#[derive(Debug, Clone)]
pub enum Source {
    /// A Parquet file.
    File(Arc<DataFile>),
    /// A run of the buffer.
    Run(MemoryRun),
}

/// Part of a source.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where the rows lie.
    pub source: Source,
    /// Only rows with these times may be taken from it; `None` when all may.
    pub times: Option<Times>,
}

/// How the rows of a snapshot become the rows of a table.
#[derive(Debug, Clone, Default)]
pub struct ReadPlan {
    /// No other part holds a key of these: filters, limits and statistics of any column may be used on them.
    pub plain: Vec<Part>,
    /// Each group must be merged; only filters on tags and time may be used below the merge. Oldest first.
    pub merged: Vec<Vec<Part>>,
}

impl Source {
    /// Smallest and largest time.
    pub fn times(&self) -> Times {
        match self {
            Source::File(file) => file.time_min..=file.time_max,
            Source::Run(run) => run.time_min..=run.time_max,
        }
    }

    /// Rows, without a look at which of a run's are one: as many as there are or more.
    pub fn rows_at_most(&self) -> u64 {
        match self {
            Source::File(file) => file.rows,
            Source::Run(run) => run.rows_at_most() as u64,
        }
    }

    fn may_share_keys(&self, other: &Self) -> bool {
        match (self, other) {
            (Source::File(one), Source::File(two)) => one.may_share_keys(two),
            _ => overlap(&self.times(), &other.times()),
        }
    }
}

impl Part {
    /// About how many rows it has, assuming that they are spread evenly over time.
    pub fn rows(&self) -> u64 {
        let Some(times) = &self.times else { return self.source.rows_at_most() };
        let share = length(times) as f64 / length(&self.source.times()).max(1) as f64;
        (self.source.rows_at_most() as f64 * share).ceil() as u64
    }
}

impl ReadSnapshot {
    /// All files and runs, oldest first.
    pub fn sources(&self) -> Vec<Source> {
        let files = self.files.iter().map(|file| Source::File(Arc::clone(file)));
        files.chain(self.runs.iter().cloned().map(Source::Run)).collect()
    }

    /// The sources in groups such that those of different groups cannot share keys; each group oldest first.
    pub fn groups(&self) -> Vec<Vec<Source>> {
        let sources = self.sources();
        let members = |group: Vec<usize>| group.into_iter().map(|index| sources[index].clone()).collect();
        components(&sources).into_iter().map(members).collect()
    }
}

impl ReadPlan {
    /// Plans the reading of `sources`, oldest first, where only rows with times in `wanted` matter. Sources outside it
    /// are left out; rows outside it may still come from the others.
    pub fn new(sources: Vec<Source>, wanted: &Times) -> Self {
        let sources: Vec<_> = sources.into_iter().filter(|source| overlap(&source.times(), wanted)).collect();
        let mut plan = Self::default();
        for members in components(&sources) {
            if let [alone] = members[..] {
                plan.plain.push(Part { source: sources[alone].clone(), times: None });
                continue;
            }
            let spans: Vec<_> = members.iter().map(|&member| clip(&sources[member].times(), wanted)).collect();
            let (alone, zones) = zones(&spans);
            let part = |member: usize, times: &Times| {
                let source = sources[members[member]].clone();
                let whole = times.start() <= spans[member].start() && spans[member].end() <= times.end();
                Part { source, times: (!whole).then(|| clip(times, &spans[member])) }
            };
            plan.plain.extend(alone.iter().map(|(member, times)| part(*member, times)));
            plan.merged.extend(zones.iter().map(|zone| {
                let inside = (0..spans.len()).filter(|&member| overlap(&spans[member], zone));
                inside.map(|member| part(member, zone)).collect()
            }));
        }
        plan
    }
}

/// Groups sources that may hold the same key, directly or through others. Members ascend, groups by their first time.
fn components(sources: &[Source]) -> Vec<Vec<usize>> {
    let mut parents: Vec<usize> = (0..sources.len()).collect();
    let mut by_start: Vec<usize> = parents.clone();
    by_start.sort_by_key(|&index| *sources[index].times().start());
    let mut open: Vec<usize> = Vec::new();
    for &index in &by_start {
        let start = *sources[index].times().start();
        open.retain(|&other| *sources[other].times().end() >= start);
        for &other in &open {
            let (one, two) = (root(&mut parents, index), root(&mut parents, other));
            if one != two && sources[index].may_share_keys(&sources[other]) {
                parents[one.max(two)] = one.min(two);
            }
        }
        open.push(index);
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); sources.len()];
    for index in 0..sources.len() {
        groups[root(&mut parents, index)].push(index);
    }
    groups.retain(|group| !group.is_empty());
    groups.sort_by_key(|group| group.iter().map(|&index| *sources[index].times().start()).min());
    groups
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// Cuts the time that `spans` cover: the stretches that are read plainly, with their span, and the zones to merge.
fn zones(spans: &[Times]) -> (Vec<(usize, Times)>, Vec<Times>) {
    let mut plain = Vec::new();
    let mut zones: Vec<Times> = Vec::new();
    for (times, owner) in stretches(spans) {
        match owner {
            Some(span) if length(&times).saturating_mul(PLAIN_SHARE) >= length(&spans[span]) => {
                plain.push((span, times));
            }
            _ => match zones.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(*times.start()) => *last = *last.start()..=*times.end(),
                _ => zones.push(times),
            },
        }
    }
    (plain, zones)
}

/// The covered time in order, cut where a span begins or ends and rejoined where the owner stays the same: the span when
/// it is alone there, `None` where several are.
fn stretches(spans: &[Times]) -> Vec<(Times, Option<usize>)> {
    let mut edges: Vec<(i128, usize, bool)> = Vec::with_capacity(spans.len() * 2);
    for (index, span) in spans.iter().enumerate() {
        edges.push((i128::from(*span.start()), index, true));
        edges.push((i128::from(*span.end()) + 1, index, false));
    }
    edges.sort_unstable();
    let mut active = std::collections::BTreeSet::new();
    let mut cut: Vec<(Times, Option<usize>)> = Vec::new();
    for (number, &(at, index, begins)) in edges.iter().enumerate() {
        if begins {
            active.insert(index);
        } else {
            active.remove(&index);
        }
        let Some(&(next, _, _)) = edges.get(number + 1) else { break };
        if next == at || active.is_empty() {
            continue;
        }
        // Both ends are within the spans, so they fit.
        let times = at as i64..=(next - 1) as i64;
        let owner = if active.len() == 1 { active.first().copied() } else { None };
        match cut.last_mut() {
            Some((last, before)) if *before == owner && i128::from(*last.end()) + 1 == at => {
                *last = *last.start()..=*times.end();
            }
            _ => cut.push((times, owner)),
        }
    }
    cut
}

/// Whether two ranges have a time in common.
pub fn overlap(one: &Times, two: &Times) -> bool {
    one.start() <= two.end() && two.start() <= one.end()
}

fn clip(times: &Times, to: &Times) -> Times {
    *times.start().max(to.start())..=*times.end().min(to.end())
}

fn length(times: &Times) -> u64 {
    times.end().abs_diff(*times.start()).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::file::TagRange;

    const ALL: Times = i64::MIN..=i64::MAX;

    fn file(name: i64, times: Times, tag: Option<(&str, &str)>) -> Source {
        let tags = tag.map(|(min, max)| TagRange {
            name: "host".to_owned(),
            min: Some(min.to_owned()),
            max: Some(max.to_owned()),
            nulls: Some(0),
        });
        Source::File(Arc::new(DataFile {
            path: format!("{name}"),
            size: 1,
            rows: 1000,
            time_min: *times.start(),
            time_max: *times.end(),
            tags: tags.into_iter().collect(),
            order: (name, name),
        }))
    }

    fn show(part: &Part) -> String {
        let Source::File(file) = &part.source else { unreachable!() };
        match &part.times {
            None => file.path.clone(),
            Some(times) => format!("{}[{},{}]", file.path, times.start(), times.end()),
        }
    }

    fn plan(sources: Vec<Source>, wanted: Times) -> String {
        let plan = ReadPlan::new(sources, &wanted);
        let plain: Vec<_> = plan.plain.iter().map(show).collect();
        let merged: Vec<_> =
            plan.merged.iter().map(|group| group.iter().map(show).collect::<Vec<_>>().join("+")).collect();
        format!("plain {} merged {}", plain.join(" "), merged.join(" "))
    }

    #[test]
    fn sources_that_share_no_key_are_plain() {
        let apart = vec![file(1, 0..=9, None), file(2, 10..=19, None), file(3, 30..=30, None)];
        assert_eq!(plan(apart, ALL), "plain 1 2 3 merged ");
        let hosts = vec![file(1, 0..=9, Some(("a", "b"))), file(2, 0..=9, Some(("c", "d")))];
        assert_eq!(plan(hosts, ALL), "plain 1 2 merged ");
    }

    #[test]
    fn only_the_time_that_overlaps_is_merged() {
        let chain = || vec![file(1, 0..=99, None), file(2, 95..=199, None), file(3, 198..=300, None)];
        assert_eq!(
            plan(chain(), ALL),
            "plain 1[0,94] 2[100,197] 3[200,300] merged 1[95,99]+2[95,99] 2[198,199]+3[198,199]"
        );
        assert_eq!(plan(chain(), 0..=50), "plain 1 merged ");
        assert_eq!(plan(chain(), 97..=150), "plain 2[100,150] merged 1+2[97,99]");
    }

    #[test]
    fn short_stretches_are_merged_too() {
        let late = vec![file(1, 0..=999, None), file(2, 100..=110, None), file(3, 150..=160, None)];
        assert_eq!(plan(late, ALL), "plain 1[161,999] merged 1[0,160]+2+3");
        let same = vec![file(1, 0..=9, None), file(2, 0..=9, None)];
        assert_eq!(plan(same, ALL), "plain  merged 1+2");
        let ends = vec![file(1, i64::MIN..=i64::MAX, None), file(2, i64::MAX..=i64::MAX, None)];
        let max = i64::MAX;
        assert_eq!(plan(ends, ALL), format!("plain 1[{},{}] merged 1[{max},{max}]+2", i64::MIN, max - 1));
    }

    proptest! {
        /// E3: every time of every source is taken exactly once, and plainly only where no other source may share its key.
        #[test]
        fn every_row_is_read_once(
            spans in proptest::collection::vec((0i64..60, 0i64..40, 0u8..3), 1..12),
            wanted in (0i64..80, 0i64..80),
        ) {
            let tag = |kind: u8| [None, Some(("a", "b")), Some(("c", "d"))][usize::from(kind)];
            let sources: Vec<_> = spans.iter().enumerate()
                .map(|(index, &(start, length, kind))| file(index as i64, start..=start + length, tag(kind)))
                .collect();
            let wanted = wanted.0..=wanted.0 + wanted.1;
            let plan = ReadPlan::new(sources.clone(), &wanted);
            for (index, source) in sources.iter().enumerate() {
                for time in clip(&source.times(), &wanted) {
                    let takes = |part: &Part| {
                        let Source::File(file) = &part.source else { unreachable!() };
                        file.path == index.to_string() && part.times.as_ref().is_none_or(|times| times.contains(&time))
                    };
                    let plain = plan.plain.iter().filter(|part| takes(part)).count();
                    let groups: Vec<_> = plan.merged.iter().filter(|group| group.iter().any(takes)).collect();
                    prop_assert_eq!(plain + groups.len(), 1, "source {} time {}", index, time);
                    for (other, rival) in sources.iter().enumerate() {
                        if other == index || !rival.times().contains(&time) || !source.may_share_keys(rival) {
                            continue;
                        }
                        let inside = groups.iter().any(|group| group.iter().any(|part| {
                            let Source::File(file) = &part.source else { unreachable!() };
                            file.path == other.to_string()
                        }));
                        prop_assert!(inside, "source {} time {} misses {}", index, time, other);
                    }
                }
            }
            for group in &plan.merged {
                let order: Vec<usize> = group.iter().map(|part| {
                    let Source::File(file) = &part.source else { unreachable!() };
                    file.path.parse().unwrap()
                }).collect();
                prop_assert!(order.is_sorted(), "oldest first");
            }
        }
    }
}
