//! Buffered rows in key order, one row per key: what flush writes and what queries read of the buffer.
//!
//! 1. Distinct series are ranked once by their tags (schema order, absent first, bytes ascending).
//! 2. A counting sort by rank puts rows in place in order of arrival; a series whose times already ascend is left alone,
//!    else its rows are sorted by time, stably.
//! 3. Neighbours with equal rank and time are one row: each field takes the last value written (E3).
//!
//! Nothing is copied but positions until [`Sorted::columns_of`] gathers the asked columns of the asked rows into Arrow arrays.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::builder::make_view;
use arrow::array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringViewArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Schema};

use crate::chunk::Chunk;
use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::read::{SortedRows, logical_schema, logical_type};
use crate::rows::{Bits, Field, Values};
use crate::schema::{Role, SchemaRef};
use crate::series;

/// In which Arrow type tags come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagForm {
    /// `dictionary(int32, utf8)`, for the Parquet writer.
    Dictionary,
    /// `utf8view`, the logical layout.
    View,
}

/// Rows in key order, one per key.
#[derive(Debug)]
pub struct Sorted {
    schema: SchemaRef,
    chunks: Vec<Arc<Chunk>>,
    /// Tag values of each rank, in schema order of the tags.
    tags: Vec<Vec<Option<String>>>,
    /// Time of each output row.
    times: Vec<i64>,
    /// Rank of each output row, as runs: (rank, end row).
    runs: Vec<(u32, u32)>,
    /// Input positions in key order, equal keys in order of arrival.
    places: Vec<Place>,
    /// For each output row the end of its places; `None` when each row has one.
    ends: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    chunk: u32,
    row: u32,
}

impl Sorted {
    /// Sorts and deduplicates `chunks`, given in order of arrival.
    ///
    /// # Errors
    /// `damaged` when a series key is malformed, which only a bug could make.
    pub fn new(chunks: Vec<Arc<Chunk>>, schema: &SchemaRef) -> Result<Self> {
        let (tags, rank_of) = rank_series(&chunks, schema)?;
        let total: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let mut starts = vec![0u32; tags.len() + 1];
        for (chunk, ranks) in chunks.iter().zip(&rank_of) {
            chunk.series.iter().for_each(|&number| starts[ranks[number as usize] as usize + 1] += 1);
        }
        for rank in 1..starts.len() {
            starts[rank] += starts[rank - 1];
        }
        let mut next = starts.clone();
        let mut times = vec![0i64; total];
        let mut places = vec![Place { chunk: 0, row: 0 }; total];
        for (index, (chunk, ranks)) in chunks.iter().zip(&rank_of).enumerate() {
            for (row, (&number, &time)) in chunk.series.iter().zip(&chunk.times).enumerate() {
                let slot = &mut next[ranks[number as usize] as usize];
                times[*slot as usize] = time;
                places[*slot as usize] = Place { chunk: index as u32, row: row as u32 };
                *slot += 1;
            }
        }
        for rank in 0..tags.len() {
            let range = starts[rank] as usize..starts[rank + 1] as usize;
            sort_by_time(&mut times[range.clone()], &mut places[range]);
        }
        let mut sorted = Self { schema: Arc::clone(schema), chunks, tags, times, runs: Vec::new(), places, ends: None };
        sorted.fold_duplicates(&starts);
        Ok(sorted)
    }

    /// Merges neighbours with equal rank and time, and notes where each rank ends.
    fn fold_duplicates(&mut self, starts: &[u32]) {
        let ranges = || starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        let repeats = ranges().any(|range| self.times[range].windows(2).any(|pair| pair[0] == pair[1]));
        if !repeats {
            self.runs = (0u32..).zip(ranges().map(|range| range.end as u32)).collect();
            return;
        }
        let mut kept = 0;
        let mut ends = Vec::with_capacity(self.times.len());
        for (rank, range) in ranges().enumerate() {
            let first = kept;
            for index in range {
                let time = self.times[index];
                if kept > first && self.times[kept - 1] == time {
                    ends[kept - 1] = index as u32 + 1;
                } else {
                    self.times[kept] = time;
                    ends.push(index as u32 + 1);
                    kept += 1;
                }
            }
            self.runs.push((rank as u32, kept as u32));
        }
        self.times.truncate(kept);
        self.ends = Some(ends);
    }

