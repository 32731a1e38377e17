//! Eviction beside a reference S3-FIFO (Yang et al., SOSP 2023, algorithm 1) and LRU, on generated traces.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, Policy, PutOptions};

use crate::{noise, options};

/// The algorithm as published: objects of one size, a small queue of a tenth, a ghost as long as the main queue.
#[derive(Default)]
struct Reference {
    capacity: usize,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghost: VecDeque<u64>,
    ghosts: HashSet<u64>,
    freq: HashMap<u64, u32>,
}

impl Reference {
    fn request(&mut self, key: u64) -> bool {
        if let Some(freq) = self.freq.get_mut(&key) {
            *freq = (*freq + 1).min(3);
            return true;
        }
        while self.small.len() + self.main.len() >= self.capacity {
            if self.small.len() * 10 >= self.capacity || self.main.is_empty() {
                self.evict_small()
            } else {
                self.evict_main()
            }
        }
        if self.ghosts.remove(&key) {
            self.main.push_back(key)
        } else {
            self.small.push_back(key)
        }
        self.freq.insert(key, 0);
        false
    }

    fn evict_small(&mut self) {
        while let Some(key) = self.small.pop_front() {
            if self.freq[&key] > 1 {
                self.freq.insert(key, 0);
                self.main.push_back(key);
                continue;
            }
            self.freq.remove(&key);
            self.ghosts.insert(key);
            self.ghost.push_back(key);
            if self.ghost.len() > self.capacity * 9 / 10
                && let Some(old) = self.ghost.pop_front()
            {
                self.ghosts.remove(&old);
            }
            return;
        }
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.pop_front() {
            let freq = self.freq[&key];
            if freq == 0 {
                self.freq.remove(&key);
                return;
            }
            self.freq.insert(key, freq - 1);
            self.main.push_back(key);
        }
    }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Keys by Zipf's law of the given exponent.
fn zipf(keys: usize, exponent: f64, count: usize) -> Vec<u64> {
    let mut sum = 0.0;
    let steps: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut state = 88_172_645_463_325_252;
    (0..count)
        .map(|_| {
            let at = (next(&mut state) >> 11) as f64 / (1u64 << 53) as f64 * sum;
            steps.partition_point(|step| *step < at) as u64
        })
        .collect()
}

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
    let scan = zipf(4000, 0.9, 12_000).into_iter().enumerate().flat_map(|(at, key)| {
        // Every thousand requests, 500 keys pass by that nobody asks for again.
        let passing = if at % 1000 == 0 { at as u64 * 1000..at as u64 * 1000 + 500 } else { 0..0 };
        std::iter::once(key).chain(passing.map(|number| number + 1_000_000))
    });
    let looping = (0..15_000).map(|number| number % 700);
    let traces = [("zipf", zipf(4000, 0.9, 20_000)), ("scan", scan.collect()), ("loop", looping.collect())];
    for (name, trace) in traces {
        for capacity in [200, 800] {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(CacheOptions {
                entry_limit: Some(capacity),
                memory_limit: ByteSize::new(0),
                ..options(dir.path())
            })
            .unwrap();
            let found = ratio(&cache, &trace, |_| 8);
            let mut reference = Reference { capacity: capacity as usize, ..Reference::default() };
            let hits = trace.iter().filter(|key| reference.request(**key)).count();
            let wanted = hits as f64 / trace.len() as f64;
            assert!(found > wanted - 0.02, "{name}, {capacity} entries: {found:.3}, the reference has {wanted:.3}");
        }
    }
}

#[test]
fn gdsf_has_more_object_hits_than_lru_where_sizes_differ() {
    let trace = zipf(3000, 0.8, 12_000);
    let len = |key: u64| 200 << (weir_base::checksum::blake3(&key.to_be_bytes())[0] % 8);
    let run = |policy| {
        let dir = tempfile::tempdir().unwrap();
        let limit = Some(ByteSize::mib(4));
        ratio(&Cache::open(CacheOptions { limit, policy: Some(policy), ..options(dir.path()) }).unwrap(), &trace, len)
    };
    let (gdsf, lru) = (run(Policy::Gdsf), run(Policy::Lru));
    assert!(gdsf > lru + 0.02, "gdsf {gdsf:.3}, lru {lru:.3}");
}
