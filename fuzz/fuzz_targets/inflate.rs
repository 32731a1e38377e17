//! Compressed streams: no input gets past a limit, and how it is cut into chunks never shows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_limits::inflate::{Budget, Encoding, Inflate, InflateLimits};

fn inflate<'a>(encoding: Encoding, chunks: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let limits = InflateLimits { text_bytes_max: 1 << 20, ratio_free_bytes: 1 << 16, ..InflateLimits::default() };
    let budget = Budget::new(1 << 20);
    let mut inflate = Inflate::new(encoding, limits, &budget).expect("decoders can be set up");
    let mut text = Vec::new();
    for chunk in chunks {
        let sink = &mut |piece: &[u8]| -> weir_limits::Result<()> {
            text.extend_from_slice(piece);
            Ok(())
        };
        if inflate.feed(chunk, sink).is_err() {
            return None;
        }
    }
    assert!(text.len() <= 1 << 20);
    inflate.finish().ok().map(|_| text)
}

fuzz_target!(|data: &[u8]| {
    let [kind, size, data @ ..] = data else { return };
    let encoding = if kind % 2 == 0 { Encoding::Gzip } else { Encoding::Zstd };
    let whole = inflate(encoding, std::iter::once(data));
    // Which limit stops a stream first may depend on the chunks; what comes out of a whole one may not.
    if let (Some(whole), Some(parts)) = (&whole, inflate(encoding, data.chunks(usize::from(*size) + 1))) {
        assert_eq!(*whole, parts);
    }
});
