//! Who pulled a package in: shortest paths from the direct requirements, breadth first.

use std::collections::{HashMap, VecDeque};

use super::Judged;
use crate::package::PackageSet;

/// Fills `path` of every package. Where no package is marked direct, those that nobody requires are the roots.
pub(super) fn fill(judged: &mut [Judged], set: &PackageSet) {
    let index: HashMap<&str, usize> =
        set.packages.iter().enumerate().map(|(at, package)| (package.name.as_str(), at)).collect();
    let edges: Vec<Vec<usize>> = set
        .packages
        .iter()
        .map(|package| package.requires.iter().filter_map(|name| index.get(name.as_str()).copied()).collect())
        .collect();
    let mut required = vec![false; set.packages.len()];
    for (from, targets) in edges.iter().enumerate() {
        targets.iter().filter(|to| **to != from).for_each(|to| required[*to] = true);
    }
    let any_direct = set.packages.iter().any(|package| package.direct);
    let is_root = |at: usize| if any_direct { set.packages[at].direct } else { !required[at] };
    let mut before: Vec<Option<usize>> = vec![None; set.packages.len()];
    let mut reached: Vec<bool> = (0..set.packages.len()).map(is_root).collect();
    let mut queue: VecDeque<usize> = (0..set.packages.len()).filter(|at| reached[*at]).collect();
    while let Some(at) = queue.pop_front() {
        for &to in &edges[at] {
            if !reached[to] {
                reached[to] = true;
                before[to] = Some(at);
                queue.push_back(to);
            }
        }
    }
    for at in 0..judged.len() {
        let mut path = Vec::new();
        let mut step = before[at];
        while let Some(from) = step {
            path.push(set.packages[from].name.clone());
            step = before[from];
        }
        path.reverse();
        judged[at].path = path;
    }
}
