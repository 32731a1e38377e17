//! Zip archives: nothing panics, no name leads outside, no entry passes its limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_deps::archive;

fuzz_target!(|data: &[u8]| {
    let Ok(entries) = archive::entries(&data) else { return };
    for entry in entries.iter().take(8) {
        assert!(!entry.name.split('/').any(|part| part == "..") && !entry.name.starts_with('/'));
        if let Ok(bytes) = archive::read(&data, entry, 1 << 16) {
            assert!(bytes.len() <= 1 << 16);
        }
    }
});
