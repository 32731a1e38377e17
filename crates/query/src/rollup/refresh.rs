//! Brings a rollup up to date: what changed in its table since is summed up again, and all of it shows at once.

use arrow::array::RecordBatch;
use arrow::compute::cast;
use futures::StreamExt;
use weir_base::Kind;
use weir_engine::Engine;
use weir_engine::read::logical_schema;
use weir_engine::rollup::{Definition, FieldParts, Part, ROWS, RollupWriter, Work};
use weir_engine::schema::TIME;
use weir_limits::Priority;

use super::spans::{END, START, Spans};
use crate::error::{Error, Result, from_engine};
use crate::show::{identifier, literal};
use crate::sql::{Request, SqlEngine};

/// Rows of the table that one query sums up.
const SLICE_ROWS: u64 = 16 << 20;

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// Up to which version of its table the rollup was right before, -1 for never.
    pub from: i64,
    /// Up to which it is now.
    pub to: i64,
    /// Rows that were written.
    pub rows: u64,
}

impl SqlEngine {
    /// Brings a rollup up to date with what is committed of its table; `None` when nothing has changed.
    ///
    /// # Errors
    /// `not found` when there is no such rollup or its table is gone; `conflict` when somebody else refreshed it meanwhile; those of
    /// queries.
    pub async fn refresh_rollup(&self, engine: &Engine, database: &str, name: &str) -> Result<Option<Refreshed>> {
        let known = engine.rollups(database).await.map_err(from_engine)?;
        let missing = || Error::new(Kind::NotFound, format!("there is no rollup '{name}' in database '{database}'"));
        let definition = known.into_iter().find(|known| known.name == name).ok_or_else(missing)?;
        let Some(work) = engine.rollup_work(database, &definition).await.map_err(from_engine)? else { return Ok(None) };
        let mut writer = engine.rollup_writer(database, &definition).await.map_err(from_engine)?;
        for slice in slices(&work, definition.every_ns) {
            self.sum_up(database, &definition, &work, &slice, &mut writer).await?;
        }
        let (from, to) = (work.from, work.to);
        let rows = writer.commit(&work).await.map_err(from_engine)?;
        Ok(Some(Refreshed { from, to, rows }))
    }

    async fn sum_up(
        &self,
        database: &str,
        definition: &Definition,
        work: &Work,
        slice: &Spans,
        writer: &mut RollupWriter,
    ) -> Result<()> {
        let columns = definition.schema().map_err(from_engine)?;
        let schema = logical_schema(&columns);
        let request = Request {
            database: database.to_owned(),
            sql: query(definition, work.to, slice)?,
            priority: Priority::Low,
            ..Request::default()
        };
        let mut answer = self.query(request).await?;
        if answer.notes().iter().any(|note| note.contains("nearest")) {
            let what = format!("version {} of table '{}' is not there any more", work.to, definition.table);
            return Err(Error::new(Kind::Conflict, what).with_retry(weir_base::Retry::Backoff));
        }
        while let Some(batch) = answer.next().await {
            let batch = batch?;
            let columns = batch.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()));
            let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?;
            writer.write(batch).await.map_err(from_engine)?;
        }
        writer.end_file().await.map_err(from_engine)
    }
}

/// The times to sum up, in pieces that one query can.
fn slices(work: &Work, every_ns: i64) -> Vec<Spans> {
    let all = Spans::around(&work.times, every_ns);
    let pieces = i128::from(work.rows.div_ceil(SLICE_ROWS).max(1));
    let every = i128::from(every_ns);
    let (first, last) = (i128::from(work.span.0), i128::from(work.span.1));
    let cut = |piece: i128| (first + (last - first) / pieces * piece).div_euclid(every) * every;
    let mut cuts: Vec<i128> = (1..pieces).map(cut).collect();
    cuts.dedup();
    let starts = std::iter::once(START).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([END]);
    starts.zip(ends).map(|(from, to)| all.within(from, to)).filter(|slice| !slice.is_empty()).collect()
}

