//! What an append costs the disk: bytes and calls, counted, not timed. J3.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_base::file::Metadata;
use weir_base::{File, FileSystem, OpenMode};
use weir_journal::{Codec, Durability, Env, Journal, Options, Reader, Record};
use weir_sim::Disk;

/// Bytes and calls that reached the disk.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
    calls: AtomicU64,
}

/// A disk that counts.
#[derive(Debug, Clone)]
struct Counting {
    disk: Disk,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn File>,
    counts: Arc<Counts>,
}

impl Counting {
    fn call(&self) -> &Disk {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        &self.disk
    }
}

impl CountingFile {
    fn call(&self) -> &dyn File {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        &*self.file
    }
}

impl File for CountingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.call().read_at(buf, offset)?;
        self.counts.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.counts.written.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.call().write_all_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call().set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.call().len()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.call().sync_data()
    }
}

impl FileSystem for Counting {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.call().open(path, mode)?;
        Ok(Arc::new(CountingFile { file, counts: Arc::clone(&self.counts) }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call().create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.call().list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.call().metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call().rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call().hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call().remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call().remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call().sync_dir(dir)
    }
    fn available(&self, path: &Path) -> io::Result<u64> {
        self.call().available(path)
    }
}

/// Bytes read, bytes written and calls so far.
fn now(counts: &Counts) -> [u64; 3] {
    [&counts.read, &counts.written, &counts.calls].map(|count| count.load(Ordering::Relaxed))
}

/// Appends `appends` batches of about 1 KB and returns what each tenth of them cost, footers included.
fn cost_of_tenths(appends: u64, durability: Durability, index: bool) -> Vec<[u64; 3]> {
    let fs = Counting { disk: Disk::new(1), counts: Arc::default() };
    let counts = Arc::clone(&fs.counts);
    let env = Env { fs: Arc::new(fs), clock: Arc::<weir_sim::Clock>::default() };
    let options = Options { codec: Codec::None, segment_bytes_max: 64 << 10, index, ..Options::default() };
    let (journal, _) = Journal::open(env, Path::new("/journal"), "test", options).unwrap();
    let payload = [7; 100];
    let mut costs = Vec::new();
    for tenth in 0..10 {
        let before = now(&counts);
        for n in 0..appends / 10 {
            let key = format!("key-{:08}", tenth * appends + n);
            let records = [Record { time: n as i64, kind: 1, key: key.as_bytes(), payload: &payload }; 10];
            journal.append(&records, durability).unwrap();
        }
        journal.settle().unwrap();
        let after = now(&counts);
        costs.push(std::array::from_fn(|at| after[at] - before[at]));
    }
    journal.close().unwrap();
    costs
}

#[test]
fn an_append_costs_the_same_whatever_is_there_already_j3() {
    for durability in [Durability::None, Durability::Interval, Durability::Durable] {
        let costs = cost_of_tenths(6000, durability, false);
        let [read, written, calls] = costs[9];
        let [_, first_written, first_calls] = costs[0];
        assert_eq!(read, 0, "an append reads nothing");
        // A record takes about 125 bytes, and with room made before it at most twice that.
        let appended = 600 * 10 * 125;
        let most = if durability == Durability::Durable { 220 } else { 110 };
        assert!(written * 100 < appended * most, "{written} bytes for {appended}");
        assert!(written * 20 < first_written * 21 && calls * 20 < first_calls * 21, "{durability:?}: {costs:?}");
    }
}

#[test]
fn with_footers_it_costs_each_segment_once_more_j3() {
    let costs = cost_of_tenths(6000, Durability::Durable, true);
    let ([read, written, calls], [first_read, first_written, first_calls]) = (costs[9], costs[0]);
    // The manifest grows by 72 bytes for a segment of 64 KiB.
    assert!(read * 4 < first_read * 5, "{costs:?}");
    assert!(written * 4 < first_written * 5, "{costs:?}");
    assert!(calls * 20 < first_calls * 21, "{costs:?}");
}

#[test]
fn a_lookup_by_key_touches_a_handful_of_frames() {
    let fs = Counting { disk: Disk::new(1), counts: Arc::default() };
    let counts = Arc::clone(&fs.counts);
    let env = Env { fs: Arc::new(fs), clock: Arc::<weir_sim::Clock>::default() };
    let options = Options { codec: Codec::None, segment_bytes_max: 1 << 20, ..Options::default() };
    let (journal, _) = Journal::open(env.clone(), Path::new("/journal"), "test", options).unwrap();
    let key = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (batches, size) = (400u64, 100);
    for batch in 0..batches {
        let keys: Vec<String> = (0..size).map(|n| key(batch * size + n)).collect();
        let records: Vec<Record<'_>> =
            keys.iter().map(|key| Record { time: 0, kind: 0, key: key.as_bytes(), payload: &[5; 100] }).collect();
        journal.append(&records, Durability::None).unwrap();
    }
    journal.rotate().unwrap();
    journal.settle().unwrap();
    let reader = Reader::open(env, Path::new("/journal")).unwrap();
    assert_eq!(reader.get(b"absent").unwrap(), None, "loads all footers");
    let before = now(&counts);
    let gets = 1000;
    for n in 0..gets {
        let wanted = key(n * 37 % (batches * size));
        assert_eq!(reader.get(wanted.as_bytes()).unwrap().unwrap().key, wanted.as_bytes());
    }
    let after = now(&counts);
    let (bytes, calls) = ((after[0] - before[0]) / gets, (after[2] - before[2]) / gets);
    // A block of keys, the header and the bytes of a frame, and the end of the last segment, which has no index.
    assert!(bytes < 40 << 10 && calls < 12, "{bytes} bytes and {calls} calls");
    let before = now(&counts);
    for n in 0..gets {
        assert_eq!(reader.get(format!("absent-{n}").as_bytes()).unwrap(), None);
    }
    let bytes = (now(&counts)[0] - before[0]) / gets;
    assert!(bytes < 2 << 10, "filters rule absent keys out: {bytes} bytes");
}
