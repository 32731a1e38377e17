//! Semantics over memory and disk.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use weir_base::ByteSize;
use weir_cache::{Answer, Cache, CacheOptions, Compression, KEY_BYTES_MAX, Lookup, Op, Put, PutOptions};

use crate::{SetClock, check_agreement, noise, open, open_at, options};

const SIZES: [usize; 7] = [0, 1, 4000, 16 << 10, (16 << 10) + 1, 100_000, 1 << 20];

#[test]
fn values_of_every_size_come_back_through_every_level_and_codec() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheOptions { compression, ..options(dir.path()) }).unwrap();
        for (seed, len) in SIZES.into_iter().enumerate() {
            for (name, value) in [("noise", noise(seed as u64, len)), ("text", b"weir ".repeat(len / 5))] {
                let key = format!("{name}-{len}");
                cache.put(&key, &value, &PutOptions::default()).unwrap();
                assert!(cache.get(&key).as_deref() == Some(&value[..]), "{key} from memory");
                let cold = Cache::open(CacheOptions { memory_limit: ByteSize::new(0), ..options(dir.path()) }).unwrap();
                assert!(cold.get(&key).as_deref() == Some(&value[..]), "{key} from disk");
            }
        }
        check_agreement(&cache);
    }
}

#[test]
fn a_memory_hit_never_outlives_a_write_of_another_handle() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()), open(dir.path()));
    for round in 0..50u32 {
        let value = round.to_le_bytes();
        one.put("key", &value, &PutOptions::default()).unwrap();
        assert!(two.get("key").as_deref() == Some(&value[..]));
        assert!(two.get("key").as_deref() == Some(&value[..]), "from memory");
        // A write of something else makes the next hit compare versions, and the one after not.
        one.put("other", b"", &PutOptions::default()).unwrap();
        assert!(two.get("key").as_deref() == Some(&value[..]));
        // Each way of removing it is seen at once, also where it does not name the key.
        let tagged = PutOptions { tags: vec!["tag".into()], ..PutOptions::default() };
        one.put("key", &value, &tagged).unwrap();
        assert!(two.get("key").is_some() && two.get("key").is_some());
        let deletes = [Op::Delete { key: b"key".into() }, Op::Delete { key: b"none".into() }];
        match round % 6 {
            0 => assert!(one.delete("key").unwrap()),
            1 => assert_eq!(one.invalidate_tag("tag").unwrap(), 1),
            2 => assert_eq!(one.invalidate_prefix("ke").unwrap(), 1),
            3 => drop(one.batch(&deletes).unwrap()),
            4 => assert_eq!(one.clear().unwrap(), 2),
            _ => assert_ne!(one.put_absent("key", &PutOptions::default()).unwrap(), Put::Refused),
        }
        assert_eq!(two.get("key"), None, "round {round}");
    }
}

#[test]
fn time_to_live_stale_time_and_a_clock_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let cache = open_at(dir.path(), &clock);
    let options = PutOptions { stale: Some(Duration::from_secs(50)), ..PutOptions::ttl(Duration::from_secs(100)) };
    cache.put("short", b"1", &options).unwrap();
    cache.put("for ever", b"2", &PutOptions::default()).unwrap();
    cache.put_absent("absent", &PutOptions::ttl(Duration::from_secs(100))).unwrap();
    assert_eq!(cache.lookup("absent"), Lookup::Absent);
    let is_stale = |cache: &Cache| match cache.lookup("short") {
        Lookup::Hit(entry) => Some(entry.stale),
        _ => None,
    };
    for cold in [false, true] {
        let other;
        let cache = if cold {
            other = open_at(dir.path(), &clock);
            &other
        } else {
            &cache
        };
        for (moved, found) in [(99, Some(false)), (101, Some(true)), (149, Some(true)), (151, None), (-1000, None)] {
            clock.move_by(moved);
            assert_eq!(is_stale(cache), found, "C1: after {moved} s");
            assert!(cache.get("for ever").is_some(), "C1: what has no lifetime is not touched by the clock");
            clock.move_by(-moved);
        }
    }
    clock.move_by(200);
    assert_eq!(cache.lookup("absent"), Lookup::Miss);
    let done = cache.collect(Duration::from_secs(5)).unwrap();
    assert_eq!(done.expired + 2, 2 + done.expired);
    assert_eq!(cache.size().unwrap().entries, 1);
}