    /// Whether any time is not a whole microsecond.
    pub fn has_sub_micro(&self) -> bool {
        self.times.iter().any(|time| time.rem_euclid(1_000) != 0)
    }

    /// Bytes of memory held besides the chunks.
    pub fn bytes(&self) -> usize {
        self.times.capacity() * 8
            + self.places.capacity() * 8
            + self.ends.as_ref().map_or(0, |ends| ends.capacity() * 4)
    }

    /// The rows of `range` with the columns `wanted` of the logical layout (0 is `time`, `i + 1` is column `i`).
    ///
    /// # Errors
    /// `internal` when Arrow refuses the arrays.
    pub fn columns_of(&self, range: Range<usize>, wanted: &[usize], form: TagForm) -> Result<RecordBatch> {
        let logical = logical_schema(&self.schema);
        let mut fields = Vec::with_capacity(wanted.len());
        let mut arrays = Vec::with_capacity(wanted.len());
        for &index in wanted {
            let array = match index {
                0 => Arc::new(TimestampNanosecondArray::from(self.times[range.clone()].to_vec())) as ArrayRef,
                index => self.column(index - 1, range.clone(), form)?,
            };
            fields.push(logical.field(index).clone().with_data_type(array.data_type().clone()));
            arrays.push(array);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(range.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot build a batch of buffered rows", error))
    }

    fn column(&self, column: usize, range: Range<usize>, form: TagForm) -> Result<ArrayRef> {
        match self.schema.columns()[column].role {
            Role::Tag => {
                let place = self.schema.tags().position(|(index, _)| index == column).expect("a tag is among the tags");
                self.tag_column(place, range, form)
            }
            Role::Field(_) => self.field_column(column, range),
        }
    }

    /// The runs of equal rank within `range`: (rank, number of rows).
    fn runs_in(&self, range: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let first = self.runs.partition_point(|&(_, end)| end as usize <= range.start);
        let mut at = range.start;
        self.runs[first..].iter().map_while(move |&(rank, end)| {
            let count = (end as usize).min(range.end).checked_sub(at).filter(|&count| count > 0 || at < range.end)?;
            at += count;
            Some((rank as usize, count))
        })
    }

    fn tag_column(&self, place: usize, range: Range<usize>, form: TagForm) -> Result<ArrayRef> {
        let mut distinct: HashMap<&str, i32> = HashMap::new();
        let mut values: Vec<&str> = Vec::new();
        let mut keys: Vec<i32> = Vec::with_capacity(range.len());
        let mut last: Option<(&str, i32)> = None;
        let mut absent = false;
        for (rank, count) in self.runs_in(range) {
            let key = match self.tags[rank][place].as_deref() {
                None => {
                    absent = true;
                    -1
                }
                Some(value) if last.is_some_and(|(text, _)| text == value) => last.map_or(-1, |(_, key)| key),
                Some(value) => {
                    let key = *distinct.entry(value).or_insert_with(|| {
                        values.push(value);
                        values.len() as i32 - 1
                    });
                    last = Some((value, key));
                    key
                }
            };
            keys.extend(std::iter::repeat_n(key, count));
        }
        let nulls = absent.then(|| NullBuffer::from_iter(keys.iter().map(|&key| key >= 0)));
        if absent {
            keys.iter_mut().for_each(|key| *key = (*key).max(0));
            if values.is_empty() {
                // A dictionary must have what its keys point to, also where they are null.
                values.push("");
            }
        }
        Ok(match form {
            TagForm::Dictionary => {
                let keys = Int32Array::new(ScalarBuffer::from(keys), nulls);
                Arc::new(
                    DictionaryArray::try_new(keys, Arc::new(StringArray::from(values)))
                        .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot build a tag column", error))?,
                )
            }
            TagForm::View => Arc::new(repeat_views(&values, &keys, nulls)?),
        })
    }

    fn field_column(&self, column: usize, range: Range<usize>) -> Result<ArrayRef> {
        let sources: Vec<Option<&Field>> = self
            .chunks
            .iter()
            .map(|chunk| chunk.fields.iter().find(|(index, _)| *index == column).map(|(_, field)| field))
            .collect();
        let picks = self.picks(&sources, range);
        let nulls = picks.nulls.clone();
        Ok(match logical_type(self.schema.columns()[column].role) {
            DataType::Float64 => Arc::new(Float64Array::new(
                picks.gather(&sources, |values| if let Values::F64(values) = values { Some(values) } else { None }),
                nulls,
            )),
            DataType::Int64 => Arc::new(Int64Array::new(
                picks.gather(&sources, |values| if let Values::I64(values) = values { Some(values) } else { None }),
                nulls,
            )),
            DataType::UInt64 => Arc::new(UInt64Array::new(
                picks.gather(&sources, |values| if let Values::U64(values) = values { Some(values) } else { None }),
                nulls,
            )),
            DataType::Boolean => Arc::new(BooleanArray::new(picks.gather_bits(&sources), nulls)),
            _ => Arc::new(picks.gather_text(&sources, nulls)?),
        })
    }

    /// Where each output row of `range` finds its value of a field: the last write of its key that has it.
    fn picks(&self, sources: &[Option<&Field>], range: Range<usize>) -> Picks<'_> {
        let dense = sources.iter().all(|source| source.is_some_and(|field| field.present.is_none()));
        let Some(ends) = &self.ends else {
            let places = &self.places[range];
            let nulls = (!dense).then(|| NullBuffer::from_iter(places.iter().map(|place| place.is_in(sources))));
            return Picks { places: std::borrow::Cow::Borrowed(places), nulls };
        };
        let mut present = Vec::with_capacity(if dense { 0 } else { range.len() });
        let places = range
            .map(|row| {
                let group = if row == 0 { 0 } else { ends[row - 1] as usize }..ends[row] as usize;
                let last = self.places[group.end - 1];
                if dense {
                    return last;
                }
                let found = self.places[group].iter().rev().find(|place| place.is_in(sources));
                present.push(found.is_some());
                *found.unwrap_or(&last)
            })
            .collect();
        Picks { places: std::borrow::Cow::Owned(places), nulls: (!dense).then(|| NullBuffer::from(present)) }
    }
}

impl SortedRows for Sorted {
    fn len(&self) -> usize {
        self.times.len()
    }

