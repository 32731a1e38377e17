//! Files on this machine, read only, and only where the operator says so.
//!
//! DataFusion sees them as an object store whose paths are absolute ones without their first slash. Every file is opened below an allowed
//! folder in such a way that neither `..` nor a symbolic link leads out of it (`weir_base::beneath`), whatever was checked before.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use weir_base::Kind;
use weir_base::beneath::{open_anywhere, open_beneath};

use crate::error::{Error, Result};

/// Under this URL plans name the files.
pub(crate) const LOCAL_URL: &str = "weir-external://local/";
const STORE: &str = "local";
const SETTING: &str = "query_external_locations";
const READ_CHUNK_BYTES: u64 = 1 << 20;

/// Where files of external tables may lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Locations {
    /// Nobody has said: nowhere.
    #[default]
    Unset,
    /// Wherever this process may read, for one who asks their own database.
    Anywhere,
    /// Below these folders.
    Below(Vec<PathBuf>),
}

impl Locations {
    /// Where nobody has said, all that this process may read: for one who asks their own database.
    pub fn or_anywhere(&mut self) {
        if *self == Self::Unset {
            *self = Self::Anywhere;
        }
    }
}

/// The files that may be read.
#[derive(Debug, Clone)]
pub(crate) struct LocalFiles {
    allowed: Locations,
    files_max: usize,
}

/// What a location turned out to be.
#[derive(Debug)]
pub(crate) enum Place {
    File(ObjectMeta),
    Folder(PathBuf),
}

impl LocalFiles {
    pub(crate) fn new(allowed: Locations, files_max: usize) -> Self {
        Self { allowed, files_max }
    }

    pub(crate) fn files_max(&self) -> usize {
        self.files_max
    }

    /// The absolute path that a `LOCATION` names.
    pub(crate) fn path_of(location: &str) -> Result<PathBuf> {
        let path = location.strip_prefix("file://").unwrap_or(location);
        if path.contains("://") {
            return Err(Error::invalid(format!(
                "'{location}' is not on this machine: an external table is a path here"
            )));
        }
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("'{location}' is not an absolute path")));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!("'{location}' has '..' in it")));
        }
        Ok(PathBuf::from(path.trim_end_matches('/')))
    }

    /// The file or folder at a path.
    pub(crate) async fn find(&self, path: PathBuf) -> Result<Place> {
        self.blocking(move |files| {
            let found = files.open(&path).and_then(|file| file.metadata()).map_err(|error| files.told(&path, error))?;
            if found.is_dir() {
                return Ok(Place::Folder(path));
            }
            Ok(Place::File(files.meta(&path, &found).map_err(|error| files.told(&path, error))?))
        })
        .await
    }

    /// The files of a folder and of those in it that end in one of `extensions`, by path. Names that begin with `.` or `_` are passed over.
    pub(crate) async fn walk(&self, folder: PathBuf, extensions: &'static [&'static str]) -> Result<Vec<ObjectMeta>> {
        self.blocking(move |files| {
            let (mut found, mut seen) = (Vec::new(), 0);
            files.walk_into(&folder, extensions, &mut seen, &mut found)?;
            found.sort_by(|one, other| one.location.cmp(&other.location));
            Ok(found)
        })
        .await
    }

    fn walk_into(
        &self,
        folder: &Path,
        extensions: &[&str],
        seen: &mut usize,
        found: &mut Vec<ObjectMeta>,
    ) -> Result<()> {
        let told = |path: &Path, error| self.told(path, error);
        // Refuses a folder that a link has led out by now.
        self.open(folder).map_err(|error| told(folder, error))?;
        for entry in folder.read_dir().map_err(|error| told(folder, error))? {
            let entry = entry.map_err(|error| told(folder, error))?;
            let (path, name) = (entry.path(), entry.file_name());
            *seen += 1;
            if *seen > self.files_max {
                return Err(Error::new(
                    Kind::Limit,
                    format!(
                        "more than {} files and folders are below it (setting query_external_files_max)",
                        self.files_max
                    ),
                ));
            }
            if name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"_") {
                continue;
            }
            let kind = entry.file_type().map_err(|error| told(&path, error))?;
            if kind.is_dir() {
                self.walk_into(&path, extensions, seen, found)?;
                continue;
            }
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            let meant = extensions.iter().any(|known| known.eq_ignore_ascii_case(extension));
            if !meant && !kind.is_symlink() {
                continue;
            }
            let about = self.open(&path).and_then(|file| file.metadata()).map_err(|error| told(&path, error))?;
            if about.is_dir() {
                let what = format!("'{}' is a link to a folder, which is not followed", path.display());
                return Err(Error::invalid(what));
            }
            if meant {
                found.push(self.meta(&path, &about).map_err(|error| told(&path, error))?);
            }
        }
        Ok(())
    }

    /// Opens what may be read.
    fn open(&self, path: &Path) -> io::Result<File> {
        let folders = match &self.allowed {
            Locations::Anywhere => return open_anywhere(path),
            Locations::Unset => &[],
            Locations::Below(folders) => folders.as_slice(),
        };
        for folder in folders {
            if let Ok(rest) = path.strip_prefix(folder) {
                return open_beneath(folder, rest);
            }
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "no folder of the setting holds it"))
    }

    fn told(&self, path: &Path, error: io::Error) -> Error {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Error::new(
                Kind::Forbidden,
                format!("'{path}' may not be read: external tables lie below the folders of the setting {SETTING}"),
            ),
            io::ErrorKind::NotFound => Error::new(Kind::NotFound, format!("'{path}' is not there")),
            _ => Error::io(format!("'{path}' cannot be read"), error),
        }
    }

    fn meta(&self, path: &Path, about: &std::fs::Metadata) -> io::Result<ObjectMeta> {
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        Ok(ObjectMeta {
            location: object_path(path)?,
            last_modified: about.modified()?.into(),
            size: about.len(),
            e_tag: None,
            version: None,
        })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let files = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.map_err(|error| Error::wrap(Kind::Internal, "reading an external table panicked", error))?
    }

    /// For the calls of an object store.
    async fn stored<T: Send + 'static>(
        &self,
        location: &ObjectPath,
        work: impl FnOnce(&Self, &Path) -> io::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (files, path) = (self.clone(), file_path(location));
        let done = tokio::task::spawn_blocking(move || work(&files, &path)).await;
        let done = done.map_err(|error| StoreError::Generic { store: STORE, source: Box::new(error) })?;
        done.map_err(|error| {
            let (path, source) = (location.to_string(), Box::new(error));
            match source.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound { path, source },
                io::ErrorKind::PermissionDenied => StoreError::PermissionDenied { path, source },
                _ => StoreError::Generic { store: STORE, source },
            }
        })
    }
}

