//! Pages of an index, advisory records and policies: nothing panics, and every URL is one of http.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_deps::advisory::record;
use weir_deps::index::files;
use weir_deps::policy::Policy;

fuzz_target!(|data: &[u8]| {
    for kind in ["text/html", "application/json"] {
        if let Ok(found) = files::parse(data, kind, "https://index.test/simple/x/") {
            assert!(found.iter().all(|file| file.url.starts_with("http")));
            let _ = files::newest(&found, "x", "1.0");
        }
    }
    if let Ok(found) = record::parse(data) {
        for (_, record) in &found {
            let _ = (record.affects("1.0"), record.fixed_after("1.0"));
        }
    }
    let _ = Policy::parse(&String::from_utf8_lossy(data));
});