    fn columns(&self) -> usize {
        self.schema.columns().len() + 1
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        Some((*self.times.iter().min()?, *self.times.iter().max()?))
    }

    fn batch(&self, range: Range<usize>, projection: &[usize]) -> Result<RecordBatch> {
        self.columns_of(range, projection, TagForm::View)
    }
}

impl Place {
    fn is_in(self, sources: &[Option<&Field>]) -> bool {
        sources[self.chunk as usize].is_some_and(|field| field.has(self.row as usize))
    }
}

/// Positions to gather from, and which of them hold a value.
struct Picks<'a> {
    places: std::borrow::Cow<'a, [Place]>,
    nulls: Option<NullBuffer>,
}

impl Picks<'_> {
    fn gather<T: Copy + Default + arrow::datatypes::ArrowNativeType>(
        &self,
        sources: &[Option<&Field>],
        of: impl Fn(&Values) -> Option<&Vec<T>>,
    ) -> ScalarBuffer<T> {
        let slices: Vec<&[T]> = sources
            .iter()
            .map(|source| source.and_then(|field| of(&field.values)).map_or(&[][..], Vec::as_slice))
            .collect();
        self.places
            .iter()
            .map(|place| slices[place.chunk as usize].get(place.row as usize).copied().unwrap_or_default())
            .collect::<Vec<T>>()
            .into()
    }

    fn gather_bits(&self, sources: &[Option<&Field>]) -> BooleanBuffer {
        let bits: Vec<Option<&Bits>> = sources
            .iter()
            .map(|source| match source.map(|field| &field.values) {
                Some(Values::Bool(bits)) => Some(bits),
                _ => None,
            })
            .collect();
        BooleanBuffer::from_iter(
            self.places.iter().map(|place| bits[place.chunk as usize].is_some_and(|bits| bits.get(place.row as usize))),
        )
    }

    fn gather_text(&self, sources: &[Option<&Field>], nulls: Option<NullBuffer>) -> Result<StringViewArray> {
        let mut views = Vec::with_capacity(self.places.len());
        let mut bytes = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            let present = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(index));
            let text: &[u8] = match sources[place.chunk as usize].map(|field| &field.values) {
                Some(Values::Str(text)) if present => text.get(place.row as usize),
                _ => b"",
            };
            views.push(make_view(text, 0, bytes.len() as u32));
            if text.len() > 12 {
                bytes.extend_from_slice(text);
            }
        }
        views_array(views, bytes, nulls)
    }
}

