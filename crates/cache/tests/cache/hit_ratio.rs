//! Eviction beside a reference S3-FIFO and LRU, on generated traces.

use std::time::Duration;

use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, Policy, PutOptions};

use crate::traces::{Reference, all, sized, zipf};
use crate::{noise, options};

fn ratio(cache: &Cache, trace: &[u64], len: impl Fn(u64) -> usize) -> f64 {
    let cost = PutOptions { cost: Some(Duration::from_millis(1)), ..PutOptions::default() };
    let mut hits = 0;
    for key in trace {
        let name = key.to_be_bytes();
        if cache.get(name).is_some() {
            hits += 1;
        } else {
            cache.put(name, &noise(*key, len(*key)), &cost).unwrap();
        }
    }
    f64::from(hits) / trace.len() as f64
}

#[test]
fn s3fifo_is_within_two_points_of_the_reference() {
    for (name, trace) in all() {
        for capacity in [200, 800] {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(CacheOptions {
                entry_limit: Some(capacity),
                memory_limit: ByteSize::new(0),
                ..options(dir.path())
            })
            .unwrap();
            let found = ratio(&cache, &trace, |_| 8);
            let mut reference = Reference::new(capacity as usize);
            let hits = trace.iter().filter(|key| reference.request(**key)).count();
            let wanted = hits as f64 / trace.len() as f64;
            assert!(found > wanted - 0.02, "{name}, {capacity} entries: {found:.3}, the reference has {wanted:.3}");
        }
    }
}

#[test]
fn gdsf_has_more_object_hits_than_lru_where_sizes_differ() {
    let trace = zipf(3000, 0.8, 12_000);
    let run = |policy| {
        let dir = tempfile::tempdir().unwrap();
        let limit = Some(ByteSize::mib(4));
        ratio(&Cache::open(CacheOptions { limit, policy: Some(policy), ..options(dir.path()) }).unwrap(), &trace, sized)
    };
    let (gdsf, lru) = (run(Policy::Gdsf), run(Policy::Lru));
    assert!(gdsf > lru + 0.02, "gdsf {gdsf:.3}, lru {lru:.3}");
}
