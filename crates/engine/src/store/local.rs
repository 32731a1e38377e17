//! A folder as an object store whose puts are on the disk when they are answered.
//!
//! `object_store`'s own local store never syncs. Here a put is staged in `.weir-staging`, synced, given its name by a link
//! (create) or a rename (overwrite), and the folder is synced, as are the folders above it that were new. What a crash leaves in
//! the staging folder is swept at start. All calls block on the disk and therefore run on blocking threads.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path as OsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use weir_base::{Clock, File, FileSystem, OpenMode, Random};

const STORE: &str = "local";
/// The folder under the root for files on their way in.
pub const STAGING: &str = ".weir-staging";
/// Staged files that have not changed for this long belong to nobody. A put that is slower than this fails, and harms nothing.
const STAGING_AGE: Duration = Duration::from_secs(600);
const READ_CHUNK_BYTES: u64 = 8 << 20;

/// An object store in a folder. Clones share everything.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    fs: Arc<dyn FileSystem>,
    /// Makes staged names unique among processes; the counter among puts.
    instance: u64,
    staged: AtomicU64,
    /// Folders whose names are known to be on the disk.
    durable_dirs: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens the folder `root`, making it when missing, and sweeps what earlier crashes left in its staging folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(
        root: impl Into<PathBuf>,
        fs: Arc<dyn FileSystem>,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> io::Result<Self> {
        let root = root.into();
        let staging = root.join(STAGING);
        fs.create_dir_all(&staging)?;
        fs.sync_dir(&root)?;
        if let Some(above) = root.parent() {
            fs.sync_dir(if above.as_os_str().is_empty() { OsPath::new(".") } else { above })?;
        }
        let old = clock.now().saturating_sub(i64::try_from(STAGING_AGE.as_nanos()).unwrap_or(i64::MAX));
        for path in fs.list(&staging)? {
            if fs.metadata(&path).is_ok_and(|found| found.modified < old) {
                ignore_missing(fs.remove_file(&path))?;
            }
        }
        let durable_dirs = Mutex::new(HashSet::from([root.clone()]));
        let inner = Inner { root, fs, instance: random.next_u64(), staged: AtomicU64::new(0), durable_dirs };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder.
    pub fn root(&self) -> &OsPath {
        &self.inner.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await?;
        done.map_err(|error| to_error(location, error))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn to_error(location: &Path, error: io::Error) -> Error {
    let (path, kind) = (location.to_string(), error.kind());
    let source = Box::new(error);
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            Error::NotFound { path, source }
        }
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source },
        _ => Error::Generic { store: STORE, source },
    }
}

