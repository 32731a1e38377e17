//! The payload of a WAL record: the rows that one request has accepted, all tables of it, self-contained (E1).
//!
//! Version 1, integers little-endian, `v` a LEB128 varint, `text` = v length and bytes, `ints` = base i64, width byte
//! (0, 1, 2, 4 or 8), then each value minus base in that many bytes:
//!
//! ```text
//! u8 version, text database, v tables, then for each table:
//!   text name, v rows,
//!   v series, ints lengths of keys, bytes of keys,
//!   ints series number of each row,
//!   u64 divisor, ints (time / divisor) of each row,
//!   v fields, then for each field:
//!     text name, u8 type (0 f64, 1 i64, 2 u64, 3 bool, 4 text), u8 present (0 all; 1 bitmap follows, ceil(rows/8) bytes),
//!     f64: 8 bytes a row | i64, u64: ints | bool: bitmap | text: ints lengths, bytes
//! ```
//!
//! Widths shrink regular columns to a byte or two a value before the journal compresses the frame.

use weir_base::Kind;

use crate::error::{Error, Result};
use crate::rows::{Bits, Field, Keys, Rows, Values};
use crate::schema::FieldType;

/// The journal record kind of rows.
pub const KIND_ROWS: u16 = 1;
const VERSION: u8 = 1;

/// Serialises the rows of one request.
pub fn encode(database: &str, tables: &[Rows]) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        1024 + tables.iter().map(|rows| rows.len() * 16 + rows.keys.as_bytes().len()).sum::<usize>(),
    );
    out.push(VERSION);
    put_text(&mut out, database.as_bytes());
    put_varint(&mut out, tables.len() as u64);
    for rows in tables {
        put_text(&mut out, rows.table.as_bytes());
        put_varint(&mut out, rows.len() as u64);
        put_varint(&mut out, rows.keys.len() as u64);
        put_texts(&mut out, &rows.keys);
        put_ints(&mut out, rows.series.iter().map(|&number| u64::from(number)));
        put_times(&mut out, &rows.times);
        put_varint(&mut out, rows.fields.len() as u64);
        rows.fields.iter().for_each(|field| put_field(&mut out, field));
    }
    out
}

