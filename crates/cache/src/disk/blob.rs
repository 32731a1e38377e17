//! Blob files: staged, published by link, verified on read, shared between namespaces through the pool.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_base::checksum::{crc32c, hex};
use weir_base::{FileSystem, OpenMode};

/// The name of a blob: blake3 of its stored bytes.
pub(crate) type Hash = [u8; 32];

/// A file of `staging/`: its path, and of which writer and blob it is if its name says so.
pub(crate) type StagedFile = (PathBuf, Option<(i64, Option<Hash>)>);

const MAGIC: &[u8; 8] = b"WEIRBLB1";
/// Bytes after the trailer's body: CRC, length, magic.
const TAIL_BYTES: u64 = 16;
/// Longest trailer body that is read back.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// What a blob says about itself, so that a lost index can be rebuilt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trailer {
    pub(crate) namespace: String,
    pub(crate) key: String,
    pub(crate) version: i64,
    pub(crate) codec: i64,
    pub(crate) raw_len: u64,
    pub(crate) stored_len: u64,
    pub(crate) written_ms: i64,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) dead_ms: Option<i64>,
    pub(crate) cost_us: u64,
    pub(crate) tags: Vec<String>,
}

impl Trailer {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        let (crc, len) = (crc32c(&bytes), u32::try_from(bytes.len()).map_err(io::Error::other)?);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(bytes)
    }

    /// Decodes the trailer at the end of `tail`; `None` when there is none.
    pub(crate) fn decode(tail: &[u8]) -> Option<Self> {
        let rest = tail.strip_suffix(MAGIC)?;
        let (rest, len) = rest.split_last_chunk::<4>()?;
        let (rest, crc) = rest.split_last_chunk::<4>()?;
        let start = rest.len().checked_sub(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        let body = &rest[start..];
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        serde_json::from_slice(body).ok()
    }
}

