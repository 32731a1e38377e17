//! C2 and S1: what is counted is what is there, and it never passes the limit.

use std::time::Duration;

use weir_base::{ByteSize, Kind};
use weir_cache::{Cache, CacheOptions, LIMIT_MIN, Policy, PutOptions};

use crate::{check_agreement, noise, open, options};

fn sized(dir: &std::path::Path, mib: u64, policy: Policy) -> Cache {
    let limit = Some(ByteSize::mib(mib));
    Cache::open(CacheOptions { limit, policy: Some(policy), ..options(dir) }).unwrap()
}

#[test]
fn the_limit_holds_for_every_policy_and_mixture() {
    for policy in [Policy::S3Fifo, Policy::Lru, Policy::Gdsf] {
        for lens in [&[500, 4000][..], &[40_000, 300_000], &[500, 40_000, 16_000, 300_000]] {
            let dir = tempfile::tempdir().unwrap();
            let cache = sized(dir.path(), 8, policy);
            let (mut written, mut number) = (0, 0u64);
            while written < 24 << 20 {
                let len = lens[number as usize % lens.len()];
                cache.put(format!("key-{number}"), &noise(number, len), &PutOptions::default()).unwrap();
                written += len;
                number += 1;
                if number.is_multiple_of(50) {
                    let (size, disk) = (cache.size().unwrap(), cache.scan_bytes().unwrap());
                    assert!(size.bytes <= size.limit && disk <= size.bytes, "C2: {policy} {lens:?} {disk} {size:?}");
                }
            }
            let size = cache.size().unwrap();
            assert!(
                size.bytes > size.limit * 3 / 4,
                "eviction leaves most of the room used: {policy} {lens:?} {size:?}"
            );
            let newest = cache.get(format!("key-{}", number - 1));
            assert!(newest.as_deref() == Some(&noise(number - 1, lens[(number - 1) as usize % lens.len()])[..]));
            check_agreement(&cache);
        }
    }
}

#[test]
fn small_values_give_their_pages_back_to_large_ones() {
    let dir = tempfile::tempdir().unwrap();
    let cache = sized(dir.path(), 8, Policy::S3Fifo);
    for number in 0..6000 {
        cache.put(format!("small-{number}"), &noise(number, 1500), &PutOptions::default()).unwrap();
    }
    for number in 0..40 {
        cache.put(format!("large-{number}"), &noise(number, 500_000), &PutOptions::default()).unwrap();
        let (size, disk) = (cache.size().unwrap(), cache.scan_bytes().unwrap());
        assert!(size.bytes <= size.limit && disk <= size.bytes, "C2: {disk} {size:?}");
    }
    assert!(cache.get("large-39").is_some());
    check_agreement(&cache);
}

#[test]
fn s1_items_entries_keys_and_tags_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(CacheOptions { entry_limit: Some(100), ..options(dir.path()) }).unwrap();
    let refused = |outcome: weir_cache::Result<weir_cache::Put>| outcome.unwrap_err().kind();
    assert_eq!(refused(cache.put("key", &noise(1, (4 << 20) + 1), &PutOptions::default())), Kind::Limit);
    assert_eq!(refused(cache.put("", b"", &PutOptions::default())), Kind::Invalid);
    assert_eq!(refused(cache.put("k".repeat(1025), b"", &PutOptions::default())), Kind::Invalid);
    let tags = (0..33).map(|number| number.to_string()).collect();
    assert_eq!(refused(cache.put("key", b"", &PutOptions { tags, ..PutOptions::default() })), Kind::Invalid);
    for number in 0..500 {
        cache.put(format!("key-{number}"), b"value", &PutOptions::default()).unwrap();
        assert!(cache.size().unwrap().entries <= 100);
    }
    assert!(cache.size().unwrap().entries > 90);
    assert_eq!(cache.set_limit(ByteSize::new(1)).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_lowered_limit_is_reached_in_bounded_steps() {
    let dir = tempfile::tempdir().unwrap();
    let cache = sized(dir.path(), 32, Policy::S3Fifo);
    for number in 0..8000 {
        let len = if number % 10 == 0 { 20_000 } else { 800 };
        cache.put(format!("key-{number}"), &noise(number, len), &PutOptions::default()).unwrap();
    }
    cache.set_limit(LIMIT_MIN).unwrap();
    assert!(cache.size().unwrap().bytes > LIMIT_MIN.bytes(), "nothing is scanned in the foreground");
    for _ in 0..200 {
        cache.collect(Duration::from_millis(50)).unwrap();
        let _ = cache.put("again", &noise(7, 3000), &PutOptions::default());
        if cache.size().unwrap().bytes <= LIMIT_MIN.bytes() {
            break;
        }
    }
    let (size, disk) = (cache.size().unwrap(), cache.scan_bytes().unwrap());
    assert!(size.bytes <= size.limit && disk <= size.bytes, "C2: {disk} {size:?}");
    cache.put("key", b"value", &PutOptions::default()).unwrap();
    check_agreement(&cache);
}

#[test]
fn equal_values_share_their_blob_within_and_between_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Cache::open(CacheOptions { limit: Some(ByteSize::mib(16)), ..CacheOptions::new(dir.path(), name) }).unwrap()
    };
    let (one, two) = (open("one"), open("two"));
    let value = noise(1, 1 << 20);
    for cache in [&one, &two] {
        for key in ["a", "b", "c"] {
            cache.put(key, &value, &PutOptions::default()).unwrap();
        }
        assert!(cache.size().unwrap().blob_bytes < 2 << 20, "three keys, one blob");
    }
    let blobs = |name: &str| {
        let shards = std::fs::read_dir(dir.path().join("ns").join(name).join("blobs")).unwrap();
        shards
            .flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap())
            .map(|file| file.unwrap())
            .collect::<Vec<_>>()
    };
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| blobs(name)[0].metadata().unwrap().ino();
    assert_eq!(inode("one"), inode("two"), "the bytes are there once");
    one.clear().unwrap();
    assert!(two.get("b").as_deref() == Some(&value[..]), "a namespace keeps its blob when another drops it");
    two.clear().unwrap();
    for cache in [&one, &two] {
        cache.put("d", b"", &PutOptions::default()).unwrap();
        check_agreement(cache);
    }
    let pooled: usize = std::fs::read_dir(dir.path().join("pool"))
        .unwrap()
        .map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(pooled, 0, "the last one takes the shared name with it");
}

