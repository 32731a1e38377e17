//! Rows of one table as columns: what a parser makes, the WAL stores, and the buffer holds.
//!
//! A set of rows is self-contained: its series are spelled out once each in a local dictionary and rows refer to them by
//! number, so a WAL record can be read without any other. Values move from parser to buffer to Arrow without a copy.

use crate::schema::FieldType;

/// Rows of one measurement in order of arrival. All of `series`, `times` and every field have the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The measurement.
    pub table: String,
    /// Distinct series of these rows, as canonical keys (see [`crate::series`]).
    pub keys: Keys,
    /// For each row the number of its series in `keys`.
    pub series: Vec<u32>,
    /// Nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// The fields that any of these rows has.
    pub fields: Vec<Field>,
}

/// One field of a set of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The field's name.
    pub name: String,
    /// One value a row; any value (zero, empty) where `present` says the row lacks it.
    pub values: Values,
    /// Which rows have the field; `None` when all do.
    pub present: Option<Bits>,
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 64-bit floats.
    F64(Vec<f64>),
    /// Signed integers.
    I64(Vec<i64>),
    /// Unsigned integers.
    U64(Vec<u64>),
    /// Booleans.
    Bool(Bits),
    /// Text.
    Str(Keys),
}

/// Byte strings end to end; number `i` is `bytes[ends[i-1]..ends[i]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

/// A bitmap in Arrow's order: bit `i` is `bytes[i / 8] >> (i % 8) & 1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes of memory held, by capacity.
    pub fn bytes(&self) -> usize {
        self.table.capacity()
            + self.keys.capacity()
            + self.series.capacity() * 4
            + self.times.capacity() * 8
            + self.fields.capacity() * size_of::<Field>()
            + self.fields.iter().map(Field::bytes).sum::<usize>()
    }
}

impl Field {
    /// A field that `len` earlier rows lack.
    pub fn absent(name: &str, kind: FieldType, len: usize) -> Self {
        let mut field = Self { name: name.to_owned(), values: Values::new(kind), present: None };
        field.pad_to(len);
        field
    }

    /// Appends rows without this field until there are `len`.
    pub fn pad_to(&mut self, len: usize) {
        let old = self.values.len();
        if old < len {
            self.present.get_or_insert_with(|| Bits::repeat(true, old)).extend_to(len, false);
            self.values.resize(len);
        }
    }

    /// Appends the rows of `other`, which has the same name and type.
    pub fn append(&mut self, other: &Field) {
        let (old, new) = (self.values.len(), self.values.len() + other.values.len());
        if self.present.is_some() || other.present.is_some() {
            let present = self.present.get_or_insert_with(|| Bits::repeat(true, old));
            match &other.present {
                None => present.extend_to(new, true),
                Some(bits) => (0..bits.len()).for_each(|index| present.push(bits.get(index))),
            }
        }
        self.values.append(&other.values);
    }

    /// Bytes of memory held, by capacity, without the struct itself.
    pub fn bytes(&self) -> usize {
        self.name.capacity()
            + self.present.as_ref().map_or(0, Bits::capacity)
            + match &self.values {
                Values::F64(values) => values.capacity() * 8,
                Values::I64(values) => values.capacity() * 8,
                Values::U64(values) => values.capacity() * 8,
                Values::Bool(bits) => bits.capacity(),
                Values::Str(text) => text.capacity(),
            }
    }

    /// Whether row `index` has the field.
    pub fn has(&self, index: usize) -> bool {
        self.present.as_ref().is_none_or(|bits| bits.get(index))
    }
}

impl Values {
    /// No values yet, of the given type.
    pub fn new(kind: FieldType) -> Self {
        match kind {
            FieldType::F64 => Values::F64(Vec::new()),
            FieldType::I64 => Values::I64(Vec::new()),
            FieldType::U64 => Values::U64(Vec::new()),
            FieldType::Bool => Values::Bool(Bits::default()),
            FieldType::Str => Values::Str(Keys::default()),
        }
    }

    /// The type of these values.
    pub fn kind(&self) -> FieldType {
        match self {
            Values::F64(_) => FieldType::F64,
            Values::I64(_) => FieldType::I64,
            Values::U64(_) => FieldType::U64,
            Values::Bool(_) => FieldType::Bool,
            Values::Str(_) => FieldType::Str,
        }
    }