fn put_field(out: &mut Vec<u8>, field: &Field) {
    put_text(out, field.name.as_bytes());
    out.push(match field.values.kind() {
        FieldType::F64 => 0,
        FieldType::I64 => 1,
        FieldType::U64 => 2,
        FieldType::Bool => 3,
        FieldType::Str => 4,
    });
    out.push(u8::from(field.present.is_some()));
    if let Some(bits) = &field.present {
        out.extend_from_slice(bits.as_bytes());
    }
    match &field.values {
        Values::F64(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
        Values::I64(values) => put_ints(out, values.iter().map(|&value| value as u64)),
        Values::U64(values) => put_ints(out, values.iter().copied()),
        Values::Bool(bits) => out.extend_from_slice(bits.as_bytes()),
        Values::Str(text) => put_texts(out, text),
    }
}

fn put_times(out: &mut Vec<u8>, times: &[i64]) {
    let mut divisor = 0u64;
    for time in times {
        if divisor == 0 || !time.unsigned_abs().is_multiple_of(divisor) {
            divisor = gcd(divisor, time.unsigned_abs());
        }
        if divisor == 1 {
            break;
        }
    }
    let divisor = divisor.clamp(1, i64::MAX as u64);
    out.extend_from_slice(&divisor.to_le_bytes());
    put_ints(out, times.iter().map(|time| (time / divisor as i64) as u64));
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn put_texts(out: &mut Vec<u8>, text: &Keys) {
    let starts = std::iter::once(&0).chain(text.ends());
    put_ints(out, text.ends().iter().zip(starts).map(|(end, start)| u64::from(end - start)));
    out.extend_from_slice(text.as_bytes());
}

/// Values as signed numbers above their minimum, in the narrowest width that holds them all.
fn put_ints(out: &mut Vec<u8>, values: impl Iterator<Item = u64> + Clone) {
    let (min, max) =
        values.clone().fold((i64::MAX, i64::MIN), |(min, max), value| (min.min(value as i64), max.max(value as i64)));
    let base = min.min(max);
    let span = max.wrapping_sub(base) as u64;
    out.extend_from_slice(&base.to_le_bytes());
    let above = values.map(|value| value.wrapping_sub(base as u64));
    match span {
        _ if min >= max => out.push(0),
        0..=0xff => {
            out.push(1);
            out.extend(above.map(|value| value as u8));
        }
        0x100..=0xffff => put_wide(out, 2, above),
        0x1_0000..=0xffff_ffff => put_wide(out, 4, above),
        _ => put_wide(out, 8, above),
    }
}

fn put_wide(out: &mut Vec<u8>, width: u8, values: impl Iterator<Item = u64>) {
    out.push(width);
    match width {
        2 => values.for_each(|value| out.extend_from_slice(&(value as u16).to_le_bytes())),
        4 => values.for_each(|value| out.extend_from_slice(&(value as u32).to_le_bytes())),
        _ => values.for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Reads what [`encode`] wrote: the database and the rows of each table.
///
/// # Errors
/// `damaged` when the bytes are not of this format; what is allocated is bounded by 128 Mi rows and the columns that
/// the bytes name.
pub fn decode(payload: &[u8]) -> Result<(String, Vec<Rows>)> {
    let mut input = Input { rest: payload };
    let version = input.take(1)?[0];
    if version != VERSION {
        return Err(damaged(&format!("unknown version {version}")));
    }
    let database = input.text()?;
    let count = input.count(1)?;
    let tables = (0..count).map(|_| input.rows()).collect::<Result<_>>()?;
    if !input.rest.is_empty() {
        return Err(damaged("bytes after the end"));
    }
    Ok((database, tables))
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Damaged, format!("a write-ahead log record is malformed: {what}"))
}

/// Rows in one record at most: a body of 256 MiB cannot hold more.
const ROWS_MAX: usize = 128 << 20;

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or_else(|| damaged("it ends early"))?;
        self.rest = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(damaged("a number is too long"));
            }
        }
    }

    /// A count of things of which each takes at least `bytes` of what is left.
    fn count(&mut self, bytes: usize) -> Result<usize> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| count.checked_mul(bytes).is_some_and(|total| total <= self.rest.len()))
            .ok_or_else(|| damaged("a count exceeds what is left"))
    }

    fn text(&mut self) -> Result<String> {
        let len = self.count(1)?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| damaged("a name is not UTF-8"))
    }

    fn rows(&mut self) -> Result<Rows> {
        let table = self.text()?;
        let len = usize::try_from(self.varint()?)
            .ok()
            .filter(|len| *len <= ROWS_MAX)
            .ok_or_else(|| damaged("too many rows"))?;
        let keys = usize::try_from(self.varint()?)
            .ok()
            .filter(|keys| *keys <= len)
            .ok_or_else(|| damaged("too many series"))?;
        let keys = self.texts(keys)?;
        let series = self.ints(len)?.into_iter().map(|number| number as u32).collect::<Vec<_>>();
        if series.iter().any(|&number| number as usize >= keys.len()) {
            return Err(damaged("a series number is out of range"));
        }
        let divisor = self.i64()?;
        let mut times: Vec<i64> = self.ints(len)?;
        for time in &mut times {
            *time = time.checked_mul(divisor).ok_or_else(|| damaged("a time overflows"))?;
        }
        let fields = (0..self.count(1)?).map(|_| self.field(len)).collect::<Result<_>>()?;
        Ok(Rows { table, keys, series, times, fields })
    }

    fn field(&mut self, len: usize) -> Result<Field> {
        let name = self.text()?;
        let kind = self.take(1)?[0];
        let present = match self.take(1)?[0] {
            0 => None,
            1 => Some(self.bits(len)?),
            _ => return Err(damaged("unknown presence")),
        };
        let values = match kind {
            0 => Values::F64(self.array(len)?.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
            1 => Values::I64(self.ints(len)?),
            2 => Values::U64(self.ints(len)?.into_iter().map(|value| value as u64).collect()),
            3 => Values::Bool(self.bits(len)?),
            4 => Values::Str(self.texts(len)?),
            _ => return Err(damaged("unknown field type")),
        };
        Ok(Field { name, values, present })
    }

    fn bits(&mut self, len: usize) -> Result<Bits> {
        let bytes = self.take(len.div_ceil(8))?.to_vec();
        Bits::from_bytes(bytes, len).ok_or_else(|| damaged("a bitmap is short"))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array(1)?[0]))
    }

    fn array<const N: usize>(&mut self, len: usize) -> Result<&'a [[u8; N]]> {
        let bytes = self.take(len.checked_mul(N).ok_or_else(|| damaged("a count overflows"))?)?;
        Ok(bytes.as_chunks::<N>().0)
    }

    fn ints(&mut self, len: usize) -> Result<Vec<i64>> {
        let base = self.i64()?;
        Ok(match self.take(1)?[0] {
            0 => vec![base; len],
            1 => self.take(len)?.iter().map(|&byte| base.wrapping_add(i64::from(byte))).collect(),
            2 => self.array(len)?.iter().map(|&b| base.wrapping_add(i64::from(u16::from_le_bytes(b)))).collect(),
            4 => self.array(len)?.iter().map(|&b| base.wrapping_add(i64::from(u32::from_le_bytes(b)))).collect(),
            8 => self.array(len)?.iter().map(|&b| base.wrapping_add(i64::from_le_bytes(b))).collect(),
            width => return Err(damaged(&format!("unknown width {width}"))),
        })
    }

    fn texts(&mut self, len: usize) -> Result<Keys> {
        let mut end = 0u32;
        let mut ends = Vec::new();
        for length in self.ints(len)? {
            end = u32::try_from(length)
                .ok()
                .and_then(|length| end.checked_add(length))
                .ok_or_else(|| damaged("a length"))?;
            ends.push(end);
        }
        let bytes = self.take(end as usize)?.to_vec();
        Ok(Keys::from_parts(ends, bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(times: Vec<i64>, ints: Vec<i64>, floats: Vec<f64>, present: Vec<bool>) -> Rows {
        let len = times.len();
        let mut keys = Keys::default();
        keys.push(b"host=a");
        keys.push(b"");
        let mut bits = Bits::default();
        let mut text = Keys::default();
        for (index, bit) in present.iter().enumerate() {
            bits.push(*bit);
            text.push("x".repeat(index % 5).as_bytes());
        }
        let field = |name: &str, values| Field { name: name.into(), values, present: None };
        Rows {
            table: "my table".into(),
            keys,
            series: (0..len as u32).map(|row| row % 2).collect(),
            fields: vec![
                field("u", Values::U64(ints.iter().map(|&value| value as u64).collect())),
                Field { present: Some(bits.clone()), ..field("i", Values::I64(ints)) },
                field("f", Values::F64(floats)),
                field("b", Values::Bool(bits)),
                field("s", Values::Str(text)),
            ],
            times,
        }
    }

    fn any_rows() -> impl Strategy<Value = Rows> {
        let time = prop_oneof![any::<i64>(), (0i64..100).prop_map(|step| step * 10_000_000_000), Just(0)];
        let int = prop_oneof![any::<i64>(), -3i64..200, Just(i64::MIN), Just(i64::MAX), 0i64..70_000];
        prop::collection::vec((time, int, any::<i32>(), any::<bool>()), 0..60).prop_map(|points| {
            rows(
                points.iter().map(|point| point.0).collect(),
                points.iter().map(|point| point.1).collect(),
                points.iter().map(|point| f64::from(point.2) / 7.0).collect(),
                points.iter().map(|point| point.3).collect(),
            )
        })
    }

    proptest! {
        #[test]
        fn records_come_back_e1(tables in prop::collection::vec(any_rows(), 0..3)) {
            // Two series need two rows: decode refuses more series than rows.
            let tables: Vec<Rows> = tables.into_iter().filter(|rows| rows.len() >= 2).collect();
            let payload = encode("db", &tables);
            prop_assert_eq!(decode(&payload).unwrap(), ("db".to_owned(), tables));
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(rows in any_rows(), cut in 0usize..2000, flip in 0usize..2000, bit in 0u8..8) {
            let mut payload = encode("db", &[rows]);
            let _ = decode(&payload[..cut.min(payload.len())]);
            let place = flip % payload.len();
            payload[place] ^= 1 << bit;
            let _ = decode(&payload);
        }
    }

    #[test]
    fn regular_rows_are_small() {
        let times: Vec<i64> = (0..1000i64).map(|row| 1_700_000_000_000_000_000 + row / 100 * 10_000_000_000).collect();
        let mut some = rows(times, (0..1000).map(|row| row % 100).collect(), vec![0.5; 1000], vec![true; 1000]);
        some.fields.truncate(1);
        assert!(encode("db", &[some]).len() < 1000 * 3 + 200);
    }
}
