//! A tag's column chunk of a row group, written as runs.
//!
//! The general Parquet writer hashes and compares every string of every row. Rows here are sorted by their tags, so a tag is a
//! few runs; they are kept as runs (value number, length) and become dictionary indices without spelling out a row. The pages are
//! plain Parquet 1.0: a dictionary page, then data pages of definition levels and RLE/bit-packed indices.
//! Source: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringViewArray};
use arrow::datatypes::{ArrowNativeType, DataType, Int32Type, UInt32Type};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// The number of a run of NULLs.
const NULL: u32 = u32::MAX;
/// A number of a batch's dictionary that has not been looked up.
const UNKNOWN: u32 = u32::MAX - 1;
/// Statistics longer than this are cut.
pub(super) const STAT_BYTES_MAX: usize = 64;

/// The smallest and largest value and the number of NULLs.
#[derive(Debug, Default, Clone)]
pub(super) struct Extent {
    pub(super) min: Option<String>,
    pub(super) max: Option<String>,
    pub(super) nulls: u64,
}

/// The rows of one tag in one row group.
#[derive(Debug, Default)]
pub(super) struct TagChunk {
    values: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    /// Number and length; neighbours differ.
    runs: Vec<(u32, u32)>,
    rows: u64,
    value_bytes: usize,
}

impl TagChunk {
    /// Appends the rows of a batch: `Utf8View`, `Utf8`, or a dictionary of either by 32-bit keys.
    pub(super) fn extend(&mut self, array: &ArrayRef) -> Result<()> {
        match array.data_type() {
            DataType::Utf8View => self.extend_views(array.as_string_view()),
            DataType::Utf8 => {
                let texts = array.as_string::<i32>();
                (0..texts.len()).for_each(|row| self.push_text(texts.is_valid(row).then(|| texts.value(row)), 1));
            }
            DataType::Dictionary(key, _) => match key.as_ref() {
                DataType::Int32 => {
                    let keys = array.as_dictionary::<Int32Type>();
                    self.extend_dictionary(keys.keys().values(), keys.nulls(), keys.values())?;
                }
                DataType::UInt32 => {
                    let keys = array.as_dictionary::<UInt32Type>();
                    self.extend_dictionary(keys.keys().values(), keys.nulls(), keys.values())?;
                }
                _ => return Err(wrong_type(array)),
            },
            _ => return Err(wrong_type(array)),
        }
        Ok(())
    }

    /// Appends rows without the tag.
    pub(super) fn extend_nulls(&mut self, rows: usize) {
        self.push_run(NULL, rows);
    }

    fn extend_views(&mut self, array: &StringViewArray) {
        let views = array.views();
        let mut start = 0;
        for row in 1..=views.len() {
            // Equal views are equal texts; unequal ones are compared as texts when the run is pushed.
            let same = row < views.len()
                && array.is_valid(row) == array.is_valid(start)
                && (array.is_null(row) || views[row] == views[start]);
            if !same {
                self.push_text(array.is_valid(start).then(|| array.value(start)), row - start);
                start = row;
            }
        }
    }

