//! What `weir ops` and `weir access` print. JSON and CSV are stable; tables are for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use weir_ops::plan::NoteKind;
use weir_ops::statistics::KindStatistics;
use weir_ops::{Entry, Operation, Plan, Step, Summary};

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// Comma-separated, with a header.
    Csv,
}

/// Entries that are shown before the rest is only counted.
const SHOWN_MAX: usize = 50;

fn time(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| nanos.to_string(), |time| format!("{time:.3}"))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Quotes a field where CSV asks for it (RFC 4180).
pub(crate) fn csv(fields: &[String]) -> String {
    let quoted = fields.iter().map(|field| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    });
    quoted.collect::<Vec<_>>().join(",")
}

fn summary_json(summary: &Summary) -> Value {
    json!({
        "id": summary.id, "run_id": summary.run, "time": time(summary.time),
        "ended": summary.ended.map(time), "kind": &*summary.kind, "target": &*summary.target, "actor": &*summary.actor,
        "entries": summary.entries, "done": summary.done, "failed": summary.failed, "skipped": summary.skipped,
        "state": summary.state.word(), "verified": summary.verified, "undoes": summary.undoes,
        "undone_by": summary.undone_by,
    })
}

/// A listing.
pub(crate) fn summaries(format: Format, summaries: &[Summary]) -> anyhow::Result<String> {
    let header = [
        "id",
        "run_id",
        "time",
        "kind",
        "target",
        "actor",
        "entries",
        "done",
        "failed",
        "skipped",
        "state",
        "undone_by",
    ];
    let row = |one: &Summary| -> Vec<String> {
        vec![
            one.id.to_string(),
            one.run.to_string(),
            time(one.time),
            one.kind.to_string(),
            one.target.to_string(),
            one.actor.to_string(),
            one.entries.to_string(),
            one.done.to_string(),
            one.failed.to_string(),
            one.skipped.to_string(),
            one.state.to_string(),
            one.undone_by.map(|id| id.to_string()).unwrap_or_default(),
        ]
    };
    Ok(match format {
        Format::Json => {
            let all: Vec<Value> = summaries.iter().map(summary_json).collect();
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
        Format::Csv => {
            let mut out = format!("{}\n", header.join(","));
            summaries.iter().for_each(|one| out.push_str(&format!("{}\n", csv(&row(one)))));
            out
        }
        Format::Table => {
            let mut table = table(&["id", "run", "time", "kind", "target", "actor", "entries", "state"]);
            for one in summaries {
                let undone = if one.undone_by.is_some() { ", undone" } else { "" };
                let verified = if one.verified { "" } else { ", unverified" };
                table.add_row([
                    one.id.to_string(),
                    one.run.to_string(),
                    time(one.time),
                    one.kind.to_string(),
                    one.target.to_string(),
                    one.actor.to_string(),
                    format!("{} of {}", one.done, one.entries),
                    format!("{}{verified}{undone}", one.state),
                ]);
            }
            format!("{table}\n")
        }
    })
}

fn operation_json(operation: &Operation) -> Value {
    let entries: Vec<Value> = operation
        .entries
        .iter()
        .zip(&operation.progress)
        .map(|(entry, progress)| {
            json!({
                "key": entry.key, "action": entry.action(), "before": entry.before, "after": entry.after,
                "labels": entry.labels, "stage": entry.stage, "step": progress.step, "attempts": progress.attempts,
                "request": progress.request, "reason": progress.reason,
            })
        })
        .collect();
    json!({
        "id": operation.id, "run_id": operation.run, "time": time(operation.time), "ended": operation.ended.map(time),
        "kind": operation.kind, "target": operation.target, "actor": operation.actor, "undoes": operation.undoes,
        "origin": operation.origin, "plan": operation.plan, "state": operation.state.word(),
        "verified": operation.verified, "wrong": operation.wrong, "entries": entries,
    })
}

fn name(entry: &Entry) -> String {
    let label = |name: &str| entry.labels.get(name).cloned();
    let parts = ["principal_type", "principal", "permission_set", "account"];
    let known: Vec<String> = parts.iter().filter_map(|part| label(part)).collect();
    if known.len() < 2 { entry.key.clone() } else { known.join(" ") }
}

/// One operation with its entries.
pub(crate) fn operation(format: Format, operation: &Operation) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&operation_json(operation))?),
        Format::Csv => {
            let mut out = "key,action,step,attempts,request,reason\n".to_owned();
            for (entry, progress) in operation.entries.iter().zip(&operation.progress) {
                let fields = [
                    entry.key.clone(),
                    entry.action().to_owned(),
                    word(progress.step).to_owned(),
                    progress.attempts.to_string(),
                    progress.request.clone().unwrap_or_default(),
                    progress.reason.clone().unwrap_or_default(),
                ];
                writeln!(out, "{}", csv(&fields))?;
            }
            out
        }
        Format::Table => {
            let mut out = format!(
                "operation {}\nrun       {}\ntime      {}\nkind      {}\ntarget    {}\nactor     {}\nstate     {}{}\n",
                operation.id,
                operation.run,
                time(operation.time),
                operation.kind,
                operation.target,
                operation.actor,
                operation.state,
                if operation.verified { ", verified" } else { "" },
            );
            for id in &operation.undoes {
                writeln!(out, "undoes    {id}")?;
            }
            let mut table = table(&["", "entry", "step", "attempts", "reason"]);
            for (entry, progress) in operation.entries.iter().zip(&operation.progress) {
                table.add_row([
                    entry.action().to_owned(),
                    name(entry),
                    word(progress.step).to_owned(),
                    progress.attempts.to_string(),
                    progress.reason.clone().unwrap_or_default(),
                ]);
            }
            writeln!(out, "{table}")?;
            out
        }
    })
}

