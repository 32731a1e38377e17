//! `a ASOF JOIN b MATCH_CONDITION (a.time >= b.time) ON a.host = b.host`: to each row of `a` the nearest row of `b`.
//!
//! DataFusion reads the words but cannot plan them. So the join travels through its planner as a LEFT JOIN whose condition
//! holds a marker ([`words`]), which resolves every name as in any join; a rule that runs before all others turns that join
//! into an [`AsofJoin`] ([`rule`]), and [`exec`] merges both sides in the order of (keys, time).

mod exec;
mod merge;
mod node;
mod rule;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use exec::AsofJoinExec;
pub(crate) use node::{AsofJoin, Match};
pub(crate) use rule::AsofRule;
pub(crate) use words::{marker, rewrite};