/// Files of the staging folder.
fn staged(dir: &std::path::Path) -> Vec<String> {
    let files = std::fs::read_dir(dir.join("ns/test/staging")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn c2_the_file_of_a_removed_blob_is_written_over_unless_somebody_shares_it() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, plain) = (open(dir.path()), PutOptions::default());
    let cold = Cache::open(CacheOptions { memory_limit: ByteSize::new(0), ..options(dir.path()) }).unwrap();
    // The length goes up and down: what is longer than the spare gets a file of its own, what is shorter cuts it.
    for round in 0..40u64 {
        let value = noise(round, 20_000 + (round as usize % 5) * 1000);
        cache.put("key", &value, &plain).unwrap();
        assert!(cold.get("key").as_deref() == Some(&value[..]), "round {round}");
        let staged = staged(dir.path());
        assert!(staged.len() <= 1 && staged.iter().all(|name| name.ends_with("-spare")), "{staged:?}");
        check_agreement(&cache);
    }
    assert_eq!(staged(dir.path()).len(), 1, "one is kept");
    let other = Cache::open(CacheOptions { memory_limit: ByteSize::new(0), ..CacheOptions::new(dir.path(), "other") });
    let other = other.unwrap();
    let shared = noise(1000, 22_000);
    for owner in [&cache, &other] {
        owner.put("shared", &shared, &plain).unwrap();
    }
    for round in 2000..2010 {
        cache.put("shared", &noise(round, 22_000), &plain).unwrap();
        assert!(other.get("shared").as_deref() == Some(&shared[..]), "its bytes are another namespace's too");
    }
    check_agreement(&cache);
    drop(cold);
    drop(cache);
    assert!(staged(dir.path()).is_empty(), "a handle that ends leaves none");
    assert_eq!(open(dir.path()).size().unwrap().reserved_bytes, 0);
}

#[test]
fn equal_values_put_by_many_threads_at_once_are_all_stored() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let value = noise(7, 100_000);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (cache, value) = (&cache, &value);
            scope.spawn(move || {
                for round in 0..10 {
                    cache.put(format!("{thread}-{round}"), value, &PutOptions::default()).unwrap();
                }
            });
        }
    });
    assert_eq!(cache.size().unwrap().entries, 80);
    assert!(cache.size().unwrap().blob_bytes < 200_000, "one blob");
    check_agreement(&cache);
}

#[test]
fn frequent_entries_survive_a_scan_and_cheap_large_ones_go_first_under_gdsf() {
    let dir = tempfile::tempdir().unwrap();
    let cache = sized(dir.path(), 4, Policy::S3Fifo);
    for number in 0..100 {
        cache.put(format!("hot-{number}"), &noise(number, 1000), &PutOptions::default()).unwrap();
    }
    for round in 0..5000 {
        cache.get(format!("hot-{}", round % 100));
        cache.put(format!("scan-{round}"), &noise(round, 1000), &PutOptions::default()).unwrap();
    }
    let kept = (0..100).filter(|number| cache.get(format!("hot-{number}")).is_some()).count();
    assert!(kept > 90, "{kept} of 100 hot entries survived the scan");

    let dir = tempfile::tempdir().unwrap();
    let cache = sized(dir.path(), 4, Policy::Gdsf);
    let cost = |seconds| PutOptions { cost: Some(Duration::from_secs(seconds)), ..PutOptions::default() };
    for number in 0..50 {
        cache.put(format!("dear-{number}"), &noise(number, 2000), &cost(100)).unwrap();
    }
    for number in 0..5000 {
        cache.put(format!("cheap-{number}"), &noise(number, 2000), &cost(1)).unwrap();
    }
    let kept = (0..50).filter(|number| cache.get(format!("dear-{number}")).is_some()).count();
    assert!(kept > 45, "{kept} of 50 expensive entries survived");
}