    fn extend_dictionary<K: ArrowNativeType>(
        &mut self,
        keys: &[K],
        nulls: Option<&arrow::buffer::NullBuffer>,
        values: &ArrayRef,
    ) -> Result<()> {
        enum Values<'a> {
            Plain(&'a StringArray),
            View(&'a StringViewArray),
        }
        let texts = match values.data_type() {
            DataType::Utf8 => Values::Plain(values.as_string::<i32>()),
            DataType::Utf8View => Values::View(values.as_string_view()),
            _ => return Err(wrong_type(values)),
        };
        let text = |key: usize| match &texts {
            Values::Plain(values) => values.is_valid(key).then(|| values.value(key)),
            Values::View(values) => values.is_valid(key).then(|| values.value(key)),
        };
        let mut known = vec![UNKNOWN; values.len()];
        let mut start = 0;
        let valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
        while start < keys.len() {
            let (key, is_valid) = (keys[start], valid(start));
            let mut end = start + 1;
            if nulls.is_none() {
                end += keys[end..].iter().take_while(|next| **next == key).count();
            } else {
                while end < keys.len() && valid(end) == is_valid && (!is_valid || keys[end] == key) {
                    end += 1;
                }
            }
            let number = if is_valid {
                let key = key.as_usize();
                if known[key] == UNKNOWN {
                    known[key] = text(key).map_or(NULL, |text| self.number(text));
                }
                known[key]
            } else {
                NULL
            };
            self.push_run(number, end - start);
            start = end;
        }
        Ok(())
    }

    fn push_text(&mut self, text: Option<&str>, rows: usize) {
        let number = match (text, self.runs.last()) {
            (None, _) => NULL,
            (Some(text), Some(&(last, _))) if last != NULL && *self.values[last as usize] == *text => last,
            (Some(text), _) => self.number(text),
        };
        self.push_run(number, rows);
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.values.len() as u32;
        self.values.push(text.into());
        self.numbers.insert(text.into(), number);
        self.value_bytes += 4 + text.len();
        number
    }

    fn push_run(&mut self, number: u32, rows: usize) {
        self.rows += rows as u64;
        let rows = u32::try_from(rows).expect("a row group has fewer rows than 2^32");
        match self.runs.last_mut() {
            Some((last, len)) if *last == number => *len += rows,
            _ if rows > 0 => self.runs.push((number, rows)),
            _ => {}
        }
    }

    /// Bytes of memory held, roughly; the file takes fewer.
    pub(super) fn bytes(&self) -> usize {
        self.runs.len() * 8 + self.value_bytes * 2 + self.values.len() * 40
    }

    /// Widens `extent` by the rows of this chunk.
    pub(super) fn widen(&self, extent: &mut Extent) {
        extent.nulls += self.runs.iter().filter(|run| run.0 == NULL).map(|run| u64::from(run.1)).sum::<u64>();
        let (Some(min), Some(max)) = (self.values.iter().min(), self.values.iter().max()) else { return };
        if extent.min.as_deref().is_none_or(|known| **min < *known) {
            extent.min = Some(min.to_string());
        }
        if extent.max.as_deref().is_none_or(|known| **max > *known) {
            extent.max = Some(max.to_string());
        }
    }

    /// The column chunk, with pages of `page_rows` rows, for `append_column`.
    pub(super) fn finish(
        self,
        column: &ColumnDescPtr,
        page_rows: usize,
        level: i32,
    ) -> Result<(Bytes, ColumnCloseResult)> {
        let mut sink = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut sink);
        let mut codec = zstd::bulk::Compressor::new(level).map_err(external)?;
        let mut chunk = Totals::default();
        let dictionary = self.dictionary_page();
        let compressed = codec.compress(&dictionary).map_err(external)?.into();
        let page = Page::DictionaryPage {
            buf: compressed,
            num_values: self.values.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let written = pages.write_page(CompressedPage::new(page, dictionary.len()))?;
        chunk.add(&written);
        let data_page_offset = chunk.compressed;
        let mut index = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
        let mut offsets = OffsetIndexBuilder::new();
        let mut data_pages = 0;
        for runs in Pages::new(&self.runs, page_rows) {
            let rows: u32 = runs.iter().map(|run| run.1).sum();
            let data = self.data_page(&runs);
            let page = Page::DataPage {
                buf: codec.compress(&data).map_err(external)?.into(),
                num_values: rows,
                encoding: Encoding::RLE_DICTIONARY,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = pages.write_page(CompressedPage::new(page, data.len()))?;
            chunk.add(&written);
            self.index_page(&runs, &mut index);
            offsets.append_row_count(i64::from(rows));
            offsets.append_offset_and_size(written.offset as i64, written.compressed_size as i32);
            data_pages += 1;
        }
        pages.close()?;
        let encoding = |page_type, encoding, count| PageEncodingStats { page_type, encoding, count };
        let metadata = ColumnChunkMetaData::builder(column.clone())
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
            .set_page_encoding_stats(vec![
                encoding(PageType::DICTIONARY_PAGE, Encoding::PLAIN, 1),
                encoding(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, data_pages),
            ])
            .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::try_new(level)?))
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(chunk.compressed)
            .set_total_uncompressed_size(chunk.uncompressed)
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(data_page_offset)
            .set_statistics(self.statistics())
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: chunk.compressed as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: None,
            column_index: Some(index.build()?),
            offset_index: Some(offsets.build()),
        };
        Ok((sink.into_inner()?.into(), close))
    }

    fn dictionary_page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(self.value_bytes);
        for value in &self.values {
            page.extend_from_slice(&(value.len() as u32).to_le_bytes());
            page.extend_from_slice(value.as_bytes());
        }
        page
    }

    /// Definition levels with their length, the width of an index in bits, the indices of the rows that are not NULL.
    fn data_page(&self, runs: &[(u32, u32)]) -> Vec<u8> {
        let mut levels = Hybrid::new(1);
        runs.iter().for_each(|&(number, rows)| levels.push(u32::from(number != NULL), rows));
        let levels = levels.finish();
        let width = 32 - (self.values.len().saturating_sub(1) as u32).leading_zeros();
        let mut indices = Hybrid::new(width);
        runs.iter().filter(|run| run.0 != NULL).for_each(|&(number, rows)| indices.push(number, rows));
        let mut page = (levels.len() as u32).to_le_bytes().to_vec();
        page.extend_from_slice(&levels);
        page.push(width as u8);
        page.extend_from_slice(&indices.finish());
        page
    }

    fn statistics(&self) -> Statistics {
        let (min, max) = (self.values.iter().min(), self.values.iter().max());
        let whole = |value: Option<&Box<str>>| value.is_some_and(|value| value.len() <= STAT_BYTES_MAX);
        let nulls = self.runs.iter().filter(|run| run.0 == NULL).map(|run| u64::from(run.1)).sum();
        let bytes = |text: String| ByteArray::from(text.into_bytes());
        let cut = (min.map(|min| bytes(cut_min(min))), max.and_then(|max| cut_max(max)).map(bytes));
        let statistics = ValueStatistics::new(cut.0, cut.1, None, Some(nulls), false);
        Statistics::ByteArray(statistics.with_min_is_exact(whole(min)).with_max_is_exact(whole(max)))
    }

    fn index_page(&self, runs: &[(u32, u32)], index: &mut ColumnIndexBuilder) {
        let nulls: u32 = runs.iter().filter(|run| run.0 == NULL).map(|run| run.1).sum();
        let values = || runs.iter().filter(|run| run.0 != NULL).map(|run| &*self.values[run.0 as usize]);
        let (min, max) = (values().min(), values().max());
        match (min, max.map(cut_max)) {
            (Some(min), Some(Some(max))) => {
                index.append(false, cut_min(min).into_bytes(), max.into_bytes(), i64::from(nulls));
            }
            // No short bound above it: the value itself.
            (Some(min), Some(None)) => {
                let max = max.unwrap_or_default().as_bytes().to_vec();
                index.append(false, cut_min(min).into_bytes(), max, i64::from(nulls));
            }
            _ => index.append(true, Vec::new(), Vec::new(), i64::from(nulls)),
        }
    }
}

