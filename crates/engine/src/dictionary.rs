//! The series of a table by number: each distinct tag set once, so that a buffered row is a number, a time and its fields.
//!
//! Numbers are stable for the life of a dictionary. A table starts a new one when it has been flushed empty and the old one
//! has grown large; rows keep the dictionary that numbered them alive. Resolving locks the dictionary for a few
//! instructions a key and never across I/O (S2).

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable};
use weir_base::Kind;

use crate::error::{Error, Result};
use crate::memory::{Memory, Reservation};
use crate::rows::Keys;

/// How many series there may be in all tables together, and how many there are.
#[derive(Debug)]
pub struct SeriesLimit {
    max: u64,
    used: AtomicU64,
}

impl SeriesLimit {
    /// At most `max` series.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicU64::new(0) })
    }

    /// Series known now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self) -> Result<()> {
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < self.max).then_some(used + 1))
            .map(drop)
            .map_err(|_| Error::new(Kind::Limit, format!("there are already {} series (setting series_max)", self.max)))
    }
}

/// Distinct canonical series keys, numbered from 0.
#[derive(Debug)]
pub struct Dictionary {
    limit: Arc<SeriesLimit>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: Reservation,
    hasher: DefaultHashBuilder,
    numbers: HashTable<u32>,
    pages: Vec<Vec<u8>>,
    /// Page, start and length of each key.
    spans: Vec<(u32, u32, u32)>,
}

/// The first page is small, for tables of a few series; each next one is twice as large up to the largest.
const PAGE_BYTES_MIN: usize = 2 << 10;
const PAGE_BYTES_MAX: usize = 256 << 10;

impl Inner {
    /// Bytes of memory held, by capacity.
    fn bytes(&self) -> usize {
        self.pages.iter().map(Vec::capacity).sum::<usize>() + self.spans.capacity() * 12 + self.numbers.capacity() * 5
    }

    /// Makes room for one more key, accounted before it is taken.
    fn reserve(&mut self, len: usize) -> Result<()> {
        let fits = self.pages.last().is_some_and(|page| page.capacity() - page.len() >= len);
        let page = match self.pages.last() {
            _ if fits => 0,
            None => len.max(PAGE_BYTES_MIN),
            Some(last) => len.max((last.capacity() * 2).clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX)),
        };
        let grows = self.spans.len() == self.spans.capacity() || self.numbers.len() == self.numbers.capacity();
        if page == 0 && !grows {
            return Ok(());
        }
        let index = if grows { (self.spans.capacity() * 2).max(16) * 17 } else { 0 };
        self.memory.resize((self.bytes() + page + index) as u64)?;
        if page > 0 {
            self.pages.push(Vec::with_capacity(page));
        }
        Ok(())
    }

    fn key(&self, number: u32) -> &[u8] {
        let (page, start, len) = self.spans[number as usize];
        &self.pages[page as usize][start as usize..(start + len) as usize]
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.numbers.find(hash, |&number| self.key(number) == key).copied()
    }

    fn add(&mut self, hash: u64, key: &[u8]) -> u32 {
        let page = self.pages.len() - 1;
        let start = self.pages[page].len();
        self.pages[page].extend_from_slice(key);
        let number = u32::try_from(self.spans.len()).expect("series_max is below 2^32");
        self.spans.push((page as u32, start as u32, key.len() as u32));
        let (hasher, spans, pages) = (&self.hasher, &self.spans, &self.pages);
        self.numbers.insert_unique(hash, number, |&other| {
            let (page, start, len) = spans[other as usize];
            hasher.hash_one(&pages[page as usize][start as usize..(start + len) as usize])
        });
        number
    }
}

impl Dictionary {
    /// An empty dictionary under a limit and an account of memory shared by all tables.
    pub fn new(limit: &Arc<SeriesLimit>, memory: &Arc<Memory>) -> Arc<Self> {
        let inner = Inner {
            memory: memory.reservation(),
            hasher: DefaultHashBuilder::default(),
            numbers: HashTable::new(),
            pages: Vec::new(),
            spans: Vec::new(),
        };
        Arc::new(Self { limit: Arc::clone(limit), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of `keys`, new ones added; position `i` answers key `i`.
    ///
    /// # Errors
    /// `limit` when a new series would exceed the limit of series or of memory; keys before it stay known, which shows nowhere.
    pub fn resolve(&self, keys: &Keys) -> Result<Vec<u32>> {
        let mut inner = self.lock();
        keys.iter()
            .map(|key| {
                let hash = inner.hasher.hash_one(key);
                match inner.find(hash, key) {
                    Some(number) => Ok(number),
                    None => {
                        inner.reserve(key.len())?;
                        self.limit.take()?;
                        Ok(inner.add(hash, key))
                    }
                }
            })
            .collect()
    }

    /// Which of `keys` are not known yet.
    pub fn unknown<'a>(&self, keys: &'a Keys) -> Vec<&'a [u8]> {
        let inner = self.lock();
        keys.iter().filter(|key| inner.find(inner.hasher.hash_one(key), key).is_none()).collect()
    }

    /// Copies the keys with these numbers.
    pub fn keys(&self, numbers: &[u32]) -> Keys {
        let inner = self.lock();
        let mut keys = Keys::default();
        numbers.iter().for_each(|&number| keys.push(inner.key(number)));
        keys
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.lock().spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Dictionary {
    fn drop(&mut self) {
        let count = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).spans.len() as u64;
        self.limit.used.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_limited_s1() {
        let limit = SeriesLimit::new(1_000);
        let memory = Memory::new(weir_base::ByteSize::new(256 << 10));
        let dictionary = Dictionary::new(&limit, &memory);
        let mut keys = Keys::default();
        (0..1_000).for_each(|index| keys.push(format!("host=h{index}").as_bytes()));
        let numbers = dictionary.resolve(&keys).unwrap();
        assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
        assert_eq!(dictionary.resolve(&keys).unwrap(), numbers);
        assert_eq!(dictionary.keys(&[7, 999]).get(1), b"host=h999");
        let mut more = Keys::default();
        more.push(b"host=one-too-many");
        assert_eq!(dictionary.unknown(&more), [b"host=one-too-many"]);
        let error = dictionary.resolve(&more).unwrap_err();
        assert!(error.kind() == Kind::Limit && error.to_string().contains("series_max"), "{error}");
        assert_eq!((limit.used(), dictionary.len()), (1_000, 1_000));
        let held = dictionary.lock().bytes() as u64;
        assert!(held <= memory.used() && memory.used() <= held * 2, "{held} held, {} accounted", memory.used());
        drop(dictionary);
        assert_eq!((limit.used(), memory.used()), (0, 0));
    }

    #[test]
    fn memory_of_series_is_limited_s1() {
        let memory = Memory::new(weir_base::ByteSize::new(32 << 10));
        let dictionary = Dictionary::new(&SeriesLimit::new(1_000_000), &memory);
        let mut keys = Keys::default();
        (0..10_000).for_each(|index| keys.push(format!("host=h{index}").as_bytes()));
        let error = dictionary.resolve(&keys).unwrap_err();
        assert!(error.to_string().contains("buffer_bytes_max"), "{error}");
        assert!(dictionary.len() > 100 && memory.used() <= 32 << 10);
    }
}
