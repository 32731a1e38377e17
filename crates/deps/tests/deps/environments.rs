//! Environments on the disk, as `venv`, pip and distributions lay them out.

use std::path::Path;
use std::time::Duration;

use weir_base::{Clock, FileSystem, OsFileSystem, SystemClock};
use weir_deps::environment::{Reading, read};
use weir_deps::package::PackageSet;
use weir_deps::store::{MemoryStore, NoStore};

fn put(path: &Path, text: &[u8]) {
    OsFileSystem.create_dir_all(path.parent().unwrap()).unwrap();
    OsFileSystem.replace(path, text).unwrap();
}

fn install(site: &Path, name: &str, version: &str) {
    let text = format!(
        "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\nRequires-Dist: other; extra == 'x'\nRequires-Dist: idna >=2\n\n"
    );
    put(&site.join(format!("{}-{version}.dist-info/METADATA", name.replace('-', "_"))), text.as_bytes());
}

fn reading(path: &Path) -> weir_deps::Result<PackageSet> {
    read(Reading { fs: &OsFileSystem, store: &NoStore, clock: &SystemClock::default() }, path)
}

fn open(path: &Path) -> PackageSet {
    reading(path).unwrap()
}

fn names(set: &PackageSet) -> Vec<String> {
    set.packages.iter().map(|one| format!("{} {}", one.name, one.version)).collect()
}

#[test]
fn an_environment_is_found_by_folder_interpreter_and_site_packages() {
    let dir = tempfile::tempdir().unwrap();
    let (env, base) = (dir.path().join("env"), dir.path().join("base"));
    let site = env.join("lib/python3.12/site-packages");
    install(&site, "one", "1.0");
    install(&base.join("lib/python3.12/site-packages"), "system", "2.0");
    put(
        &env.join("pyvenv.cfg"),
        format!("home = {}\ninclude-system-site-packages = false\n", base.join("bin").display()).as_bytes(),
    );
    put(&base.join("bin/python3.12"), b"");
    OsFileSystem.create_dir_all(&env.join("bin")).unwrap();
    std::os::unix::fs::symlink(base.join("bin/python3.12"), env.join("bin/python")).unwrap();
    for path in [env.clone(), env.join("bin/python"), site] {
        assert_eq!(names(&open(&path)), ["one 1.0"], "{}", path.display());
    }
    assert_eq!(names(&open(&base.join("bin/python3.12"))), ["system 2.0"]);
    put(
        &env.join("pyvenv.cfg"),
        format!("home = {}\ninclude-system-site-packages = true\n", base.join("bin").display()).as_bytes(),
    );
    assert_eq!(names(&open(&env)), ["one 1.0", "system 2.0"]);
    let error = reading(&dir.path().join("nothing")).unwrap_err();
    assert_eq!(error.kind(), weir_base::Kind::NotFound);
}

#[test]
fn old_layouts_and_pth_folders_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site-packages");
    install(&site, "one", "1.0");
    put(&site.join("old.egg-info/PKG-INFO"), b"Name: old\nVersion: 0.1\nLicense: BSD\n");
    put(&site.join("older.egg-info"), b"Name: older\nVersion: 0.2\n");
    let elsewhere = dir.path().join("elsewhere");
    install(&elsewhere, "linked", "3.0");
    put(&site.join("x.pth"), format!("import os; os.system('false')\n# comment\n{}\n", elsewhere.display()).as_bytes());
    let set = open(&site);
    assert_eq!(names(&set), ["linked 3.0", "old 0.1", "older 0.2", "one 1.0"]);
    assert_eq!(set.packages[3].requires, ["idna"]);
}

#[test]
fn a_broken_package_is_a_finding_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site-packages");
    install(&site, "good", "1.0");
    put(&site.join("nometa-1.0.dist-info/RECORD"), b"");
    put(&site.join("bad-2.0.dist-info/METADATA"), b"Name: bad\nno header here\nVersion: 2.0\nLicense: \xff\n\n");
    put(&site.join("nameless-3.0.dist-info/METADATA"), b"Version: 3.0\n\n");
    let set = open(&site);
    assert_eq!(names(&set), ["bad 2.0", "good 1.0", "nameless 3.0"]);
    let problems = &set.packages[0].problems;
    assert_eq!(problems.iter().filter_map(|one| one.line).collect::<Vec<_>>(), [4, 2]);
    assert!(set.problems[0].file.as_ref().unwrap().ends_with("nometa-1.0.dist-info/METADATA"));
}

/// A clock that shows the time that it was set to.
#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> i64 {
        self.0
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
}

/// C1: what was remembered changes no answer, whatever changes in the environment: only those packages are read anew.
#[test]
fn only_what_changed_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site-packages");
    for name in ["one", "two", "three"] {
        install(&site, name, "1.0");
    }
    let text = |name: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/texts/").to_owned() + name + ".txt";
        OsFileSystem.read(path.as_ref()).unwrap()
    };
    let info = |name: &str| site.join(format!("{name}-1.0.dist-info"));
    let declare = |name: &str| {
        let text = format!("Name: {name}\nVersion: 1.0\nLicense-File: LICENSE\n\n");
        put(&info(name).join("METADATA"), text.as_bytes());
    };
    declare("two");
    put(&info("two").join("licenses/LICENSE"), &text("vine"));
    let store = MemoryStore::new(SystemClock::default(), 1 << 20);
    let now = SystemClock::default().now();
    let look = |clock: &dyn Clock| read(Reading { fs: &OsFileSystem, store: &store, clock }, &site).unwrap();
    let check = |hits: usize| {
        let later = At(now + 3600 * 1_000_000_000);
        let known = look(&later);
        let anew = open(&site);
        assert_eq!(format!("{:?}", known.packages), format!("{:?}", anew.packages));
        assert_eq!(known.lookups.hits, hits);
        assert_eq!(known.lookups.hits + known.lookups.misses, known.packages.len());
        // The next change falls into another tick of the file system's clock.
        SystemClock::default().sleep(Duration::from_millis(20));
    };
    look(&At(now));
    check(0); // Files as young as these are not remembered.
    check(3);
    put(&info("two").join("licenses/LICENSE"), &text("nest-asyncio2"));
    check(2);
    check(3);
    declare("three");
    check(2);
    put(&info("three").join("LICENSE"), &text("vine"));
    check(2);
    put(&info("one").join("licenses/deep/COPYING"), &text("vine"));
    check(2);
    put(&info("one").join("licenses/deep/COPYING2"), &text("nest-asyncio2"));
    check(2);
    std::fs::remove_file(info("two").join("licenses/LICENSE")).unwrap();
    check(2);
    install(&site, "four", "1.0");
    check(3);
    std::fs::remove_dir_all(info("one")).unwrap();
    check(3);
    check(3);
}

/// S1: a header block, a licence file and a path that leads outside have their limits.
#[test]
fn hostile_packages_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site-packages");
    put(&dir.path().join("secret"), b"Permission is hereby granted");
    let mut text =
        b"Name: big\nVersion: 1\nLicense-File: ../../secret\nLicense-File: /etc/passwd\nLicense: MIT\nKeywords: "
            .to_vec();
    text.resize(8 << 20, b'x');
    put(&site.join("big-1.dist-info/METADATA"), &text);
    put(&site.join("big-1.dist-info/LICENSE"), &vec![b'a'; 4 << 20]);
    let set = open(&site);
    assert_eq!(names(&set), ["big 1"]);
    let texts: Vec<_> = set.packages[0].texts.iter().map(|text| text.file.as_str()).collect();
    assert_eq!(texts, ["LICENSE"]);
}
