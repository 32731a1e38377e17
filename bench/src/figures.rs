//! Figures by name, each with the goal that it was measured for; the table of the cache beside its rivals.

use serde::{Deserialize, Serialize};

use crate::report::{table, thousands};

/// What a figure should be; said beforehand, never changed to fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    /// Whether `value` is so.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// One measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured: a row.
    pub what: String,
    /// Of whom: a column.
    pub engine: String,
    /// In `unit`.
    pub value: f64,
    /// `/s`, `ms`, `us`, `B` or nothing for a ratio.
    pub unit: String,
    /// Absent for what only stands beside others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

impl Figure {
    /// Without a goal.
    pub fn new(what: &str, engine: &str, value: f64, unit: &str) -> Self {
        Self { what: what.to_owned(), engine: engine.to_owned(), value, unit: unit.to_owned(), goal: None }
    }

    /// With one.
    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }
}

/// The figures of some commands, as kept in a result file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// The commands that made them, each with the machine's load before it.
    pub commands: Vec<String>,
    /// The machine.
    pub machine: String,
    /// In order.
    pub figures: Vec<Figure>,
}

/// The engines, in the order of columns.
const ENGINES: [&str; 7] = ["weir", "sqlite", "files", "cacache", "diskcache", "redis", "redb"];
/// Those that several processes share and whose data survives a crash of one.
const SHARED: [&str; 4] = ["sqlite", "files", "cacache", "diskcache"];

/// Rates of one cell.
struct Row<'a> {
    what: &'a str,
    rates: Vec<Option<f64>>,
}

impl Row<'_> {
    fn best(&self, of: &[&str]) -> Option<f64> {
        let rates = ENGINES.iter().zip(&self.rates).filter(|(name, _)| of.contains(name));
        rates.filter_map(|(_, rate)| *rate).reduce(f64::max)
    }

    /// What weir does over what the best of `of` does.
    fn ratio(&self, of: &[&str]) -> Option<f64> {
        Some(self.rates[0]? / self.best(of)?)
    }
}

fn rows(results: &Figures) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for figure in results.figures.iter().filter(|figure| figure.unit == "/s") {
        let Some(column) = ENGINES.iter().position(|name| *name == figure.engine) else { continue };
        let at = rows.iter().position(|row| row.what == figure.what).unwrap_or_else(|| {
            rows.push(Row { what: &figure.what, rates: vec![None; ENGINES.len()] });
            rows.len() - 1
        });
        rows[at].rates[column] = Some(figure.value);
    }
    rows
}

/// How many cells reach a goal, and the lowest of all.
fn summary(rows: &[Row<'_>], name: &str, of: &[&str], goal: f64) -> Option<Vec<String>> {
    let ratios: Vec<(f64, &str)> = rows.iter().filter_map(|row| Some((row.ratio(of)?, row.what))).collect();
    let met = ratios.iter().filter(|(ratio, _)| *ratio >= goal).count();
    let (lowest, at) = ratios.iter().copied().reduce(|low, next| if next.0 < low.0 { next } else { low })?;
    let reached = format!("{met} of {}", ratios.len());
    Some(vec![format!("{name} (goal: at least {goal})"), reached, format!("{lowest:.2} ({at})")])
}

/// The rates of all engines, what weir reaches beside them, then the other figures with their goals.
pub fn tables(results: &Figures) -> String {
    let rows = rows(results);
    let ratio = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let mut head = vec!["operations per second"];
    head.extend(ENGINES);
    head.extend(["of the best shared", "of SQLite", "of the best"]);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let rates = row.rates.iter().map(|rate| rate.map_or("-".to_owned(), thousands));
            let ratios = [row.ratio(&SHARED), row.ratio(&["sqlite"]), row.ratio(&ENGINES[1..])].map(ratio);
            std::iter::once(row.what.to_owned()).chain(rates).chain(ratios).collect()
        })
        .collect();
    let goals: Vec<Vec<String>> = [
        summary(&rows, "ahead of every one that processes share and that survives a crash", &SHARED, 1.0),
        summary(&rows, "beside bare SQLite", &["sqlite"], 0.8),
        summary(&rows, "beside the best", &ENGINES[1..], 0.5),
    ]
    .into_iter()
    .flatten()
    .collect();
    [table(&head, &cells), table(&["weir", "cells that reach it", "lowest"], &goals), goals_table(results)].join("\n")
}

/// All figures but rates of the cache, each with its goal and whether it is met.
pub fn goals_table(results: &Figures) -> String {
    let others: Vec<Vec<String>> = results
        .figures
        .iter()
        .filter(|figure| figure.unit != "/s")
        .map(|figure| {
            let (goal, met) = match figure.goal {
                None => ("-".to_owned(), "-"),
                Some(goal @ (Goal::AtMost(value) | Goal::AtLeast(value))) => {
                    let words = if matches!(goal, Goal::AtMost(_)) { "at most" } else { "at least" };
                    (
                        format!("{words} {}", (value * 1e3).round() / 1e3),
                        if goal.is_met(figure.value) { "yes" } else { "no" },
                    )
                }
            };
            let value = format!("{:.3} {}", figure.value, figure.unit).trim_end().to_owned();
            vec![figure.what.clone(), figure.engine.clone(), value, goal, met.to_owned()]
        })
        .collect();
    table(&["what", "of", "figure", "goal", "met"], &others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_best_of_each_group_and_a_missed_goal_is_said() {
        let rate = |engine: &str, value| Figure::new("1 B, get", engine, value, "/s");
        let slow = Figure::new("size query", "weir", 30.0, "us").with_goal(Goal::AtMost(20.0));
        let figures = vec![rate("weir", 50.0), rate("sqlite", 100.0), rate("redb", 200.0), slow];
        let text = tables(&Figures { figures, ..Figures::default() });
        let ends = |line: &str, with: &str| line.trim_end_matches(['|', ' ']).ends_with(with);
        let line = |start: &str| text.lines().find(|line| line.starts_with(&format!("| {start}"))).unwrap_or_default();
        assert!(line("1 B, get").contains("0.50") && ends(line("1 B, get"), "0.25"), "{text}");
        assert!(line("ahead of").contains("0 of 1"), "{text}");
        assert!(ends(line("size query"), "no"), "{text}");
    }
}