    /// Appends values of the same type.
    ///
    /// # Panics
    /// When the types differ: schemas are checked before rows are built.
    fn append(&mut self, other: &Values) {
        match (self, other) {
            (Values::F64(mine), Values::F64(theirs)) => mine.extend_from_slice(theirs),
            (Values::I64(mine), Values::I64(theirs)) => mine.extend_from_slice(theirs),
            (Values::U64(mine), Values::U64(theirs)) => mine.extend_from_slice(theirs),
            (Values::Bool(mine), Values::Bool(theirs)) => {
                (0..theirs.len()).for_each(|index| mine.push(theirs.get(index)))
            }
            (Values::Str(mine), Values::Str(theirs)) => theirs.iter().for_each(|text| mine.push(text)),
            (mine, theirs) => panic!("values of {} appended to {}", theirs.kind().word(), mine.kind().word()),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F64(values) => values.len(),
            Values::I64(values) => values.len(),
            Values::U64(values) => values.len(),
            Values::Bool(bits) => bits.len(),
            Values::Str(text) => text.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts to `len` values, or fills up to `len` with zeros, false and empty text.
    pub fn resize(&mut self, len: usize) {
        match self {
            Values::F64(values) => values.resize(len, 0.0),
            Values::I64(values) => values.resize(len, 0),
            Values::U64(values) => values.resize(len, 0),
            Values::Bool(bits) => {
                bits.truncate(len);
                bits.extend_to(len, false);
            }
            Values::Str(text) => text.resize(len),
        }
    }

    /// Makes room for `len` values in all (text: for their ends, not their bytes).
    pub fn reserve(&mut self, len: usize) {
        match self {
            Values::F64(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Values::I64(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Values::U64(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Values::Bool(bits) => bits.bytes.reserve_exact(len.div_ceil(8).saturating_sub(bits.bytes.len())),
            Values::Str(text) => text.reserve(len),
        }
    }
}

impl Keys {
    /// From its parts; the caller has checked that `ends` ascends and ends at `bytes.len()`.
    pub fn from_parts(ends: Vec<u32>, bytes: Vec<u8>) -> Self {
        debug_assert!(ends.is_sorted() && ends.last().map_or(0, |&end| end as usize) == bytes.len());
        Self { ends, bytes }
    }

    /// Appends one; its number is the length before. Together they must stay under 4 GiB, which the limit on a body ensures.
    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(u32::try_from(self.bytes.len()).expect("bounded by the body limit"));
    }

    /// Cuts to the first `len`, or fills up to `len` with empty ones.
    pub fn resize(&mut self, len: usize) {
        if len < self.ends.len() {
            self.bytes.truncate(if len == 0 { 0 } else { self.ends[len - 1] as usize });
        }
        self.ends.resize(len, u32::try_from(self.bytes.len()).expect("bounded by the body limit"));
    }

    /// Makes room for the ends of `len` in all.
    pub fn reserve(&mut self, len: usize) {
        self.ends.reserve_exact(len.saturating_sub(self.ends.len()));
    }

    /// Bytes that the next `push` of `len` bytes adds to the memory held: none while they fit, else as much again.
    pub fn growth(&self, len: usize) -> usize {
        if self.bytes.capacity() - self.bytes.len() >= len { 0 } else { len.max(self.bytes.capacity()).max(8) }
    }

    /// Number `index`.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The end of each in `bytes`.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// All bytes, end to end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    fn capacity(&self) -> usize {
        self.ends.capacity() * 4 + self.bytes.capacity()
    }
}

impl Bits {
    /// `len` equal bits.
    pub fn repeat(bit: bool, len: usize) -> Self {
        let mut bits = Self { bytes: vec![if bit { 0xff } else { 0 }; len.div_ceil(8)], len };
        bits.clear_tail();
        bits
    }

    /// From bytes in Arrow's order; `None` when there are too few. Bits past `len` are cleared.
    pub fn from_bytes(mut bytes: Vec<u8>, len: usize) -> Option<Self> {
        if bytes.len() < len.div_ceil(8) {
            return None;
        }
        bytes.truncate(len.div_ceil(8));
        let mut bits = Self { bytes, len };
        bits.clear_tail();
        Some(bits)
    }

    /// Appends a bit.
    pub fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.bytes[self.len / 8] |= u8::from(bit) << (self.len % 8);
        self.len += 1;
    }

    /// Appends equal bits until there are `len`.
    pub fn extend_to(&mut self, len: usize, bit: bool) {
        while self.len < len && !self.len.is_multiple_of(8) {
            self.push(bit);
        }
        if self.len < len {
            self.bytes.resize(len.div_ceil(8), if bit { 0xff } else { 0 });
            self.len = len;
            self.clear_tail();
        }
    }

    /// Bit `index`.
    pub fn get(&self, index: usize) -> bool {
        self.bytes[index / 8] >> (index % 8) & 1 == 1
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, `len().div_ceil(8)` of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Cuts to the first `len` bits.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.bytes.truncate(len.div_ceil(8));
            self.len = len;
            self.clear_tail();
        }
    }

    fn clear_tail(&mut self) {
        if !self.len.is_multiple_of(8)
            && let Some(last) = self.bytes.last_mut()
        {
            *last &= (1 << (self.len % 8)) - 1;
        }
    }

    fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_fields_keep_who_has_what() {
        let mut field = Field::absent("v", FieldType::I64, 2);
        field.append(&Field { name: "v".into(), values: Values::I64(vec![7, 8]), present: None });
        field.pad_to(5);
        assert_eq!(field.values, Values::I64(vec![0, 0, 7, 8, 0]));
        assert_eq!((0..5).map(|row| field.has(row)).collect::<Vec<_>>(), [false, false, true, true, false]);
        let mut text = Field { name: "t".into(), values: Values::new(FieldType::Str), present: None };
        let mut keys = Keys::default();
        keys.push(b"one");
        text.append(&Field { name: "t".into(), values: Values::Str(keys), present: None });
        text.pad_to(3);
        assert!(matches!(&text.values, Values::Str(keys) if keys.iter().eq([&b"one"[..], b"", b""])));
    }

    #[test]
    fn bits_match_a_list_of_bools() {
        let mut bits = Bits::default();
        let mut list = Vec::new();
        for step in 0..200usize {
            let bit = step % 3 == 0 || step % 7 == 1;
            if step % 31 == 5 {
                bits.extend_to(list.len() + 13, bit);
                list.resize(list.len() + 13, bit);
            } else {
                bits.push(bit);
                list.push(bit);
            }
        }
        bits.truncate(150);
        list.truncate(150);
        bits.push(true);
        list.push(true);
        assert_eq!((0..bits.len()).map(|index| bits.get(index)).collect::<Vec<_>>(), list);
        assert_eq!(Bits::from_bytes(bits.as_bytes().to_vec(), bits.len()), Some(bits));
    }
}