fn wrong_type(array: &ArrayRef) -> ParquetError {
    ParquetError::General(format!("a tag column to be stored is of type {}", array.data_type()))
}

fn external(error: std::io::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

#[derive(Default)]
struct Totals {
    compressed: i64,
    uncompressed: i64,
}

impl Totals {
    fn add(&mut self, page: &parquet::column::page::PageWriteSpec) {
        self.compressed += page.compressed_size as i64;
        self.uncompressed += page.uncompressed_size as i64;
    }
}

/// Cuts runs into pages of a number of rows.
struct Pages<'a> {
    runs: &'a [(u32, u32)],
    /// Rows of the first run that earlier pages have.
    taken: u32,
    page_rows: u32,
}

impl<'a> Pages<'a> {
    fn new(runs: &'a [(u32, u32)], page_rows: usize) -> Self {
        Self { runs, taken: 0, page_rows: page_rows as u32 }
    }
}

impl Iterator for Pages<'_> {
    type Item = Vec<(u32, u32)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut page = Vec::new();
        let mut room = self.page_rows;
        while let Some(&(number, len)) = self.runs.first()
            && room > 0
        {
            let part = (len - self.taken).min(room);
            page.push((number, part));
            room -= part;
            self.taken += part;
            if self.taken == len {
                self.runs = &self.runs[1..];
                self.taken = 0;
            }
        }
        (!page.is_empty()).then_some(page)
    }
}

