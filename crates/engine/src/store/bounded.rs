//! A remote store within its bounds: every call has a deadline over all its tries, few tries with full jitter under a budget
//! that all calls share, and a breaker that leaves a dead store alone (S1, S2). The deadline of one request is the client's.
//!
//! A call is one put, one get with its body, one whole listing, one part of an upload. Dropping it, which is also what its
//! deadline does, ends the request on the wire. An answer such as "not found" is an answer: it is neither tried again nor does it
//! count against the store. What a repeated put finds of its own first try is for the caller to judge, as the commits do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::time::Instant;
use weir_base::{Clock, Random};
use weir_limits::{Breaker, Retry, RetryBudget};

use super::remote::RemoteLimits;

/// A body up to this size is read within the tries of its request; a larger one is handed on as it comes, within the deadline.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Objects that are deleted by one call.
const DELETE_BATCH: usize = 1000;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a remote store offers: objects, and uploads whose parts can be sent again.
pub(super) trait Remote: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Remote for T {}

/// How the calls to a remote store went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteStats {
    /// Tries that were sent.
    pub tries: u64,
    /// Tries without a usable answer.
    pub failures: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Calls refused because the breaker was open.
    pub refused: u64,
    /// Whether the breaker is open.
    pub breaker_open: bool,
    /// The last failure, in words; `None` since the store answered again.
    pub failing: Option<String>,
}

/// Counts, breaker and budget, shared by all calls to one store.
#[derive(Debug)]
pub(super) struct Line {
    limits: RemoteLimits,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    breaker: Breaker,
    budget: RetryBudget,
    tries: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    refused: AtomicU64,
    failing: Mutex<Option<String>>,
}

impl Line {
    pub(super) fn new(limits: RemoteLimits, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            breaker: Breaker::new(limits.breaker_failures, limits.breaker_open),
            budget: RetryBudget::new(limits.retry_budget),
            limits,
            clock,
            random,
            tries: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failing: Mutex::default(),
        }
    }

    pub(super) fn stats(&self) -> RemoteStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RemoteStats {
            tries: read(&self.tries),
            failures: read(&self.failures),
            retries: read(&self.retries),
            refused: read(&self.refused),
            breaker_open: self.breaker.is_open(self.clock.as_ref()),
            failing: self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.limits.transfer_timeout
    }

    /// Calls until there is an answer, the tries or the budget are used up, the breaker opens, or the deadline passes.
    async fn call<T, F: Future<Output = Result<T>>>(&self, deadline: Instant, call: impl Fn(u32) -> F) -> Result<T> {
        let work = async {
            let tries_max = u32::try_from(self.limits.tries).unwrap_or(u32::MAX);
            let retry = Retry { tries_max, pause_first: PAUSE_FIRST, pause_max: PAUSE_MAX };
            let mut tries = 0;
            loop {
                let error = match self.attempt(|| call(tries)).await {
                    Attempt::Answered(answer) => return answer,
                    Attempt::Refused(error) => return Err(error),
                    Attempt::Failed(error) => error,
                };
                tries += 1;
                if tries >= retry.tries_max || !self.budget.take() {
                    return Err(error);
                }
                self.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(retry.pause(tries, self.random.as_ref())).await;
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let error = generic(format!("no answer within {:?}", self.limits.transfer_timeout));
                self.failed(&error);
                Err(error)
            }
        }
    }

    async fn attempt<T, F: Future<Output = Result<T>>>(&self, call: impl FnOnce() -> F) -> Attempt<T> {
        if !self.breaker.allows(self.clock.as_ref()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let last = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let told = last.map_or_else(String::new, |last| format!(": {last}"));
            return Attempt::Refused(generic(format!(
                "the store is left alone for a while after failures in a row{told}"
            )));
        }
        self.tries.fetch_add(1, Ordering::Relaxed);
        match call().await {
            Err(error) if !is_answer(&error) => {
                self.failed(&error);
                Attempt::Failed(error)
            }
            answer => {
                self.breaker.succeeded();
                self.budget.succeeded();
                *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Attempt::Answered(answer)
            }
        }
    }

    fn failed(&self, error: &Error) {
        self.breaker.failed(self.clock.as_ref());
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(weir_base::error::chain(error));
    }
}

enum Attempt<T> {
    Answered(Result<T>),
    Failed(Error),
    Refused(Error),
}

fn generic(what: String) -> Error {
    Error::Generic { store: "remote", source: what.into() }
}

