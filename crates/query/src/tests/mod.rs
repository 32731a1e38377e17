//! SQL files in the format of sqllogictest: those of DataFusion on a session of ours, and ours on an engine.

mod cells;
mod datafusion;
mod ours;

use sqllogictest::{AsyncDB, MakeConnection, Record, Runner, strict_column_validator};

use cells::Kind;

/// A record of a file that did not do what the file says.
#[derive(Debug)]
struct Failed {
    line: u32,
    told: String,
}

/// Runs the records of a file one after the other; after a failure it goes on, unless one is enough to know.
async fn run<D, M>(records: Vec<Record<Kind>>, one_is_enough: bool, connect: M) -> Vec<Failed>
where
    D: AsyncDB<ColumnType = Kind>,
    M: MakeConnection<Conn = D>,
{
    let mut runner = Runner::new(connect);
    runner.add_label("Datafusion");
    runner.with_column_validator(strict_column_validator);
    runner.with_normalizer(cells::trimmed);
    runner.with_validator(cells::matches);
    let mut failed = Vec::new();
    for record in records {
        if let Record::Halt { .. } = record {
            break;
        }
        let line = line_of(&record);
        if let Err(error) = runner.run_async(record).await {
            failed.push(Failed { line, told: error.to_string() });
            if one_is_enough {
                break;
            }
        }
    }
    failed
}

/// Where a record stands in its own file, also when another file includes it.
fn line_of(record: &Record<Kind>) -> u32 {
    match record {
        Record::Statement { loc, .. } | Record::Query { loc, .. } | Record::Include { loc, .. } => loc.line(),
        _ => 0,
    }
}
