//! Metadata headers, licence expressions and texts: nothing panics, and a printed expression parses to itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_deps::licence::{expression, resolve, text};

fuzz_target!(|data: &[u8]| {
    let (metadata, _) = weir_deps::metadata::parse(data);
    let _ = resolve(&metadata, &[]);
    let words = String::from_utf8_lossy(data);
    let _ = text::detect(&words);
    if let Ok(parsed) = expression::parse(&words) {
        let again = expression::parse(&parsed.expression.to_string()).expect("a printed expression parses");
        assert_eq!(again.expression, parsed.expression);
    }
});