/// The blob files of one namespace.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    pool: PathBuf,
    fs: Arc<dyn FileSystem>,
    shared: bool,
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Blobs {
    pub(crate) fn new(namespace: &Path, pool: PathBuf, fs: Arc<dyn FileSystem>, shared: bool) -> Self {
        Self { dir: namespace.to_path_buf(), pool, fs, shared }
    }

    fn sharded(root: &Path, hash: &Hash) -> PathBuf {
        let name = hex(hash);
        root.join(&name[..2]).join(name)
    }

    pub(crate) fn path(&self, hash: &Hash) -> PathBuf {
        Self::sharded(&self.dir.join("blobs"), hash)
    }

    fn pool_path(&self, hash: &Hash) -> PathBuf {
        Self::sharded(&self.pool, hash)
    }

    pub(crate) fn staging_path(&self, writer: i64, hash: &Hash) -> PathBuf {
        self.dir.join("staging").join(format!("{writer:016x}-{}", hex(hash)))
    }

    /// Reads `len` bytes and compares them with the name.
    ///
    /// # Errors
    /// `InvalidData` when they differ, `UnexpectedEof` when the file is short.
    pub(crate) fn read(&self, hash: &Hash, len: u64) -> io::Result<Vec<u8>> {
        let file = self.fs.open(&self.path(hash), OpenMode::Read)?;
        if file.len()? < len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "blob is short"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        if weir_base::checksum::blake3(&bytes) != *hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "blob is not what its name says"));
        }
        Ok(bytes)
    }

    /// Bytes that staging a value takes at most, before they are known.
    pub(crate) fn estimate(stored_len: u64, trailer: &Trailer) -> u64 {
        let tags: usize = trailer.tags.iter().map(|tag| tag.len() * 6 + 3).sum();
        let body = 400 + trailer.namespace.len() + trailer.key.len() + tags;
        (stored_len + body as u64).next_multiple_of(4096)
    }

    /// Writes the staging file, over the writer's spare if there is one, or links it to the pool's copy; gives the bytes it
    /// takes.
    pub(crate) fn stage(
        &self,
        writer: i64,
        hash: &Hash,
        stored: &[u8],
        trailer: &Trailer,
        spare: bool,
    ) -> io::Result<u64> {
        let staging = self.staging_path(writer, hash);
        let pool = self.pool_path(hash);
        let pooled = std::fs::metadata(&pool).ok().filter(|found| found.len() >= stored.len() as u64);
        if let Some(found) = pooled
            && self.fs.hard_link(&pool, &staging).is_ok()
        {
            return Ok(found.blocks() * 512);
        }
        let write = || -> io::Result<u64> {
            // Making a file costs several times what overwriting one does.
            let again = spare && self.fs.rename(&self.spare_path(writer), &staging).is_ok();
            let mode = if again { OpenMode::Write } else { OpenMode::CreateNew };
            let file = self.fs.open(&staging, mode)?;
            let trailer = trailer.encode()?;
            file.write_all_at(stored, 0)?;
            file.write_all_at(&trailer, stored.len() as u64)?;
            let len = (stored.len() + trailer.len()) as u64;
            if again && file.len()? > len {
                file.set_len(len)?;
            }
            if self.shared {
                std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o640))?;
            }
            Ok(self.fs.metadata(&staging)?.allocated)
        };
        write().inspect_err(|_| drop(self.fs.remove_file(&staging)))
    }

    /// Gives the staging file its final name, replacing what is there without being counted.
    pub(crate) fn publish(&self, writer: i64, hash: &Hash) -> io::Result<()> {
        let (from, to) = (self.staging_path(writer, hash), self.path(hash));
        match self.link_making_folder(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.fs.remove_file(&to)?;
                self.fs.hard_link(&from, &to)
            }
            other => other,
        }
    }

    fn link_making_folder(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.fs.hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = to.parent().unwrap_or(Path::new("."));
                self.fs.create_dir_all(folder)?;
                if self.shared {
                    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o750))?;
                }
                self.fs.hard_link(from, to)
            }
            other => other,
        }
    }

    /// After the commit: the staging name goes, the pool name comes (best effort: it only saves bytes elsewhere).
    pub(crate) fn settle(&self, writer: i64, hash: &Hash) {
        let _ = self.fs.remove_file(&self.staging_path(writer, hash));
        let _ = self.link_making_folder(&self.path(hash), &self.pool_path(hash));
    }

    pub(crate) fn remove_staging(&self, writer: i64, hash: &Hash) {
        let _ = self.fs.remove_file(&self.staging_path(writer, hash));
    }

    fn spare_path(&self, writer: i64) -> PathBuf {
        self.dir.join("staging").join(format!("{writer:016x}-spare"))
    }

    /// Bytes that a blob takes which no other namespace shares; `None` when one does. The pool's name is gone then.
    pub(crate) fn unshare(&self, hash: &Hash) -> Option<u64> {
        let path = self.path(hash);
        let mut found = std::fs::symlink_metadata(&path).ok()?;
        if found.nlink() == 2 {
            let pool = self.pool_path(hash);
            let pooled = std::fs::symlink_metadata(&pool).ok()?;
            if (pooled.ino(), pooled.dev()) != (found.ino(), found.dev()) {
                return None;
            }
            self.fs.remove_file(&pool).ok()?;
            // Another namespace may have linked it between the two looks; from here on none can.
            found = std::fs::symlink_metadata(&path).ok()?;
        }
        (found.nlink() == 1 && found.is_file()).then(|| found.blocks() * 512)
    }

    /// Makes the file of a removed blob the writer's spare, which the next blob overwrites. A reader that has it open finds
    /// other bytes than the name says, and looks for the row again.
    pub(crate) fn keep_spare(&self, writer: i64, hash: &Hash) -> io::Result<()> {
        self.fs.rename(&self.path(hash), &self.spare_path(writer))
    }

    pub(crate) fn remove_spare(&self, writer: i64) {
        let _ = self.fs.remove_file(&self.spare_path(writer));
    }

    /// Removes the namespace's name of a blob, and the pool's when it was the last.
    pub(crate) fn remove(&self, hash: &Hash) -> io::Result<()> {
        ignore_missing(self.fs.remove_file(&self.path(hash)))?;
        self.sweep_pool_file(&self.pool_path(hash)).map(drop)
    }

    /// Removes a pool file that no namespace uses.
    pub(crate) fn sweep_pool_file(&self, path: &Path) -> io::Result<bool> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.nlink() == 1) {
            ignore_missing(self.fs.remove_file(path))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes also the pool's name: the content is damaged.
    pub(crate) fn discard_from_pool(&self, hash: &Hash) {
        let _ = self.fs.remove_file(&self.pool_path(hash));
    }

    /// The key in the trailer gave the blob up: a rebuilt index must not bring it back.
    pub(crate) fn disown(&self, hash: &Hash) -> io::Result<()> {
        let file = match self.fs.open(&self.path(hash), OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let len = file.len()?;
        if len >= TAIL_BYTES { file.write_all_at(&[0; 8], len - 8) } else { Ok(()) }
    }

    /// Bytes allocated to a blob, `None` when it is missing.
    pub(crate) fn allocated(&self, hash: &Hash) -> io::Result<Option<u64>> {
        match self.fs.metadata(&self.path(hash)) {
            Ok(found) => Ok(Some(found.allocated)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hashes of the files in one of the 256 shards, and names that are no blob's.
    pub(crate) fn shard(&self, shard: u8) -> io::Result<(Vec<Hash>, Vec<PathBuf>)> {
        let (mut hashes, mut strangers) = (Vec::new(), Vec::new());
        for path in self.list(&self.dir.join("blobs").join(format!("{shard:02x}")))? {
            match path.file_name().and_then(|name| parse_hash(name.to_str()?)) {
                Some(hash) if hash[0] == shard => hashes.push(hash),
                _ => strangers.push(path),
            }
        }
        Ok((hashes, strangers))
    }

    /// Files of one pool shard.
    pub(crate) fn pool_shard(&self, shard: u8) -> io::Result<Vec<PathBuf>> {
        self.list(&self.pool.join(format!("{shard:02x}")))
    }

    /// Staging files: path, writer and hash, which a spare has not.
    pub(crate) fn staged(&self) -> io::Result<Vec<StagedFile>> {
        let parse = |path: &PathBuf| {
            let (writer, hash) = path.file_name()?.to_str()?.split_once('-')?;
            Some((u64::from_str_radix(writer, 16).ok()? as i64, parse_hash(hash)))
        };
        Ok(self.list(&self.dir.join("staging"))?.into_iter().map(|path| (path.clone(), parse(&path))).collect())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        match self.fs.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// The trailer of a blob file, if it has one that is whole.
    pub(crate) fn trailer(&self, hash: &Hash) -> io::Result<Option<Trailer>> {
        let file = self.fs.open(&self.path(hash), OpenMode::Read)?;
        let len = file.len()?;
        let take = len.min(BODY_BYTES_MAX + TAIL_BYTES);
        let mut tail = vec![0; usize::try_from(take).map_err(io::Error::other)?];
        file.read_exact_at(&mut tail, len - take)?;
        Ok(Trailer::decode(&tail))
    }

    pub(crate) fn remove_stranger(&self, path: &Path) -> io::Result<()> {
        ignore_missing(self.fs.remove_file(path))
    }
}

/// A hash from 64 lower-case hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(hash)
}