impl Inner {
    fn path_of(&self, location: &Path) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(location.as_ref().split('/').filter(|part| !part.is_empty()));
        path
    }

    fn stage_path(&self) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join(STAGING).join(format!("{:016x}-{number}", self.instance))
    }

    fn put(&self, location: &Path, payload: &PutPayload, create: bool) -> io::Result<PutResult> {
        let staged = self.stage_path();
        let done = self.write_staged(&staged, payload).and_then(|()| self.publish(&staged, location, create));
        if done.is_err() {
            // The error that matters is the first one; the sweep takes what cannot be removed now.
            let _ = self.fs.remove_file(&staged);
        }
        done
    }

    fn write_staged(&self, staged: &OsPath, payload: &PutPayload) -> io::Result<()> {
        let file = self.fs.open(staged, OpenMode::CreateNew)?;
        let mut offset = 0;
        for part in payload.iter() {
            file.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        file.sync_data()
    }

    /// Gives a synced staged file its name, durably.
    fn publish(&self, staged: &OsPath, location: &Path, create: bool) -> io::Result<PutResult> {
        let target = self.path_of(location);
        let dir = target.parent().unwrap_or(&self.root).to_owned();
        self.ensure_dir(&dir)?;
        if create {
            self.fs.hard_link(staged, &target)?;
            self.fs.sync_dir(&dir)?;
            self.fs.remove_file(staged)?;
        } else {
            self.fs.rename(staged, &target)?;
            self.fs.sync_dir(&dir)?;
        }
        let found = self.fs.metadata(&target)?;
        Ok(PutResult { e_tag: Some(e_tag(&found)), version: None })
    }

    /// Makes `dir` and syncs every name between it and the root, once.
    fn ensure_dir(&self, dir: &OsPath) -> io::Result<()> {
        let known = |dir: &OsPath| self.durable_dirs.lock().expect("no panic under this lock").contains(dir);
        if known(dir) {
            return Ok(());
        }
        self.fs.create_dir_all(dir)?;
        for above in dir.ancestors().skip(1) {
            self.fs.sync_dir(above)?;
            if above == self.root || known(above) {
                break;
            }
        }
        let between = dir.ancestors().take_while(|above| *above != self.root).map(OsPath::to_owned);
        self.durable_dirs.lock().expect("no panic under this lock").extend(between);
        Ok(())
    }

    fn open(&self, location: &Path) -> io::Result<(Arc<dyn File>, ObjectMeta)> {
        let path = self.path_of(location);
        let found = self.fs.metadata(&path)?;
        if found.is_dir {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((self.fs.open(&path, OpenMode::Read)?, object_meta(location.clone(), &found)))
    }

    /// Objects under `dir`, sorted by location; a folder that is not there is empty.
    fn walk(&self, dir: &OsPath, prefix: &str, objects: &mut Vec<ObjectMeta>) -> io::Result<()> {
        for (location, path, found) in self.entries(dir, prefix)? {
            if found.is_dir {
                self.walk(&path, &location, objects)?;
            } else {
                objects.push(object_meta(Path::parse(&location).map_err(io::Error::other)?, &found));
            }
        }
        Ok(())
    }

    fn entries(&self, dir: &OsPath, prefix: &str) -> io::Result<Vec<(String, PathBuf, weir_base::file::Metadata)>> {
        let listed = match self.fs.list(dir) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            other => other?,
        };
        let mut entries = Vec::with_capacity(listed.len());
        for path in listed {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if prefix.is_empty() && name == STAGING {
                continue;
            }
            let location = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            match self.fs.metadata(&path) {
                Ok(found) => entries.push((location, path, found)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(entries)
    }
}

fn e_tag(found: &weir_base::file::Metadata) -> String {
    format!("\"{:x}-{:x}\"", found.modified, found.len)
}

fn object_meta(location: Path, found: &weir_base::file::Metadata) -> ObjectMeta {
    let since = Duration::from_nanos(u64::try_from(found.modified).unwrap_or(0));
    ObjectMeta {
        location,
        last_modified: (UNIX_EPOCH + since).into(),
        size: found.len,
        e_tag: Some(e_tag(found)),
        version: None,
    }
}

fn read_range(file: &dyn File, range: &Range<u64>) -> io::Result<Bytes> {
    let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local({})", self.inner.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: STORE.into(),
                });
            }
        };
        let target = location.clone();
        self.blocking(location, move |inner| inner.put(&target, &payload, create)).await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let staged = self.inner.stage_path();
        let path = staged.clone();
        let file = self.blocking(location, move |inner| inner.fs.open(&path, OpenMode::CreateNew)).await?;
        Ok(Box::new(Upload { store: self.clone(), location: location.clone(), staged, file, offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let target = location.clone();
        let (file, meta) = self.blocking(location, move |inner| inner.open(&target)).await?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => {
                range.as_range(meta.size).map_err(|error| Error::Generic { store: STORE, source: Box::new(error) })?
            }
            None => 0..meta.size,
        };
        let rest = if options.head { range.start..range.start } else { range.clone() };
        let store = self.clone();
        let place = location.clone();
        let chunks = stream::try_unfold(rest, move |rest| {
            let (store, place, file) = (store.clone(), place.clone(), Arc::clone(&file));
            async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let chunk = rest.start..rest.end.min(rest.start + READ_CHUNK_BYTES);
                let next = chunk.end..rest.end;
                let bytes = store.blocking(&place, move |_| read_range(file.as_ref(), &chunk)).await?;
                Ok(Some((bytes, next)))
            }
        });
        Ok(GetResult {
            payload: GetResultPayload::Stream(chunks.boxed()),
            meta,
            range,
            attributes: object_store::Attributes::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (target, ranges) = (location.clone(), ranges.to_vec());
        self.blocking(location, move |inner| {
            let (file, _) = inner.open(&target)?;
            ranges.iter().map(|range| read_range(file.as_ref(), range)).collect()
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let target = location.clone();
                store.blocking(&location, move |inner| inner.fs.remove_file(&inner.path_of(&target))).await?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(8).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move {
            let under = prefix.clone();
            let walk = move |inner: &Inner| {
                let mut objects = Vec::new();
                inner.walk(&inner.path_of(&under), under.as_ref(), &mut objects)?;
                Ok(objects)
            };
            match store.blocking(&prefix, walk).await {
                Ok(objects) => stream::iter(objects.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(error) => stream::iter(vec![Err(error)]),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let under = prefix.clone();
        self.blocking(&prefix, move |inner| {
            let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
            for (location, _, found) in inner.entries(&inner.path_of(&under), under.as_ref())? {
                let location = Path::parse(&location).map_err(io::Error::other)?;
                if found.is_dir {
                    result.common_prefixes.push(location);
                } else {
                    result.objects.push(object_meta(location, &found));
                }
            }
            Ok(result)
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = matches!(options.mode, CopyMode::Create);
        let (source, target) = (from.clone(), to.clone());
        let payload: PutPayload =
            self.blocking(from, move |inner| inner.fs.read(&inner.path_of(&source))).await?.into();
        self.blocking(to, move |inner| inner.put(&target, &payload, create)).await?;
        Ok(())
    }
}

/// A put in parts: they go to one staged file, each at its offset, and `complete` publishes it.
#[derive(Debug)]
struct Upload {
    store: LocalStore,
    location: Path,
    staged: PathBuf,
    file: Arc<dyn File>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, location, file) = (self.store.clone(), self.location.clone(), Arc::clone(&self.file));
        let mut offset = self.offset;
        self.offset += data.content_length() as u64;
        Box::pin(async move {
            let write = move |_: &Inner| {
                for part in data.iter() {
                    file.write_all_at(part, offset)?;
                    offset += part.len() as u64;
                }
                Ok(())
            };
            store.blocking(&location, write).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (staged, target, file) = (self.staged.clone(), self.location.clone(), Arc::clone(&self.file));
        let publish = move |inner: &Inner| {
            file.sync_data()?;
            inner.publish(&staged, &target, false)
        };
        self.store.blocking(&self.location, publish).await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.clone();
        self.store.blocking(&self.location, move |inner| ignore_missing(inner.fs.remove_file(&staged))).await
    }
}
