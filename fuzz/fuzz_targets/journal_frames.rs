//! The journal's decoders: any bytes to `weir_journal::fuzzing::frames`, which panics on what must not be.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_journal::fuzzing::frames(bytes));