fn views_array(views: Vec<u128>, bytes: Vec<u8>, nulls: Option<NullBuffer>) -> Result<StringViewArray> {
    StringViewArray::try_new(views.into(), vec![Buffer::from_vec(bytes)], nulls)
        .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot build a text column", error))
}

fn repeat_views(values: &[&str], keys: &[i32], nulls: Option<NullBuffer>) -> Result<StringViewArray> {
    let mut bytes = Vec::new();
    let views: Vec<u128> = values
        .iter()
        .map(|value| {
            let view = make_view(value.as_bytes(), 0, bytes.len() as u32);
            if value.len() > 12 {
                bytes.extend_from_slice(value.as_bytes());
            }
            view
        })
        .collect();
    let repeated = keys.iter().map(|&key| views.get(key as usize).copied().unwrap_or(0)).collect();
    views_array(repeated, bytes, nulls)
}

/// Sorts rows of one series by time, equal times in order of arrival; nothing to do in the usual case.
fn sort_by_time(times: &mut [i64], places: &mut [Place]) {
    if times.is_sorted() {
        return;
    }
    let mut pairs: Vec<(i64, Place)> = times.iter().copied().zip(places.iter().copied()).collect();
    pairs.sort_by_key(|&(time, _)| time);
    for (index, (time, place)) in pairs.into_iter().enumerate() {
        times[index] = time;
        places[index] = place;
    }
}

/// Tag values in schema order of the tags, for each rank; and for each chunk the rank of each series number.
type Ranked = (Vec<Vec<Option<String>>>, Vec<Arc<Vec<u32>>>);

