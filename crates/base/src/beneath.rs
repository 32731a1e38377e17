//! Opening files of others for reading, without leaving a folder: neither `..` nor a symbolic link leads out of it.
//!
//! The kernel itself resolves the path within the folder where it can (Linux, `openat2`), so that nobody who changes names meanwhile gets
//! past it. Elsewhere the path is resolved first and opened then.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Opens `path`, which is below `root`, for reading. A file that is no plain file, such as a pipe, is opened without waiting.
///
/// # Errors
/// `PermissionDenied` when the path leads out of `root`; those of the file system.
pub fn open_beneath(root: &Path, path: &Path) -> io::Result<File> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(outside(path));
    }
    // The folder itself has the empty path.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match by_kernel(root, path) {
        Some(opened) => opened,
        None => by_resolving(root, path),
    }
}

/// Opens a file for reading wherever it lies. One that is no plain file, such as a pipe, is opened without waiting.
///
/// # Errors
/// Those of the file system.
pub fn open_anywhere(path: &Path) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(path, flags(), Mode::empty())?))
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK
}

/// `None` where the kernel cannot.
#[cfg(target_os = "linux")]
fn by_kernel(root: &Path, path: &Path) -> Option<io::Result<File>> {
    use rustix::fs::ResolveFlags;
    use rustix::io::Errno;

    let folder = match rustix::fs::open(root, flags() | OFlags::DIRECTORY, Mode::empty()) {
        Ok(folder) => folder,
        Err(error) => return Some(Err(error.into())),
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, path, flags(), Mode::empty(), resolve) {
        Ok(file) => Some(Ok(File::from(file))),
        Err(Errno::XDEV | Errno::LOOP) => Some(Err(outside(path))),
        // An old kernel, or one that hides the call.
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn by_kernel(_: &Path, _: &Path) -> Option<io::Result<File>> {
    None
}

fn by_resolving(root: &Path, path: &Path) -> io::Result<File> {
    let resolved = resolved_beneath(root, path)?;
    Ok(File::from(rustix::fs::open(&resolved, flags() | OFlags::NOFOLLOW, Mode::empty())?))
}

fn resolved_beneath(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    let resolved = root.join(path).canonicalize()?;
    if resolved.starts_with(&root) { Ok(resolved) } else { Err(outside(path)) }
}

fn outside(path: &Path) -> io::Error {
    let what = format!("'{}' leads out of the folder that may be read", path.display());
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "these tests make links on a real disk")]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("in");
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::write(outer.path().join("secret"), "no").unwrap();
        std::fs::write(root.join("deep/file"), "yes").unwrap();
        symlink(outer.path().join("secret"), root.join("absolute")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink("..", root.join("folder")).unwrap();
        symlink("deep/file", root.join("inside")).unwrap();
        let ways: [fn(&Path, &Path) -> io::Result<File>; 2] = [open_beneath, by_resolving];
        for open in ways {
            for good in ["deep/file", "./deep/file", "inside"] {
                let mut text = String::new();
                open(&root, Path::new(good)).unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text, "yes", "{good}");
            }
            for bad in ["absolute", "relative", "folder/secret"] {
                let error = open(&root, Path::new(bad)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{bad}: {error}");
            }
            assert_eq!(open(&root, Path::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        for bad in ["../secret", "deep/../../secret", "/etc/passwd"] {
            let error = open_beneath(&root, Path::new(bad)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{bad}: {error}");
        }
        assert!(open_beneath(&root, Path::new("")).unwrap().metadata().unwrap().is_dir());
    }
}
