//! A folder as one value: tar, compressed with zstd, as CI caches do. Unpacking never writes outside its folder.

use std::io::Read;
use std::path::{Component, Path};

use weir_base::Kind;

use crate::error::{Error, Result};

/// A packed folder.
#[derive(Debug, Clone)]
pub struct PackedDirectory {
    /// tar in zstd.
    pub bytes: Vec<u8>,
    /// Files in it.
    pub files: u64,
}

/// Packs a folder, without following symbolic links; entries in name order with times cut to seconds, so that equal
/// folders give equal bytes.
///
/// # Errors
/// `Limit` above `bytes_max` packed bytes; `Unavailable` when something cannot be read.
pub fn pack_directory(dir: &Path, bytes_max: u64) -> Result<PackedDirectory> {
    let io = |error| Error::io(format!("cannot pack {}", dir.display()), error);
    let encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).map_err(io)?;
    let mut builder = tar::Builder::new(encoder);
    builder.follow_symlinks(false);
    let (mut files, mut pending) = (0, vec![std::path::PathBuf::new()]);
    while let Some(relative) = pending.pop() {
        let full = dir.join(&relative);
        let found = std::fs::symlink_metadata(&full).map_err(io)?;
        if !relative.as_os_str().is_empty() {
            builder.append_path_with_name(&full, &relative).map_err(io)?;
        }
        if found.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(&full)
                .map_err(io)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<_>>()
                .map_err(io)?;
            names.sort_by(|one, other| other.cmp(one));
            pending.extend(names.into_iter().map(|name| relative.join(name)));
        } else {
            files += 1;
        }
        if builder.get_ref().get_ref().len() as u64 > bytes_max {
            return Err(Error::new(Kind::Limit, format!("{} packs to more than {bytes_max} bytes", dir.display())));
        }
    }
    let bytes = builder.into_inner().and_then(zstd::stream::write::Encoder::finish).map_err(io)?;
    Ok(PackedDirectory { bytes, files })
}

/// Unpacks into `dir`; how many files.
///
/// # Errors
/// `Damaged` for bytes that are not a packed folder or name a path outside it, `Limit` above `bytes_max` unpacked bytes.
pub fn unpack_directory(packed: &[u8], dir: &Path, bytes_max: u64) -> Result<u64> {
    let damaged = |error| Error::wrap(Kind::Damaged, "not a packed folder", error);
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(damaged)?;
    let mut archive = tar::Archive::new(decoder.take(bytes_max));
    archive.set_preserve_permissions(true);
    let mut files = 0;
    let mut total = 0;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        total += entry.size();
        if total > bytes_max {
            return Err(Error::new(Kind::Limit, format!("the folder has more than {bytes_max} bytes")));
        }
        let path = entry.path().map_err(damaged)?.into_owned();
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        // `unpack_in` also refuses to write through a symbolic link that leads out.
        if !inside || !entry.unpack_in(dir).map_err(|error| Error::io("cannot unpack", error))? {
            return Err(Error::new(Kind::Damaged, format!("{} leads out of the folder", path.display())));
        }
        files += u64::from(!entry.header().entry_type().is_dir());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a real folder is what is packed")]
    fn folders_survive_and_hostile_ones_stay_inside() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), b"content").unwrap();
        std::os::unix::fs::symlink("b/file", from.path().join("a/link")).unwrap();
        let packed = pack_directory(from.path(), 1 << 20).unwrap();
        assert_eq!(packed.files, 2);
        assert_eq!(pack_directory(from.path(), 1 << 20).unwrap().bytes, packed.bytes);
        assert_eq!(unpack_directory(&packed.bytes, to.path(), 1 << 20).unwrap(), 2);
        assert_eq!(std::fs::read(to.path().join("a/link")).unwrap(), b"content");
        assert_eq!(unpack_directory(&packed.bytes[..20], to.path(), 1 << 20).unwrap_err().kind(), Kind::Damaged);

        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let hostile = zstd::bulk::compress(&builder.into_inner().unwrap(), 1).unwrap();
        assert_eq!(unpack_directory(&hostile, to.path(), 1 << 20).unwrap_err().kind(), Kind::Damaged);
        let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 1).unwrap();
        assert!(
            unpack_directory(&bomb, to.path(), 1 << 20).is_ok_and(|files| files == 0),
            "S1: at most 1 MiB is inflated"
        );
    }
}
