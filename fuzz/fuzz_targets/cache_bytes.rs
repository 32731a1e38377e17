//! Bytes that the cache reads from where others may have written: remote packets, blob trailers, encoded values, packed folders.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_cache::fuzzing::every_decoder(bytes));