/// The path in the object store of an absolute one.
pub(crate) fn object_path(path: &Path) -> io::Result<ObjectPath> {
    let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8"))?;
    ObjectPath::parse(text.trim_start_matches('/')).map_err(io::Error::other)
}

fn file_path(path: &ObjectPath) -> PathBuf {
    PathBuf::from(format!("/{path}"))
}

fn read_range(file: &File, range: &Range<u64>) -> io::Result<Bytes> {
    let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

fn read_only<T>() -> StoreResult<T> {
    Err(StoreError::NotImplemented { operation: "a write".into(), implementer: STORE.into() })
}

impl fmt::Display for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files of external tables")
    }
}

#[async_trait]
impl ObjectStore for LocalFiles {
    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> StoreResult<GetResult> {
        let open = |files: &Self, path: &Path| {
            let file = files.open(path)?;
            let meta = files.meta(path, &file.metadata()?)?;
            Ok((Arc::new(file), meta))
        };
        let (file, meta) = self.stored(location, open).await?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| StoreError::Generic { store: STORE, source: Box::new(error) })?,
            None => 0..meta.size,
        };
        let rest = if options.head { range.start..range.start } else { range.clone() };
        let (store, place) = (self.clone(), location.clone());
        let chunks = stream::try_unfold(rest, move |rest| {
            let (store, place, file) = (store.clone(), place.clone(), Arc::clone(&file));
            async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let chunk = rest.start..rest.end.min(rest.start + READ_CHUNK_BYTES);
                let next = chunk.end..rest.end;
                let bytes = store.stored(&place, move |_, _| read_range(&file, &chunk)).await?;
                Ok(Some((bytes, next)))
            }
        });
        let payload = GetResultPayload::Stream(chunks.boxed());
        Ok(GetResult { payload, meta, range, attributes: object_store::Attributes::default() })
    }

    /// The files of one folder: the log of a Delta table.
    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (files, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move {
            let walked = files.stored(&prefix, |files, path| {
                let mut found = Vec::new();
                files.open(path)?;
                for entry in path.read_dir()? {
                    let path = entry?.path();
                    let about = files.open(&path)?.metadata()?;
                    if about.is_file() {
                        found.push(files.meta(&path, &about)?);
                    }
                    if found.len() > files.files_max {
                        return Err(io::Error::other("too many files (setting query_external_files_max)"));
                    }
                }
                found.sort_by(|one, other| one.location.cmp(&other.location));
                Ok(found)
            });
            match walked.await {
                Ok(found) => stream::iter(found.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(StoreError::NotFound { .. }) => stream::iter(Vec::new()),
                Err(error) => stream::iter(vec![Err(error)]),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&ObjectPath>) -> StoreResult<ListResult> {
        Err(StoreError::NotImplemented { operation: "a listing by folder".into(), implementer: STORE.into() })
    }

    async fn put_opts(&self, _: &ObjectPath, _: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        read_only()
    }

    async fn put_multipart_opts(
        &self,
        _: &ObjectPath,
        _: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        read_only()
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<ObjectPath>>,
    ) -> BoxStream<'static, StoreResult<ObjectPath>> {
        locations.map(|_| read_only()).boxed()
    }

    async fn copy_opts(&self, _: &ObjectPath, _: &ObjectPath, _: CopyOptions) -> StoreResult<()> {
        read_only()
    }
}