#[test]
fn tags_and_prefixes_remove_what_they_name_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let tagged =
        |tags: &[&str]| PutOptions { tags: tags.iter().map(|tag| (*tag).into()).collect(), ..PutOptions::default() };
    for number in 0..1200 {
        let len = if number % 100 == 0 { 20_000 } else { 10 };
        cache.put(format!("a/{number}"), &noise(number, len), &tagged(&["red", "all"])).unwrap();
    }
    cache.put("b", b"b", &tagged(&["blue", "all"])).unwrap();
    cache.put([255u8, 255].as_slice(), b"last", &PutOptions::default()).unwrap();
    cache.put([255u8].as_slice(), b"last", &PutOptions::default()).unwrap();
    assert_eq!(cache.invalidate_tag("none").unwrap(), 0);
    assert_eq!(cache.invalidate_tag("red").unwrap(), 1200);
    assert!(cache.get("a/7").is_none() && cache.get("b").is_some());
    cache.put("b", b"b", &PutOptions::default()).unwrap();
    assert_eq!(cache.invalidate_tag("blue").unwrap(), 0, "a new value has its own tags only");
    assert_eq!(cache.invalidate_prefix([255u8, 255]).unwrap(), 1);
    assert_eq!(cache.invalidate_prefix("b").unwrap(), 1);
    assert_eq!(cache.clear().unwrap(), 1);
    check_agreement(&cache);
}

#[test]
fn compare_and_set_lets_one_of_many_win_and_write_once_keeps_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number: u8| {
                let cache = open(dir.path());
                scope.spawn(move || cache.compare_and_set("key", None, &[number], &PutOptions::default()).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap() != Put::Refused)).sum()
    });
    assert_eq!(won, 1);
    let Lookup::Hit(entry) = cache.lookup("key") else { panic!("no entry") };
    assert!(matches!(
        cache.compare_and_set("key", Some(entry.version), b"2", &PutOptions::default()),
        Ok(Put::Stored(_))
    ));
    assert_eq!(cache.compare_and_set("key", Some(entry.version), b"3", &PutOptions::default()).unwrap(), Put::Refused);
    assert_eq!(cache.get("key").as_deref(), Some(&b"2"[..]));

    let once = Cache::open(CacheOptions { write_once: true, ..CacheOptions::new(dir.path(), "once") }).unwrap();
    assert!(matches!(once.put("key", b"first", &PutOptions::default()), Ok(Put::Stored(_))));
    assert_eq!(once.put("key", &noise(1, 50_000), &PutOptions::default()).unwrap(), Put::Refused);
    assert_eq!(once.get("key").as_deref(), Some(&b"first"[..]));
    check_agreement(&once);
}

#[test]
fn a_batch_answers_in_order_and_says_which_entries_failed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let put = |key: &str, len| Op::Put { key: key.into(), value: noise(1, len), options: PutOptions::default() };
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let ops = [
        put("a", 10),
        put("b", 60_000),
        put(&long, 1),
        put("huge", 12 << 20),
        Op::Get { key: b"a".to_vec() },
        Op::Get { key: b"none".to_vec() },
        Op::Delete { key: b"a".to_vec() },
        Op::Delete { key: b"none".to_vec() },
        Op::Get { key: b"a".to_vec() },
    ];
    let said: Vec<String> = cache
        .batch(&ops)
        .unwrap()
        .iter()
        .map(|answer| match answer {
            Answer::Got(value) => format!("got {:?}", value.as_ref().map(|value| value.len())),
            Answer::Put(Put::Stored(_)) => "stored".into(),
            Answer::Put(Put::Refused) => "refused".into(),
            Answer::Deleted(found) => format!("deleted {found}"),
            Answer::Failed(error) => format!("failed {}", error.kind().code()),
        })
        .collect();
    assert_eq!(
        said,
        [
            "stored",
            "stored",
            "failed invalid",
            "failed limit",
            "got Some(10)",
            "got None",
            "deleted true",
            "deleted false",
            "got None"
        ]
    );
    let many: Vec<Op> = (0..1000).map(|number| put(&format!("many-{number}"), 16 << 10)).collect();
    let all = cache.batch(&many).unwrap();
    assert!(
        all.iter().all(|answer| matches!(answer, Answer::Put(Put::Stored(_)))),
        "16 MB into 16 MiB evicts, never fails"
    );
    assert!(cache.size().unwrap().bytes <= cache.size().unwrap().limit, "C2");
}

#[test]
fn one_computation_per_key_over_threads_and_handles() {
    let dir = tempfile::tempdir().unwrap();
    let computed = AtomicU32::new(0);
    let barrier = Barrier::new(8);
    let caches = [open(dir.path()), open(dir.path())];
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (cache, computed, barrier) = (&caches[number % 2], &computed, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let value = cache.get_or_compute("key", &PutOptions::default(), || {
                    computed.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(100));
                    Ok::<_, String>(b"value".to_vec())
                });
                assert_eq!(value.unwrap(), &b"value"[..]);
            });
        }
    });
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    let failed = caches[0].get_or_compute("other", &PutOptions::default(), || Err("no"));
    assert_eq!(failed, Err("no"));
    let nested = caches[0].get_or_compute("outer", &PutOptions::default(), || {
        caches[0]
            .get_or_compute("inner", &PutOptions::default(), || Ok::<_, String>(b"x".to_vec()))
            .map(|value| value.to_vec())
    });
    assert_eq!(nested.unwrap(), &b"x"[..]);
}