/// Parquet's hybrid of run lengths and bit packing.
struct Hybrid {
    width: u32,
    bytes: Vec<u8>,
    /// Values that wait to be bit-packed; a multiple of 8 whenever a run begins.
    pending: Vec<u32>,
}

impl Hybrid {
    fn new(width: u32) -> Self {
        Self { width, bytes: Vec::new(), pending: Vec::new() }
    }

    fn push(&mut self, value: u32, mut count: u32) {
        let missing = (8 - self.pending.len() % 8) % 8;
        let fill = count.min(missing as u32);
        self.pending.extend(std::iter::repeat_n(value, fill as usize));
        count -= fill;
        if count >= 8 {
            self.flush();
            self.header(u64::from(count) << 1);
            self.bytes.extend_from_slice(&value.to_le_bytes()[..self.width.div_ceil(8) as usize]);
        } else {
            self.pending.extend(std::iter::repeat_n(value, count as usize));
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let groups = self.pending.len().div_ceil(8);
        self.header((groups as u64) << 1 | 1);
        self.pending.resize(groups * 8, 0);
        let (mut bits, mut held) = (0u64, 0);
        for value in self.pending.drain(..) {
            bits |= u64::from(value) << held;
            held += self.width;
            while held >= 8 {
                self.bytes.push(bits as u8);
                bits >>= 8;
                held -= 8;
            }
        }
    }

    fn header(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(STAT_BYTES_MAX)]
}

/// A prefix is never larger than the text.
pub(super) fn cut_min(text: &str) -> String {
    cut(text).to_owned()
}

/// A prefix and the largest character is never smaller than the text, unless that character follows the prefix in it.
pub(super) fn cut_max(text: &str) -> Option<String> {
    let prefix = cut(text);
    if prefix.len() == text.len() {
        return Some(prefix.to_owned());
    }
    (!text[prefix.len()..].starts_with(char::MAX)).then(|| format!("{prefix}{}", char::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_statistics_still_bound_their_text() {
        for text in ["short".to_owned(), "é".repeat(50), "x".repeat(65), format!("{}{}", "y".repeat(64), "z\u{10FFFF}")]
        {
            assert!(cut_min(&text) <= text);
            assert!(cut_max(&text).unwrap() >= text);
            assert!(cut_min(&text).len() <= STAT_BYTES_MAX);
        }
        assert_eq!(cut_max(&format!("{}\u{10FFFF}\u{10FFFF}", "x".repeat(64))), None);
    }

    #[test]
    fn pages_cut_runs_and_lose_no_row() {
        let pages: Vec<_> = Pages::new(&[(1, 5), (NULL, 1), (2, 10)], 4).collect();
        assert_eq!(pages, [vec![(1, 4)], vec![(1, 1), (NULL, 1), (2, 2)], vec![(2, 4)], vec![(2, 4)]]);
    }

    #[test]
    fn the_hybrid_is_what_the_format_says() {
        // The example of the format's page: the numbers 0 to 7 at three bits each.
        let mut packed = Hybrid::new(3);
        (0..8).for_each(|value| packed.push(value, 1));
        assert_eq!(packed.finish(), [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
        let mut run = Hybrid::new(9);
        run.push(300, 100);
        assert_eq!(run.finish(), [200, 1, 44, 1]);
    }
}
