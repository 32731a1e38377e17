//! A real Redis (Debian's `redis-server`, see `xtask/apt-packages.txt`), started here, stopped, frozen and killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, Lookup, PutOptions, RemoteOptions};

use crate::noise;

struct Redis {
    process: Child,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let process = Self::spawn(dir.path(), &socket);
        let redis = Self { process, socket, dir };
        redis.wait_until_up();
        redis
    }

    fn spawn(dir: &Path, socket: &Path) -> Child {
        Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--unixsocket",
                socket.to_str().unwrap(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)")
    }

    fn wait_until_up(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            assert!(Instant::now() < until, "redis-server did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.process = Self::spawn(self.dir.path(), &self.socket);
        self.wait_until_up();
    }

    /// A handle of a machine whose disk is `dir`.
    fn open(&self, dir: &Path) -> Cache {
        let remote = RemoteOptions {
            deadline: Duration::from_millis(100),
            breaker_period: Duration::from_millis(600),
            ..RemoteOptions::new(&format!("unix://{}", self.socket.display()))
        };
        Cache::open(CacheOptions {
            remote: Some(remote),
            memory_limit: ByteSize::mib(1),
            ..CacheOptions::new(dir, "test")
        })
        .unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_remote_hit_fills_the_lower_levels_and_deletes_reach_other_machines() {
    let redis = Redis::start();
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (redis.open(a.path()), redis.open(b.path()));
    for len in [10, 100_000] {
        let (key, value) = (format!("key-{len}"), noise(1, len));
        one.put(&key, &value, &PutOptions::ttl(Duration::from_secs(60))).unwrap();
        assert!(two.get(&key).as_deref() == Some(&value[..]), "from the other machine");
        let Lookup::Hit(entry) = two.lookup(&key) else { panic!("not filled") };
        assert!(!entry.stale);
        assert_eq!(
            two.stat().levels[2].hits,
            u64::from(len == 10) + 2 * u64::from(len != 10),
            "the second time from here"
        );
        two.delete(&key).unwrap();
        let fresh = tempfile::tempdir().unwrap();
        assert_eq!(redis.open(fresh.path()).get(&key), None, "deleted for all");
    }
    one.put("tagged", b"1", &PutOptions { tags: vec!["t".into()], ..PutOptions::default() }).unwrap();
    one.invalidate_tag("t").unwrap();
    assert_eq!(one.get("tagged"), None, "nothing invalidated comes back from the remote level");
    one.put_absent("absent", &PutOptions::default()).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(redis.open(fresh.path()).lookup("absent"), Lookup::Absent);
}

#[test]
fn c1_a_stopped_redis_costs_its_deadline_once_per_breaker_period_and_nothing_deleted_comes_back() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let cache = redis.open(dir.path());
    cache.put("deleted", b"old", &PutOptions::default()).unwrap();
    cache.put("overwritten", b"old", &PutOptions::default()).unwrap();
    redis.signal("-STOP");
    let started = Instant::now();
    cache.delete("deleted").unwrap();
    cache.put("overwritten", b"new", &PutOptions::default()).unwrap();
    for number in 0..50 {
        assert_eq!(cache.get(format!("none-{number}")), None);
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(500), "S2: 52 calls, one deadline of 100 ms: {took:?}");
    assert_eq!(cache.get("overwritten").as_deref(), Some(&b"new"[..]));
    redis.signal("-CONT");
    std::thread::sleep(Duration::from_millis(700));
    // Without its disk level the machine would ask Redis: what is there is of an older epoch.
    let memory_gone = redis.open(dir.path());
    memory_gone.invalidate_prefix("overwritten").unwrap();
    for key in ["deleted", "overwritten"] {
        assert_eq!(memory_gone.get(key), None, "C1: {key} came back");
    }
    cache.put("after", b"1", &PutOptions::default()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let machine = redis.open(other.path());
    assert_eq!(machine.get("deleted"), None);
    assert_eq!(machine.get("after").as_deref(), Some(&b"1"[..]), "other machines follow the epoch");
}

#[test]
fn c1_redis_killed_in_the_middle_and_started_again() {
    let mut redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let cache = redis.open(dir.path());
    for number in 0..200u64 {
        if number == 100 {
            redis.kill();
        }
        let value = noise(number, 3000);
        cache.put(format!("key-{number}"), &value, &PutOptions::default()).unwrap();
        assert!(cache.get(format!("key-{number}")).as_deref() == Some(&value[..]));
        assert_eq!(cache.get(format!("none-{number}")), None);
    }
    redis.restart();
    std::thread::sleep(Duration::from_millis(700));
    cache.put("again", b"1", &PutOptions::default()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let machine = redis.open(other.path());
    let _ = machine.get("again");
    assert_eq!(machine.get("again").as_deref(), Some(&b"1"[..]));
}

#[test]
fn c1_foreign_and_damaged_packets_are_misses() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let cache = redis.open(dir.path());
    let raw = |arguments: &[&str]| {
        let client = redis::Client::open(format!("unix://{}", redis.socket.display())).unwrap();
        let mut command = redis::cmd(arguments[0]);
        command.arg(&arguments[1..]);
        command.query::<redis::Value>(&mut client.get_connection().unwrap()).unwrap()
    };
    for junk in ["", "junk", "WRC1 but too short"] {
        raw(&["SET", "weir:test:1:key", junk]);
        assert_eq!(cache.get("key"), None);
    }
    cache.put("good", &noise(1, 3000), &PutOptions::default()).unwrap();
    raw(&["SETRANGE", "weir:test:1:good", "500", "XX"]);
    let other = tempfile::tempdir().unwrap();
    let machine = redis.open(other.path());
    assert_eq!(machine.get("good"), None);
    assert_eq!(machine.stat().damaged, 1);
}