fn word(step: Step) -> &'static str {
    match step {
        Step::Planned => "planned",
        Step::Started => "started",
        Step::Accepted => "accepted",
        Step::Done => "done",
        Step::Failed => "failed",
        Step::Skipped => "skipped",
    }
}

fn plan_counts(plan: &Plan) -> Value {
    let actions = |wanted: &str| plan.entries.iter().filter(|entry| entry.action() == wanted).count();
    json!({
        "add": actions("add"), "remove": actions("remove"), "change": actions("change"),
        "skip": plan.notes_of(NoteKind::Skip).count(), "drift": plan.notes_of(NoteKind::Drift).count(),
        "conflict": plan.notes_of(NoteKind::Conflict).count(),
    })
}

/// A plan.
pub(crate) fn plan(format: Format, plan: &Plan) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => {
            let mut value = serde_json::to_value(plan)?;
            value["counts"] = plan_counts(plan);
            format!("{}\n", serde_json::to_string_pretty(&value)?)
        }
        Format::Csv => {
            let mut out = "action,key\n".to_owned();
            for entry in &plan.entries {
                writeln!(out, "{}", csv(&[entry.action().to_owned(), entry.key.clone()]))?;
            }
            out
        }
        Format::Table => {
            let mut out = String::new();
            for entry in plan.entries.iter().take(SHOWN_MAX) {
                writeln!(out, "{:8} {}", entry.action(), name(entry))?;
            }
            if plan.entries.len() > SHOWN_MAX {
                writeln!(out, "... and {} more", plan.entries.len() - SHOWN_MAX)?;
            }
            for note in plan.notes.iter().filter(|note| note.kind != NoteKind::Skip).take(SHOWN_MAX) {
                let kind = if note.kind == NoteKind::Drift { "drift" } else { "conflict" };
                writeln!(out, "{kind:8} {} {}", note.key, note.what)?;
            }
            let counts = plan_counts(plan);
            writeln!(
                out,
                "{} to add, {} to remove, {} to change; {} need nothing, {} drifted, {} in conflict",
                counts["add"], counts["remove"], counts["change"], counts["skip"], counts["drift"], counts["conflict"]
            )?;
            out
        }
    })
}

/// There was nothing to do.
pub(crate) fn nothing(format: Format, plan: &Plan) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => {
            let answer = json!({"run_id": null, "operation_ids": [], "state": "done", "counts": plan_counts(plan)});
            format!("{}\n", serde_json::to_string_pretty(&answer)?)
        }
        Format::Table | Format::Csv => "nothing to do\n".to_owned(),
    })
}

