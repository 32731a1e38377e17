//! Traces, and a reference S3-FIFO (Yang et al., SOSP 2023, algorithm 1), for the tests of eviction and the benchmark.

use std::collections::{HashMap, HashSet, VecDeque};

/// The algorithm as published: objects of one size, a small queue of a tenth, a ghost as long as the main queue.
#[derive(Default)]
pub(crate) struct Reference {
    capacity: usize,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghost: VecDeque<u64>,
    ghosts: HashSet<u64>,
    freq: HashMap<u64, u32>,
}

impl Reference {
    /// With room for `capacity` objects.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Asks for a key, which is stored when missing; whether it was there.
    pub(crate) fn request(&mut self, key: u64) -> bool {
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
pub(crate) fn zipf(keys: usize, exponent: f64, count: usize) -> Vec<u64> {
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

/// Zipf's law, and every thousand requests 500 keys that pass by and are never asked for again.
pub(crate) fn scan() -> Vec<u64> {
    let passing = |at: usize| if at.is_multiple_of(1000) { at as u64 * 1000..at as u64 * 1000 + 500 } else { 0..0 };
    let hot = zipf(4000, 0.9, 12_000).into_iter().enumerate();
    hot.flat_map(|(at, key)| std::iter::once(key).chain(passing(at).map(|number| number + 1_000_000))).collect()
}

/// The same keys over and over.
pub(crate) fn looping() -> Vec<u64> {
    (0..15_000).map(|number| number % 700).collect()
}

/// The traces by name.
pub(crate) fn all() -> [(&'static str, Vec<u64>); 3] {
    [("zipf", zipf(4000, 0.9, 20_000)), ("scan", scan()), ("loop", looping())]
}

/// Length of the value of a key in the sized trace: 200 bytes to 25 KiB.
pub(crate) fn sized(key: u64) -> usize {
    200 << (weir_base::checksum::blake3(&key.to_be_bytes())[0] % 8)
}