/// New rows for every group that is or was there: a group that is gone counts no rows.
fn query(definition: &Definition, version: i64, slice: &Spans) -> Result<String> {
    let seconds = definition.every_ns / 1_000_000_000;
    let tags: Vec<String> = definition.tags.iter().map(|tag| identifier(tag)).collect();
    let listed = |more: &[String]| tags.iter().chain(more).cloned().collect::<Vec<_>>().join(", ");
    let parts: Vec<(&FieldParts, Part)> =
        definition.fields.iter().flat_map(|field| field.parts.iter().map(move |part| (field, *part))).collect();
    let named = |(field, part): &(&FieldParts, Part)| identifier(&field.column(*part));
    let mut new = vec![format!("time_bucket('{seconds} seconds', time) AS weir_bucket"), format!("count(*) AS {ROWS}")];
    new.extend(parts.iter().map(|part| format!("{} AS {}", summed(part.0, part.1), named(part))));
    let mut old = vec!["time AS weir_bucket".to_owned(), format!("CAST(0 AS BIGINT) AS {ROWS}")];
    old.extend(parts.iter().map(|part| match part.1 {
        Part::Count => format!("CAST(0 AS BIGINT) AS {}", named(part)),
        _ => format!("NULL AS {}", named(part)),
    }));
    let mut both = vec![format!("sum({ROWS})")];
    both.extend(parts.iter().map(|part| match part.1 {
        Part::Count => format!("sum({})", named(part)),
        _ => format!("max({})", named(part)),
    }));
    let order: Vec<String> =
        tags.iter().map(|tag| format!("{tag} ASC NULLS FIRST")).chain(["weir_bucket".to_owned()]).collect();
    let within = within(slice);
    Ok(format!(
        "SELECT weir_bucket AS {TIME}, {outputs} FROM (\
         SELECT {new} FROM {table} AS OF VERSION {version} WHERE {within} GROUP BY {keys} \
         UNION ALL SELECT {old} FROM {rollup} WHERE {ROWS} > 0 AND {within}) \
         GROUP BY {keys} ORDER BY {order}",
        outputs = listed(&both),
        new = listed(&new),
        table = identifier(&definition.table),
        keys = listed(&["weir_bucket".to_owned()]),
        old = listed(&old),
        rollup = identifier(&definition.table_name()),
        order = order.join(", "),
    ))
}

/// A part of a field over the rows of a bucket.
fn summed(field: &FieldParts, part: Part) -> String {
    let value = identifier(&field.field);
    let timed = format!("CASE WHEN {value} IS NOT NULL THEN time END");
    match part {
        Part::Count => format!("count({value})"),
        Part::Sum => format!("sum({value})"),
        // A cast alone would have the name of the plain sum.
        Part::Total => format!("sum({value} * CAST(1 AS DOUBLE))"),
        Part::Min => format!("min({value})"),
        Part::Max => format!("max({value})"),
        Part::First => format!("first({value}, time)"),
        Part::Last => format!("last({value}, time)"),
        Part::FirstTime => format!("CAST(min({timed}) AS BIGINT)"),
        Part::LastTime => format!("CAST(max({timed}) AS BIGINT)"),
    }
}

fn within(slice: &Spans) -> String {
    let at = |nanos: i128| {
        i64::try_from(nanos)
            .ok()
            .map(|nanos| format!("arrow_cast(CAST({} AS BIGINT), {})", nanos, literal("Timestamp(Nanosecond, None)")))
    };
    let one = |(from, to): (i128, i128)| {
        let lower = at(from).map(|from| format!("time >= {from}"));
        let upper = at(to).map(|to| format!("time < {to}"));
        let both: Vec<String> = lower.into_iter().chain(upper).collect();
        if both.is_empty() { "true".to_owned() } else { both.join(" AND ") }
    };
    let spans: Vec<String> = slice.iter().map(|span| format!("({})", one(span))).collect();
    format!("({})", spans.join(" OR "))
}