/// Whether the store said something that another try would only hear again.
fn is_answer(error: &Error) -> bool {
    !matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

/// A remote store whose calls go through a [`Line`].
#[derive(Debug)]
pub(super) struct Bounded {
    inner: Arc<dyn Remote>,
    line: Arc<Line>,
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

impl Bounded {
    pub(super) fn new(inner: Arc<dyn Remote>, line: Arc<Line>) -> Self {
        Self { inner, line }
    }

    async fn call<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        self.line.call(self.line.deadline(), |_| call()).await
    }

    /// A listing as one call: its pages are tried together.
    fn listed(
        &self,
        list: impl Fn(&dyn Remote) -> BoxStream<'static, Result<ObjectMeta>> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, line) = (Arc::clone(&self.inner), Arc::clone(&self.line));
        let all = async move {
            let found = line.call(line.deadline(), |_| list(inner.as_ref()).try_collect::<Vec<_>>()).await?;
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }
}

#[async_trait]
impl ObjectStore for Bounded {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.call(|| self.inner.put_opts(location, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let deadline = self.line.deadline();
        let id = self.line.call(deadline, |_| self.inner.create_multipart(path)).await?;
        let (inner, line) = (Arc::clone(&self.inner), Arc::clone(&self.line));
        let upload = Upload { inner, line, path: path.clone(), id, deadline, begun: 0, size: 0, parts: Arc::default() };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let deadline = self.line.deadline();
        let get = |_| async {
            let found = self.inner.get_opts(location, options.clone()).await?;
            if options.head || found.range.end - found.range.start > BODY_BYTES_MAX {
                Ok(found)
            } else {
                whole(found).await
            }
        };
        let found = self.line.call(deadline, get).await?;
        Ok(match found.payload {
            GetResultPayload::Stream(body) => {
                GetResult { payload: GetResultPayload::Stream(until(deadline, body)), ..found }
            }
            _ => found,
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = |range| self.get_range(location, range);
        object_store::coalesce_ranges(ranges, get, object_store::OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, line) = (Arc::clone(&self.inner), Arc::clone(&self.line));
        let delete = move |batch: std::result::Result<Vec<Path>, stream::TryChunksError<Path, Error>>| {
            let (inner, line) = (Arc::clone(&inner), Arc::clone(&line));
            async move {
                let batch: Vec<Path> = batch.map_err(|error| error.1)?;
                let delete = |_| async {
                    let paths = stream::iter(batch.clone().into_iter().map(Ok)).boxed();
                    let (mut outcomes, mut deleting) = (Vec::new(), inner.delete_stream(paths));
                    while let Some(outcome) = deleting.next().await {
                        match outcome {
                            // All of it again: what has gone by then is not missed.
                            Err(error) if !is_answer(&error) => return Err(error),
                            outcome => outcomes.push(outcome),
                        }
                    }
                    Ok(outcomes)
                };
                Ok::<_, Error>(stream::iter(line.call(line.deadline(), delete).await?))
            }
        };
        locations.try_chunks(DELETE_BATCH).then(delete).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.listed(move |inner| inner.list(prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        self.listed(move |inner| {
            // Not every server knows this parameter (Azurite does not), and the client trusts it.
            let after = offset.clone();
            let listed = inner.list_with_offset(prefix.as_ref(), &offset);
            listed.try_filter(move |meta| std::future::ready(meta.location > after)).boxed()
        })
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}

/// The answer with its body read; one that is shorter or longer than announced is a failure.
async fn whole(found: GetResult) -> Result<GetResult> {
    let GetResult { payload, meta, range, attributes } = found;
    let GetResultPayload::Stream(body) = payload else {
        return Err(generic("the store answered with a file".to_owned()));
    };
    let pieces: Vec<Bytes> = body.try_collect().await?;
    let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    if bytes != range.end - range.start {
        return Err(generic(format!("{bytes} bytes came of '{}', not {}", meta.location, range.end - range.start)));
    }
    let payload = GetResultPayload::Stream(stream::iter(pieces.into_iter().map(Ok)).boxed());
    Ok(GetResult { payload, meta, range, attributes })
}

/// A body that ends with an error at the deadline.
fn until(deadline: Instant, body: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
    let next = move |mut body: BoxStream<'static, Result<Bytes>>| async move {
        match tokio::time::timeout_at(deadline, body.next()).await {
            Ok(piece) => piece.map(|piece| (piece, body)),
            Err(_) => {
                Some((Err(generic("a body did not come within its deadline".to_owned())), stream::empty().boxed()))
            }
        }
    };
    stream::unfold(body, next).boxed()
}

/// An upload in parts, all within one deadline; each part has its own tries.
struct Upload {
    inner: Arc<dyn Remote>,
    line: Arc<Line>,
    path: Path,
    id: String,
    deadline: Instant,
    begun: usize,
    size: u64,
    parts: Arc<Mutex<BTreeMap<usize, PartId>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("path", &self.path).field("begun", &self.begun).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let number = self.begun;
        self.begun += 1;
        self.size += data.content_length() as u64;
        let (inner, line, parts) = (Arc::clone(&self.inner), Arc::clone(&self.line), Arc::clone(&self.parts));
        let (path, id, deadline) = (self.path.clone(), self.id.clone(), self.deadline);
        Box::pin(async move {
            let part = line.call(deadline, |_| inner.put_part(&path, &id, number, data.clone())).await?;
            parts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts: Vec<PartId> =
            std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect();
        if parts.len() != self.begun {
            return Err(generic(format!("{} of {} parts were sent", parts.len(), self.begun)));
        }
        let (inner, path, id, size) = (&self.inner, &self.path, &self.id, self.size);
        let complete = |tries| {
            let parts = parts.clone();
            async move {
                match inner.complete_multipart(path, id, parts).await {
                    // An earlier try completed it and its answer was lost: then the object is there.
                    Err(Error::NotFound { .. }) if tries > 0 => {
                        let meta = inner.head(path).await?;
                        let complete = PutResult { e_tag: meta.e_tag, version: meta.version };
                        if meta.size == size {
                            Ok(complete)
                        } else {
                            Err(generic("an upload is not complete".to_owned()))
                        }
                    }
                    outcome => outcome,
                }
            }
        };
        self.line.call(self.deadline, complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        // It has a deadline of its own: what it cleans up may have used up the upload's.
        self.line.call(self.line.deadline(), |_| self.inner.abort_multipart(&self.path, &self.id)).await
    }
}
