//! Many processes on one folder, some of them killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, PutOptions};

use crate::{check_agreement, noise, options};

/// The program of `examples/cache_worker.rs`, built with the tests.
pub(crate) fn worker_path() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/cache_worker");
    assert!(path.exists(), "{} is missing: cargo test builds it with the examples", path.display());
    path
}

fn start(dir: &Path, seed: u64, seconds: f64, value_bytes_max: u64) -> Child {
    Command::new(worker_path())
        .args([dir.to_str().unwrap(), "test", &seed.to_string(), &seconds.to_string(), &value_bytes_max.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Allocated bytes as anybody sees them from outside.
fn bytes_from_outside(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // A file may go while it is looked at.
        match entry.metadata() {
            Ok(found) if found.is_dir() => total += bytes_from_outside(&entry.path()),
            Ok(found) => total += found.blocks() * 512,
            Err(_) => {}
        }
    }
    total
}

/// What a stress run is made of.
struct Stress {
    processes: u64,
    seconds: f64,
    limit_bytes: u64,
    value_bytes_max: u64,
}

/// Kills and replaces a worker every 100 ms; gives those that are left and the number of kills.
fn kill_every_100_ms(stress: &Stress, dir: &Path, until: Instant) -> (Vec<Child>, u64) {
    let left = || until.saturating_duration_since(Instant::now()).as_secs_f64();
    let mut workers: Vec<Child> =
        (0..stress.processes).map(|seed| start(dir, seed, left(), stress.value_bytes_max)).collect();
    let mut kills = 0;
    let mut next_kill = Instant::now();
    while Instant::now() < until {
        next_kill += Duration::from_millis(100);
        std::thread::sleep(next_kill.saturating_duration_since(Instant::now()));
        let at = (kills % stress.processes) as usize;
        workers[at].kill().unwrap();
        let status = workers[at].wait().unwrap();
        assert!(status.code().is_none_or(|code| code == 0), "C1: a worker ended with {status}");
        kills += 1;
        workers[at] = start(dir, stress.processes + kills, left(), stress.value_bytes_max);
    }
    (workers, kills)
}

/// Processes that do random operations, one of them killed and replaced every 100 ms, watched from outside all the time.
fn hammer(stress: &Stress) {
    // One run at a time: two would starve each other's watcher.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let (namespace, limit) = (dir.path().join("ns/test"), stress.limit_bytes);
    let cache = Cache::open(CacheOptions { limit: Some(ByteSize::new(limit)), ..options(dir.path()) }).unwrap();
    let until = Instant::now() + Duration::from_secs_f64(stress.seconds);
    let (mut looks, mut highest) = (0, 0);
    let (workers, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_every_100_ms(stress, dir.path(), until));
        while Instant::now() < until {
            let seen = bytes_from_outside(&namespace);
            (looks, highest) = (looks + 1, seen.max(highest));
            assert!(seen <= limit, "C2: {seen} bytes seen from outside, the limit is {limit}");
            let size = cache.size().unwrap();
            assert!(size.bytes <= size.limit, "C2: {size:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        killer.join().unwrap()
    });
    let (mut done, mut refused) = (0, 0);
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "C1: {:?} {said}", output.status);
        let numbers: Vec<u64> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        (done, refused) = (done + numbers[0], refused + numbers[1]);
    }
    // A loaded machine kills and looks less often; but the test must have killed, looked and worked.
    assert!(kills as f64 >= stress.seconds * 2.0 && looks as f64 >= stress.seconds, "{kills} kills, {looks} looks");
    assert!(done > stress.processes * 10 && refused < done / 4, "{done} operations, {refused} refused");
    assert!(highest > limit / 2, "there was something to count: {highest}");
    let evicted = cache.stat().evicted;
    assert!(evicted > 0, "the limit was reached");
    check_agreement(&cache);
    let size = cache.size().unwrap();
    assert_eq!(size.reserved_bytes, 0, "C2: nobody is left who could have reserved: {size:?}");
    cache.clear().unwrap();
    cache.put("after", b"value", &PutOptions::default()).unwrap();
    assert_eq!(cache.size().unwrap().blob_bytes, 0);
}

#[test]
fn c2_sixteen_processes_some_killed_never_pass_the_limit_and_count_what_is_there() {
    hammer(&Stress { processes: 16, seconds: 5.0, limit_bytes: 8 << 20, value_bytes_max: 200_000 });
}

/// Takes a minute: the stress test of the cache.
#[test]
fn c2_sixty_four_processes_for_a_minute_with_ten_kills_a_second() {
    hammer(&Stress { processes: 64, seconds: 60.0, limit_bytes: 32 << 20, value_bytes_max: 600_000 });
}

#[test]
fn one_computation_per_key_over_processes_and_a_killed_one_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(options(dir.path())).unwrap();
    // A process that dies while it holds the lease: the kernel lets go, the next computes.
    let key_hash = weir_base::checksum::hex(&weir_base::checksum::blake3(b"key")[..16]);
    let flights = dir.path().join("ns/test/flights");
    std::fs::create_dir_all(&flights).unwrap();
    let mut holder = Command::new("flock").arg(flights.join(&key_hash)).args(["sleep", "30"]).spawn().unwrap();
    while weir_base::FileLock::acquire(&flights.join(&key_hash), "test", Duration::ZERO).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let impatient =
        Cache::open(CacheOptions { flight_deadline: Duration::from_millis(50), ..options(dir.path()) }).unwrap();
    let value = impatient.get_or_compute("other", &PutOptions::default(), || Ok::<_, String>(b"x".to_vec()));
    assert_eq!(value.unwrap(), &b"x"[..], "another key does not wait");
    let waiter = std::thread::spawn({
        let cache = cache.clone();
        move || cache.get_or_compute("key", &PutOptions::default(), || Ok::<_, String>(b"mine".to_vec()))
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished(), "somebody is computing");
    let children = Command::new("pkill").args(["-9", "-P", &holder.id().to_string()]).status().unwrap();
    assert!(children.success());
    holder.wait().unwrap();
    assert_eq!(waiter.join().unwrap().unwrap(), &b"mine"[..]);
}

#[test]
fn a_dead_writer_gives_back_what_it_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(options(dir.path())).unwrap();
    // As a process leaves it that is killed after linking its blob and before its commit.
    let value = noise(1, 100_000);
    let hash = weir_base::checksum::hex(&weir_base::checksum::blake3(&value));
    let namespace = dir.path().join("ns/test");
    let blob = namespace.join("blobs").join(&hash[..2]).join(&hash);
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    let staged = namespace.join("staging").join(format!("{:016x}-{hash}", 77));
    std::fs::write(&staged, &value).unwrap();
    std::fs::hard_link(&staged, &blob).unwrap();
    std::fs::write(namespace.join("writers").join(format!("{:016x}", 77)), b"").unwrap();
    let sql = rusqlite::Connection::open(namespace.join("index.db")).unwrap();
    sql.execute_batch("INSERT INTO writers VALUES (77, 200000); UPDATE state SET reserved = 200000").unwrap();
    drop(sql);
    assert_eq!(cache.size().unwrap().reserved_bytes, 200_000);
    assert_eq!(cache.collect(Duration::from_secs(1)).unwrap().dead_writers, 1);
    assert_eq!(cache.size().unwrap().reserved_bytes, 0, "C2");
    assert!(!staged.exists() && !blob.exists());
    check_agreement(&cache);
}