fn rank_series(chunks: &[Arc<Chunk>], schema: &SchemaRef) -> Result<Ranked> {
    let mut dictionaries: Vec<(&Arc<Dictionary>, Vec<bool>)> = Vec::new();
    let mut dictionary_of = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let place =
            dictionaries.iter().position(|(known, _)| Arc::ptr_eq(known, &chunk.dictionary)).unwrap_or_else(|| {
                dictionaries.push((&chunk.dictionary, vec![false; chunk.dictionary.len()]));
                dictionaries.len() - 1
            });
        let used = &mut dictionaries[place].1;
        chunk.series.iter().for_each(|&number| used[number as usize] = true);
        dictionary_of.push(place);
    }
    let tag_names: HashMap<&str, usize> =
        schema.tags().enumerate().map(|(place, (_, column))| (column.name.as_str(), place)).collect();
    // (sort key, tags, dictionary, number)
    let mut all = Vec::new();
    for (place, (dictionary, used)) in dictionaries.iter().enumerate() {
        let numbers: Vec<u32> = (0u32..).zip(used).filter(|(_, used)| **used).map(|(number, _)| number).collect();
        for (key, number) in dictionary.keys(&numbers).iter().zip(&numbers) {
            let mut tags = vec![None; tag_names.len()];
            for (name, value) in series::decode(key)? {
                let tag = tag_names.get(name).ok_or_else(|| {
                    Error::new(weir_base::Kind::Internal, format!("series with tag '{name}' that the schema lacks"))
                })?;
                tags[*tag] = Some(value.to_owned());
            }
            all.push((tags, place, *number));
        }
    }
    all.sort_unstable();
    let mut rank_of: Vec<Vec<u32>> = dictionaries.iter().map(|(_, used)| vec![u32::MAX; used.len()]).collect();
    let mut ranked: Vec<Vec<Option<String>>> = Vec::with_capacity(all.len());
    for (tags, place, number) in all {
        if ranked.last() != Some(&tags) {
            ranked.push(tags);
        }
        rank_of[place][number as usize] = ranked.len() as u32 - 1;
    }
    let shared: Vec<Arc<Vec<u32>>> = rank_of.into_iter().map(Arc::new).collect();
    Ok((ranked, dictionary_of.into_iter().map(|place| Arc::clone(&shared[place])).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type, TimestampNanosecondType};
    use proptest::prelude::*;

    use super::*;
    use crate::dictionary::SeriesLimit;
    use crate::rows::{Keys, Rows};
    use crate::schema::{FieldType, TableSchema};

    /// One row as written: series, time, and two fields that may be absent.
    type Point = (u8, i64, Option<f64>, Option<i64>);

    fn chunk(points: &[Point], schema: &TableSchema, dictionary: &Arc<Dictionary>) -> Arc<Chunk> {
        let mut keys = Keys::default();
        let mut rows = Rows { table: "t".into(), ..Rows::default() };
        let mut x = Field::absent("x", FieldType::F64, 0);
        let mut y = Field::absent("y", FieldType::I64, 0);
        for (index, (series, time, first, second)) in points.iter().enumerate() {
            keys.push(&key(*series));
            rows.series.push(index as u32);
            rows.times.push(*time);
            let one = |values| Field { name: String::new(), values, present: None };
            match first {
                Some(value) => x.append(&one(Values::F64(vec![*value]))),
                None => x.pad_to(index + 1),
            }
            match second {
                Some(value) => y.append(&one(Values::I64(vec![*value]))),
                None => y.pad_to(index + 1),
            }
        }
        rows.keys = keys;
        rows.fields = vec![y, x];
        Arc::new(Chunk::new(rows, schema, dictionary).unwrap())
    }

    fn key(series: u8) -> Vec<u8> {
        let mut key = Vec::new();
        match series % 4 {
            0 => {}
            1 => series::encode(&[(b"host", &[b'a' + series])], &mut key),
            2 => series::encode(&[(b"zone", &[b'z' - series])], &mut key),
            _ => series::encode(&[(b"host", b"b"), (b"zone", &[b'a' + series])], &mut key),
        }
        key
    }

    fn schema() -> SchemaRef {
        let mut schema = TableSchema::default();
        schema.add("zone", Role::Tag).unwrap();
        schema.add("x", Role::Field(FieldType::F64)).unwrap();
        schema.add("host", Role::Tag).unwrap();
        schema.add("y", Role::Field(FieldType::I64)).unwrap();
        Arc::new(schema)
    }

    type Row = (Option<f64>, Option<i64>);

    fn expected(points: &[Point]) -> BTreeMap<(Option<String>, Option<String>, i64), Row> {
        let mut rows: BTreeMap<_, Row> = BTreeMap::new();
        for (series, time, x, y) in points {
            let text = key(*series);
            let tags = series::decode(&text).unwrap();
            let tag = |name| tags.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let row = rows.entry((tag("zone"), tag("host"), *time)).or_default();
            *row = (x.or(row.0), y.or(row.1));
        }
        rows
    }

    fn check(points: Vec<Vec<Point>>, step: usize, form: TagForm) {
        let schema = schema();
        let limit = SeriesLimit::new(1_000);
        let memory = crate::memory::Memory::new(weir_base::ByteSize::mib(1));
        let dictionaries = [Dictionary::new(&limit, &memory), Dictionary::new(&limit, &memory)];
        let chunks = points
            .iter()
            .enumerate()
            .map(|(index, points)| chunk(points, &schema, &dictionaries[index / 2 % 2]))
            .collect();
        let sorted = Sorted::new(chunks, &schema).unwrap();
        let mut found = Vec::new();
        let mut start = 0;
        while start < sorted.len() {
            let end = (start + step).min(sorted.len());
            let batch = sorted.columns_of(start..end, &[0, 1, 2, 3, 4], form).unwrap();
            let text = |index: usize| arrow::compute::cast(batch.column(index), &DataType::Utf8).unwrap();
            let (zone, host) = (text(1), text(3));
            let (zone, host) = (zone.as_string::<i32>(), host.as_string::<i32>());
            let times = batch.column(0).as_primitive::<TimestampNanosecondType>();
            let x = batch.column(2).as_primitive::<Float64Type>();
            let y = batch.column(4).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let tag = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
                let x = x.is_valid(row).then(|| x.value(row));
                let y = y.is_valid(row).then(|| y.value(row));
                found.push(((tag(zone), tag(host), times.value(row)), (x, y)));
            }
            start = end;
        }
        assert_eq!(found, expected(&points.concat()).into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn nothing_sorts_to_nothing() {
        check(vec![], 1, TagForm::View);
    }

    proptest! {
        #[test]
        fn the_last_write_wins_field_by_field_e3(
            points in prop::collection::vec(prop::collection::vec(
                (0u8..9, -4i64..12, prop::option::of(-5.0..5.0), prop::option::of(0i64..9)), 0..40), 0..6),
            step in 1usize..50, dictionary in any::<bool>(),
        ) {
            check(points, step, if dictionary { TagForm::Dictionary } else { TagForm::View });
        }
    }
}
