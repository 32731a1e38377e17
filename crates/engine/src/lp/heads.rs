//! The series of a body, found by the raw bytes of measurement and tag set.
//!
//! Agents repeat themselves: the series of a line is nearly always the one that followed its predecessor the last time.
//! So every head remembers its successor, and finding a series is one comparison of bytes. Only when that fails is the
//! head hashed, under the request's seed, and looked up with exact comparison. Only a head that is new is split into tags.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const NONE: u32 = u32::MAX;

/// One spelling of a series: measurement and tags as they stand before the fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    start: usize,
    len: u32,
    next: u32,
    hash: u64,
    /// The table's number in the body.
    pub(super) table: u32,
    /// The series' number in the table.
    pub(super) series: u32,
}

/// All spellings of series seen in the body.
#[derive(Debug)]
pub(super) struct Heads {
    bytes: Vec<u8>,
    list: Vec<Head>,
    index: HashTable<u32>,
    /// The head of the last accepted line.
    last: u32,
    seed: u64,
}

impl Heads {
    pub(super) fn new(seed: u64) -> Self {
        Self { bytes: Vec::new(), list: Vec::new(), index: HashTable::new(), last: NONE, seed }
    }

    /// The head that followed the last one before, when `bytes` at `at` begin with it: its number and where it ends.
    #[inline(always)]
    pub(super) fn predict(&self, bytes: &[u8], at: usize) -> Option<(u32, usize)> {
        let number = self.list.get(self.last as usize)?.next;
        let head = self.list.get(number as usize)?;
        let end = at + head.len as usize;
        // A head never ends in a backslash, so the space behind it is not an escaped one.
        (bytes.get(end) == Some(&b' ') && bytes[at..end] == self.bytes[head.start..head.start + head.len as usize])
            .then_some((number, end))
    }

    /// The hash under which `raw` is kept.
    pub(super) fn hash(&self, raw: &[u8]) -> u64 {
        xxh3_64_with_seed(raw, self.seed)
    }

    /// The number of the head that is spelled exactly so.
    pub(super) fn find(&self, raw: &[u8], hash: u64) -> Option<u32> {
        let same = |&number: &u32| {
            let head = &self.list[number as usize];
            head.hash == hash && self.bytes[head.start..head.start + head.len as usize] == *raw
        };
        self.index.find(hash, same).copied()
    }

    /// Bytes that adding a head of `len` bytes may add to the memory held.
    pub(super) fn growth(&self, len: usize) -> usize {
        let bytes = if self.bytes.capacity() - self.bytes.len() >= len { 0 } else { len.max(self.bytes.capacity()) };
        let list = if self.list.len() < self.list.capacity() {
            0
        } else {
            // The index grows with the list, by 5 bytes an entry at a load of at most 7/8.
            self.list.len().max(4) * (size_of::<Head>() + 10)
        };
        bytes + list
    }

    /// Adds a head that [`Heads::find`] did not find.
    pub(super) fn insert(&mut self, raw: &[u8], hash: u64, table: u32, series: u32) -> u32 {
        let number = u32::try_from(self.list.len()).expect("a head takes bytes of a body under 4 GiB");
        let len = u32::try_from(raw.len()).expect("bounded by the line's limit");
        self.list.push(Head { start: self.bytes.len(), len, next: NONE, hash, table, series });
        self.bytes.extend_from_slice(raw);
        let list = &self.list;
        self.index.insert_unique(hash, number, |&number| list[number as usize].hash);
        number
    }

    #[inline(always)]
    pub(super) fn get(&self, number: u32) -> &Head {
        &self.list[number as usize]
    }

    /// Says that a line with head `number` was accepted.
    #[inline(always)]
    pub(super) fn follow(&mut self, number: u32) {
        if let Some(last) = self.list.get_mut(self.last as usize) {
            last.next = number;
        }
        self.last = number;
    }
}