/// What a run did.
pub(crate) fn outcome(format: Format, operations: &[Operation]) -> anyhow::Result<String> {
    let count = |step| operations.iter().map(|operation| operation.count(step)).sum::<u32>();
    let failures: Vec<Value> = operations
        .iter()
        .flat_map(|operation| operation.entries.iter().zip(&operation.progress))
        .filter(|(_, progress)| !matches!(progress.step, Step::Done))
        .map(|(entry, progress)| json!({"key": entry.key, "step": progress.step, "reason": progress.reason}))
        .collect();
    let state = operations.iter().map(|operation| operation.state).find(|state| *state != weir_ops::State::Done);
    let state = state.unwrap_or(weir_ops::State::Done);
    let ids: Vec<String> = operations.iter().map(|operation| operation.id.to_string()).collect();
    if format == Format::Json {
        let answer = json!({
            "run_id": operations.first().map(|operation| operation.run),
            "operation_ids": ids,
            "state": state.word(),
            "verified": operations.iter().all(|operation| operation.verified),
            "done": count(Step::Done), "failed": count(Step::Failed), "skipped": count(Step::Skipped),
            "planned": count(Step::Planned), "in_flight": count(Step::Started) + count(Step::Accepted),
            "not_done": failures,
        });
        return Ok(format!("{}\n", serde_json::to_string_pretty(&answer)?));
    }
    let mut out = String::new();
    for failure in failures.iter().take(SHOWN_MAX) {
        let reason = failure["reason"].as_str().unwrap_or("was not begun");
        writeln!(
            out,
            "{:8} {} {reason}",
            failure["step"].as_str().unwrap_or_default(),
            failure["key"].as_str().unwrap_or_default()
        )?;
    }
    writeln!(
        out,
        "{state}: {} done, {} failed, {} skipped, {} not begun, {} in flight; operation {}",
        count(Step::Done),
        count(Step::Failed),
        count(Step::Skipped),
        count(Step::Planned),
        count(Step::Started) + count(Step::Accepted),
        ids.join(" ")
    )?;
    Ok(out)
}

/// Figures by kind.
pub(crate) fn statistics(format: Format, kinds: &BTreeMap<String, KindStatistics>) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(kinds)?));
    }
    let header = ["kind", "operations", "entries", "done", "failed", "undone", "p50_s", "p95_s", "entries_per_s"];
    let row = |(kind, one): (&String, &KindStatistics)| -> Vec<String> {
        let seconds = |pick: fn(&weir_ops::statistics::Durations) -> f64| {
            one.duration_s.as_ref().map(|durations| format!("{:.3}", pick(durations))).unwrap_or_default()
        };
        vec![
            kind.clone(),
            one.operations.to_string(),
            one.entries.to_string(),
            one.done.to_string(),
            one.failed.to_string(),
            one.undone.to_string(),
            seconds(|durations| durations.p50),
            seconds(|durations| durations.p95),
            one.entries_per_s.map(|rate| format!("{rate:.1}")).unwrap_or_default(),
        ]
    };
    if format == Format::Csv {
        let rows: String = kinds.iter().map(|kind| format!("{}\n", csv(&row(kind)))).collect();
        return Ok(format!("{}\n{rows}", header.join(",")));
    }
    let mut table = table(&header);
    for kind in kinds {
        table.add_row(row(kind));
    }
    Ok(format!("{table}\n"))
}

/// What `verify` found, for people.
pub(crate) fn verification(answer: &Value) -> String {
    let mut out = format!("{} records\n", answer["records"]);
    for damage in answer["damage"].as_array().into_iter().flatten() {
        out.push_str(&format!("damaged: {}\n", damage.as_str().unwrap_or_default()));
    }
    if let Some(torn) = answer["torn"].as_str() {
        out.push_str(&format!("torn end: {torn}; the next writer cuts it\n"));
    }
    let chain = &answer["chain"];
    for problem in chain["problems"].as_array().into_iter().flatten() {
        out.push_str(&format!("chain: {}\n", problem.as_str().unwrap_or_default()));
    }
    if chain["holds_head"] == false {
        out.push_str("chain: the given value is not in it\n");
    }
    if let Some(head) = chain["head"].as_str() {
        out.push_str(&format!("chain: {} records, last value {head}\n", chain["chained"]));
    }
    out.push_str(if answer["ok"] == true { "good\n" } else { "not good\n" });
    out
}
