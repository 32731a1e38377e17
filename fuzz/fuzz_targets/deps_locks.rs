//! Lock files, requirement files and bills of materials: nothing panics, and no name leads out of a folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_deps::lock::{LockKind, parse};
use weir_deps::marker::Target;

const KINDS: [LockKind; 10] = [
    LockKind::Uv,
    LockKind::Pylock,
    LockKind::Poetry,
    LockKind::Pipfile,
    LockKind::Requirements,
    LockKind::Pyproject,
    LockKind::CycloneDx,
    LockKind::Spdx,
    LockKind::Cargo,
    LockKind::Npm,
];

// The first byte chooses the kind.
fuzz_target!(|data: &[u8]| {
    let [kind, body @ ..] = data else { return };
    let set =
        parse(KINDS[usize::from(*kind) % KINDS.len()], &String::from_utf8_lossy(body), "file", &Target::default());
    for package in &set.packages {
        assert!(!package.name.contains("..") && !package.name.starts_with('/'));
    }
});
