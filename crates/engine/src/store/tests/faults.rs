//! Faults between a put and its answer.
//!
//! The fault model: a put may be refused before it does anything; it may happen and its answer be lost; it may be answered
//! with an error and happen later, after the caller has looked.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use weir_base::Kind;

use super::*;
use crate::store::Change;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing happens.
    Refused,
    /// It happens; the caller sees an error.
    AnswerLost,
    /// The caller sees an error; it happens before the next put.
    Late,
    /// No fault.
    None,
}

/// Applies one fault to each put of a commit, in order.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<VecDeque<Fault>>,
    late: Mutex<Option<(Path, PutPayload, PutOptions)>>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let late = self.late.lock().unwrap().take();
        if let Some((location, payload, options)) = late {
            // Nobody waits for its outcome.
            let _ = self.inner.put_opts(&location, payload, options).await;
        }
        let commit = location.as_ref().ends_with(".json");
        let fault = if commit { self.faults.lock().unwrap().pop_front() } else { None };
        let lost = || Error::Generic { store: "faulty", source: "no answer".into() };
        match fault.unwrap_or(Fault::None) {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::Refused => Err(lost()),
            Fault::AnswerLost => {
                self.inner.put_opts(location, payload, options).await?;
                Err(lost())
            }
            Fault::Late => {
                *self.late.lock().unwrap() = Some((location.clone(), payload, options));
                Err(lost())
            }
        }
    }
    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct Bench {
    memory: Arc<dyn ObjectStore>,
    faulty: Arc<Faulty>,
}

impl Bench {
    async fn new() -> Self {
        let memory: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let faulty = Arc::new(Faulty { inner: Arc::clone(&memory), faults: Mutex::default(), late: Mutex::default() });
        let bench = Self { memory, faulty };
        bench.store(false).await.create_table("db", "cpu").await.unwrap();
        bench
    }

    async fn store(&self, faulty: bool) -> Store {
        let objects = if faulty { Arc::clone(&self.faulty) as Arc<dyn ObjectStore> } else { Arc::clone(&self.memory) };
        Store::open_objects(objects, &StoreOptions::default(), env()).await.unwrap()
    }

    fn inject(&self, faults: &[Fault]) {
        *self.faulty.faults.lock().unwrap() = faults.iter().copied().collect();
    }
}

#[tokio::test]
async fn a_commit_without_an_answer_happens_once_e1() {
    use Fault::{AnswerLost, Late, Refused};
    for faults in [&[Refused][..], &[AnswerLost], &[Late], &[Refused, AnswerLost], &[Late, Late], &[Late, Refused]] {
        let bench = Bench::new().await;
        let table = bench.store(true).await.create_table("db", "cpu").await.unwrap();
        for (txn, number) in [(Some(("w".to_owned(), 1)), 1), (None, 2)] {
            bench.inject(faults);
            let file = simple_file(&table, &[("a", number, number)]).await;
            table.commit(Change::flush(vec![file], txn)).await.unwrap();
        }
        let fresh = bench.store(false).await.table("db", "cpu").await.unwrap().unwrap();
        let snapshot = fresh.snapshot();
        assert_eq!(snapshot.version, 1, "{faults:?}");
        let rows = read_simple(&fresh, &snapshot).await;
        assert_eq!(rows, [("a".to_owned(), 1, 1), ("a".to_owned(), 2, 2)], "{faults:?}");
    }
}

/// R2: whatever becomes of the answer, the step is there once, and its `txn` tells the version of its commit.
#[tokio::test]
async fn a_step_without_an_answer_happens_once_r2() {
    use Fault::{AnswerLost, Late, Refused};
    for faults in [&[Refused][..], &[AnswerLost], &[Late], &[Refused, AnswerLost], &[Late, Late]] {
        let bench = Bench::new().await;
        let table = bench.store(true).await.create_table("db", "cpu").await.unwrap();
        let file = simple_file(&table, &[("a", 1, 1)]).await;
        table.commit(Change::flush(vec![file], None)).await.unwrap();
        let seen = table.snapshot();
        let step = crate::store::Step { operation: "op".to_owned(), number: 1 };
        bench.inject(faults);
        table.commit(Change::rewrite("DELETE", step, Arc::clone(&seen), seen.files.clone(), Vec::new())).await.unwrap();
        let after = bench.store(false).await.table("db", "cpu").await.unwrap().unwrap().snapshot();
        assert_eq!((after.version, after.files.len(), after.transactions["weir-op/op/1"]), (1, 0, 1), "{faults:?}");
    }
}

#[tokio::test]
async fn a_commit_that_another_writer_overtakes_while_unanswered_happens_once_e3() {
    for fault in [Fault::AnswerLost, Fault::Late, Fault::Refused] {
        let bench = Bench::new().await;
        let table = bench.store(true).await.create_table("db", "cpu").await.unwrap();
        let other = bench.store(false).await.create_table("db", "cpu").await.unwrap();
        let theirs = simple_file(&other, &[("b", 1, 1)]).await;
        other.commit(Change::flush(vec![theirs], None)).await.unwrap();
        bench.inject(&[fault]);
        let mine = simple_file(&table, &[("a", 1, 1)]).await;
        // Tried at version 0, which is taken, so the fault hits a lost race.
        table.commit(Change::flush(vec![mine], None)).await.unwrap();
        let snapshot = other.refresh().await.unwrap();
        assert_eq!((snapshot.version, snapshot.files.len()), (1, 2), "{fault:?}");
    }
}

/// The process dies after the put and before its answer; its successor replays the WAL.
#[tokio::test]
async fn after_a_crash_the_txn_decides_e1() {
    use Fault::{AnswerLost, Late, Refused};
    for faults in [[Refused; 3], [AnswerLost, Refused, Refused], [Late, Refused, Refused]] {
        let bench = Bench::new().await;
        let table = bench.store(true).await.create_table("db", "cpu").await.unwrap();
        bench.inject(&faults);
        let file = simple_file(&table, &[("a", 1, 1)]).await;
        // Gives up or learns of its success; a crash is a caller that does not look.
        let outcome = table.commit(Change::flush(vec![file], Some(("w".into(), 9)))).await;
        if let Err(error) = outcome {
            assert_eq!(error.kind(), Kind::Unavailable);
        }
        let successor = bench.store(false).await.create_table("db", "cpu").await.unwrap();
        let file = simple_file(&successor, &[("a", 1, 1)]).await;
        successor.commit(Change::flush(vec![file], Some(("w".into(), 9)))).await.unwrap();
        let snapshot = successor.refresh().await.unwrap();
        assert_eq!((snapshot.version, snapshot.files.len()), (0, 1), "{faults:?}");
        assert_eq!(snapshot.transactions["w"], 9);
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_and_loses_nothing_e4() {
    let bench = Bench::new().await;
    let table = bench.store(true).await.create_table("db", "cpu").await.unwrap();
    bench.inject(&[Fault::Refused; 3]);
    let file = simple_file(&table, &[("a", 1, 1)]).await;
    let change = Change::flush(vec![file], Some(("w".into(), 1)));
    let error = table.commit(change.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Unavailable, weir_base::Retry::Backoff));
    assert_eq!(table.commit(change).await.unwrap().version, 0);
}