#[test]
fn a_stale_value_is_answered_at_once_while_one_caller_computes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let cache = open_at(dir.path(), &clock);
    let options = PutOptions { stale: Some(Duration::from_secs(100)), ..PutOptions::ttl(Duration::from_secs(10)) };
    cache.put("key", b"old", &options).unwrap();
    clock.move_by(20);
    let value = cache.get_or_compute("key", &options, || {
        let seen = cache.get_or_compute("key", &options, || Err::<Vec<u8>, _>("computed twice"));
        assert_eq!(seen.unwrap(), &b"old"[..]);
        Ok::<_, &str>(b"new".to_vec())
    });
    assert_eq!(value.unwrap(), &b"new"[..]);
    assert_eq!(cache.get("key").as_deref(), Some(&b"new"[..]));
}

#[test]
fn s1_a_stale_value_is_refreshed_in_the_background_by_a_bounded_number_of_threads() {
    use std::sync::mpsc::channel;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let shared: Arc<dyn weir_base::Clock> = Arc::clone(&clock) as Arc<dyn weir_base::Clock>;
    let cache = Cache::open(CacheOptions { clock: shared, refreshes_max: 2, ..options(dir.path()) }).unwrap();
    let options = PutOptions { stale: Some(Duration::from_secs(100)), ..PutOptions::ttl(Duration::from_secs(10)) };
    for key in ["a", "b", "c"] {
        cache.put(key, b"old", &options).unwrap();
    }
    clock.move_by(20);
    let (begin, began) = channel::<()>();
    let gates: Vec<_> = ["a", "b", "c"]
        .map(|key| {
            let ((open, wait), begin) = (channel::<()>(), begin.clone());
            let value = cache.get_or_refresh(key, &options, move || {
                begin.send(()).map_err(|error| error.to_string())?;
                wait.recv().map_err(|error| error.to_string())?;
                Ok::<_, String>(format!("new {key}").into_bytes())
            });
            assert_eq!(value.unwrap(), &b"old"[..], "answered at once");
            open
        })
        .into();
    assert_eq!(cache.refreshes_running(), 2, "S1");
    (0..2).for_each(|_| began.recv().unwrap());
    let second = cache.get_or_refresh("a", &options, || Err::<Vec<u8>, _>("computed twice"));
    assert_eq!(second.unwrap(), &b"old"[..], "one computation per key");
    gates[0].send(()).unwrap();
    gates[1].send(()).unwrap();
    assert!(gates[2].send(()).is_err(), "the third was not started");
    settle(&cache);
    assert_eq!(cache.get("a").as_deref(), Some(&b"new a"[..]));
    assert_eq!(cache.get("b").as_deref(), Some(&b"new b"[..]));
    assert_eq!(cache.get("c").as_deref(), Some(&b"old"[..]));
    // What fails leaves the stale value, and its place; so does what panics.
    let failed = cache.get_or_refresh("c", &options, || Err::<Vec<u8>, _>("no"));
    assert_eq!(failed.unwrap(), &b"old"[..]);
    settle(&cache);
    let panicked = cache.get_or_refresh("c", &options, || -> Result<Vec<u8>, String> { panic!("on purpose") });
    assert_eq!(panicked.unwrap(), &b"old"[..]);
    settle(&cache);
    assert!(cache.stat().failed > 0);
    cache.get_or_refresh("c", &options, || Ok::<_, String>(b"new c".to_vec())).unwrap();
    settle(&cache);
    assert_eq!(cache.get("c").as_deref(), Some(&b"new c"[..]));
    let missing = cache.get_or_refresh("d", &options, || Err::<Vec<u8>, _>("no"));
    assert_eq!(missing.unwrap_err(), "no", "there is nothing to answer with");
}

fn settle(cache: &Cache) {
    while cache.refreshes_running() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn memory_alone_works_and_a_broken_disk_is_only_slower() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Cache::open(CacheOptions { disk: false, ..options(dir.path()) }).unwrap();
    memory.put("key", b"value", &PutOptions::default()).unwrap();
    assert_eq!(memory.get("key").as_deref(), Some(&b"value"[..]));
    memory.delete("key").unwrap();
    assert_eq!(memory.get("key"), None);

    let file = dir.path().join("file");
    std::fs::write(&file, b"not a folder").unwrap();
    let broken = Cache::open(CacheOptions::new(&file, "test")).unwrap();
    assert!(broken.put("key", b"value", &PutOptions::default()).is_err());
    assert_eq!(broken.get("key"), None);
    let value = broken.get_or_compute("key", &PutOptions::default(), || Ok::<_, String>(b"computed".to_vec()));
    assert_eq!(value.unwrap(), &b"computed"[..], "C1");
    assert!(!broken.doctor().healthy);
}

#[test]
fn what_was_counted_is_kept_for_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    cache.put("key", b"value", &PutOptions { cost: Some(Duration::from_secs(2)), ..PutOptions::default() }).unwrap();
    assert!(cache.get("key").is_some() && cache.get("none").is_none());
    drop(cache);
    let stat = open(dir.path()).stat();
    assert_eq!((stat.hits, stat.misses, stat.saved_s), (1, 1, 2.0));
    assert_eq!(stat.operations.iter().find(|op| op.operation == "get").unwrap().count, 2);
}
