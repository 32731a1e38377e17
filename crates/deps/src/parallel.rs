//! A bounded set of threads over a list: results in the order of the input.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Applies `work` to every item on at most `threads` threads. A panic of `work` is passed on.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads.clamp(1, items.len().max(1));
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut parts: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { return done };
                done.push((at, work(item)));
            }
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for other in others {
            match other.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    parts.sort_unstable_by_key(|(at, _)| *at);
    parts.into_iter().map(|(_, result)| result).collect()
}

/// Threads for work that waits for the disk: two per core, at most 16.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get()).saturating_mul(2).min(16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_the_order_of_the_input() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(super::map(&items, 7, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(super::map(&[] as &[u32], 4, |n| *n).is_empty());
    }
}
