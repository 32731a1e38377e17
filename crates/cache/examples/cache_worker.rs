//! A process that works on a cache until its time is over or it is killed; what the tests and benchmarks start many of.
//!
//! `cache_worker DIR NAMESPACE SEED SECONDS LARGEST` does random operations and checks every value that it reads: a value is
//! derived from its key, so a wrong byte is found. It exits with 9 for one, and prints the number of operations.

use std::time::{Duration, Instant};

use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, Compression, PutOptions};

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// `len` bytes that only this key can have: its hash, repeated with a counter.
fn value(key: &str, salt: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 32);
    bytes.extend_from_slice(&salt.to_le_bytes());
    while bytes.len() < len {
        let block = weir_base::checksum::blake3(format!("{key} {salt} {}", bytes.len()).as_bytes());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(len.max(8));
    bytes
}

fn is_right(key: &str, bytes: &[u8]) -> bool {
    let Some((salt, _)) = bytes.split_first_chunk::<8>() else { return false };
    bytes == value(key, u64::from_le_bytes(*salt), bytes.len())
}

#[allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::print_stdout,
    reason = "a test's process: its exit code is the finding"
)]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, namespace, seed, seconds, largest] = &arguments[..] else {
        std::process::exit(2);
    };
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let mut state = (number(seed) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let largest = number(largest) as u64;
    let until = Instant::now() + Duration::from_secs_f64(number(seconds));
    let options = CacheOptions {
        memory_limit: ByteSize::mib(if (number(seed) as u64).is_multiple_of(2) { 4 } else { 0 }),
        compression: if (number(seed) as u64).is_multiple_of(3) { Compression::Lz4 } else { Compression::None },
        lock_deadline: Duration::from_secs(20),
        ..CacheOptions::new(dir, namespace)
    };
    let cache = Cache::open(options).expect("the cache opens");
    let (mut done, mut refused) = (0u64, 0u64);
    while Instant::now() < until {
        let key = format!("key-{}", next(&mut state) % 400);
        let outcome = match next(&mut state) % 100 {
            0..50 => {
                if let Some(bytes) = cache.get(&key)
                    && !is_right(&key, &bytes)
                {
                    std::process::exit(9);
                }
                Ok(())
            }
            50..85 => {
                let len = 8 + next(&mut state) % if next(&mut state).is_multiple_of(3) { largest } else { 2000 };
                let options = PutOptions { tags: vec![format!("tag-{}", len % 7)], ..PutOptions::default() };
                // Half of the values are the same for a key and a length: shared blobs come and go.
                cache.put(&key, &value(&key, next(&mut state) % 2, len as usize), &options).map(drop)
            }
            85..95 => cache.delete(&key).map(drop),
            95 => cache.invalidate_tag(&format!("tag-{}", next(&mut state) % 7)).map(drop),
            96 => cache.collect(Duration::from_millis(5)).map(drop),
            97 => cache.put(&key, &value(&key, 1, 9), &PutOptions::ttl(Duration::from_millis(20))).map(drop),
            _ => cache.size().map(drop),
        };
        match outcome {
            Ok(()) => done += 1,
            Err(error) if matches!(error.kind(), weir_base::Kind::Limit | weir_base::Kind::Unavailable) => refused += 1,
            Err(error) => {
                println!("{}", weir_base::error::chain(&error));
                std::process::exit(8);
            }
        }
    }
    println!("{done} {refused}");
}
