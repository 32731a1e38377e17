//! What Weir needs of the machine: a clock that is set and goes forward, files that may be opened, room on the disk.

use std::path::{Path, PathBuf};

use weir_base::{ByteSize, FileSystem, OsFileSystem};

use super::checks::{Finding, Verdict, found, good};
use crate::config::Config;

/// 2024-01-01 and 2100-01-01: a clock before was never set, one after was set wrongly.
const CLOCK_MIN: i64 = 1_704_067_200_000_000_000;
const CLOCK_MAX: i64 = 4_102_444_800_000_000_000;
/// By how much files may be newer than the clock: file systems round, and clocks are corrected in small steps.
const BACKWARDS_MAX: i64 = 60_000_000_000;
/// Files besides connections: segments, Parquet files being read and written, the log of operations.
const FILES_BESIDES: u64 = 512;
/// Room below which the next flush may fail.
const ROOM_WRONG: u64 = 64 << 20;
const ROOM_WARNING: u64 = 1 << 30;
/// Free names (inodes) below which the same holds.
const NAMES_WRONG: u64 = 1_000;
const NAMES_WARNING: u64 = 10_000;

/// Whether the clock can be right, given the newest file of the data.
pub(super) fn clock(now: i64, newest: Option<(PathBuf, i64)>) -> Finding {
    let wrong = |detail: String, advice| found("clock", Verdict::Wrong, detail, Some(advice));
    if now < CLOCK_MIN {
        return wrong("the machine's clock is before 2024".to_owned(), "set it: points without a time get this one");
    }
    if now > CLOCK_MAX {
        return wrong("the machine's clock is after 2100".to_owned(), "set it: points without a time get this one");
    }
    match newest {
        Some((path, written)) if written > now.saturating_add(BACKWARDS_MAX) => wrong(
            format!(
                "{} was written {} s after now: the clock went backwards",
                path.display(),
                (written - now) / 1_000_000_000
            ),
            "set the clock (timedatectl, chronyc): until it has caught up, points without a time get times that were given \
             already, and replace rows of the same tags",
        ),
        _ => good("clock", "set, and not behind the data"),
    }
}

/// The file that was written last in the data folder and its folders, and when.
pub(super) fn newest(data: &Path) -> Option<(PathBuf, i64)> {
    let folders = ["", "wal", "operations", "tables/_weir/catalog/_delta_log"].map(|name| data.join(name));
    let files = folders.iter().flat_map(|folder| OsFileSystem.list(folder).unwrap_or_default());
    let written = |path: PathBuf| {
        let found = OsFileSystem.metadata(&path).ok().filter(|found| !found.is_dir)?;
        Some((path, found.modified))
    };
    files.filter_map(written).max_by_key(|file| file.1)
}

/// Files that may be open at once, in the server that holds the folder or, without one, in this process, as a server started
/// from here would have it.
pub(super) fn open_files(server: Option<u32>, config: &Config) -> Finding {
    let needed = config.server.connections_max as u64 + FILES_BESIDES;
    let (whose, limit) = match server.and_then(|pid| Some((pid, limit_of(pid)?))) {
        Some((pid, limit)) => (format!("the server (pid {pid})"), limit),
        None => ("this process".to_owned(), rustix::process::getrlimit(rustix::process::Resource::Nofile).current),
    };
    judge_files(&whose, limit, needed)
}

fn judge_files(whose: &str, limit: Option<u64>, needed: u64) -> Finding {
    match limit {
        Some(limit) if limit < needed => found(
            "open files",
            Verdict::Warning,
            format!("{whose} may open {limit} files; with all of limits.connections_max it would need {needed}"),
            Some(
                "raise it to 65536 for a server (ulimit -n, or LimitNOFILE= of its unit), or lower limits.connections_max",
            ),
        ),
        Some(limit) => good("open files", format!("{whose} may open {limit}")),
        None => good("open files", format!("{whose} has no limit")),
    }
}

/// The soft limit of another process (proc(5)); the outer `None` when it is not told.
fn limit_of(pid: u32) -> Option<Option<u64>> {
    let path = format!("/proc/{pid}/limits");
    #[allow(clippy::disallowed_methods, reason = "the kernel's own files are not the disk that the simulator swaps")]
    let text = std::fs::read_to_string(path).ok()?;
    soft_limit(&text)
}

fn soft_limit(limits: &str) -> Option<Option<u64>> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Room for the log to grow to its limit and for the next flushes, and names for their files.
pub(super) fn room(place: &Path, wal_bytes_max: u64) -> Finding {
    let free = OsFileSystem.available(place);
    let names = rustix::fs::statvfs(place).map(|found| (found.f_files > 0).then_some(found.f_favail));
    match (free, names) {
        (Ok(free), Ok(names)) => judge_room(free, names, wal_bytes_max),
        (Err(error), _) => found("disk", Verdict::Wrong, format!("cannot ask for free space: {error}"), None),
        (_, Err(errno)) => found("disk", Verdict::Wrong, format!("cannot ask for free names: {errno}"), None),
    }
}

fn judge_room(free: u64, names: Option<u64>, wal_bytes_max: u64) -> Finding {
    let size = ByteSize::new(free);
    let make_room = Some("make room: past a full disk every write is refused; nothing acknowledged is lost");
    if let Some(names) = names.filter(|names| *names < NAMES_WARNING) {
        let verdict = if names < NAMES_WRONG { Verdict::Wrong } else { Verdict::Warning };
        let detail = format!("{size} free, but only {names} more files can be made (inodes)");
        return found("disk", verdict, detail, Some("remove small files; Weir's own are merged by `weir compact`"));
    }
    if free < ROOM_WRONG {
        return found("disk", Verdict::Wrong, format!("{size} free"), make_room);
    }
    if free < ROOM_WARNING {
        return found("disk", Verdict::Warning, format!("{size} free"), make_room);
    }
    if free < wal_bytes_max {
        let detail = format!(
            "{size} free: the disk is full before the log reaches its limit of {}",
            ByteSize::new(wal_bytes_max)
        );
        let advice = "make room, or lower engine.wal_bytes_max: at the limit clients are told when to come back, at a full disk not";
        return found("disk", Verdict::Warning, detail, Some(advice));
    }
    good("disk", format!("{size} free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_or_is_behind_the_data_is_wrong() {
        let at = |written| Some((PathBuf::from("wal/1"), written));
        let now = CLOCK_MIN + 1_000_000_000_000;
        for (now, newest, verdict) in [
            (0, None, Verdict::Wrong),
            (CLOCK_MIN, None, Verdict::Good),
            (CLOCK_MAX + 1, None, Verdict::Wrong),
            (now, at(now), Verdict::Good),
            (now, at(now + BACKWARDS_MAX), Verdict::Good),
            (now, at(now + BACKWARDS_MAX + 1), Verdict::Wrong),
        ] {
            let finding = clock(now, newest.clone());
            assert_eq!(finding.verdict, verdict, "{now} {newest:?}");
            assert_eq!(finding.advice.is_some(), verdict != Verdict::Good);
        }
        assert!(clock(now, at(now + 3600 * 1_000_000_000)).detail.contains("wal/1 was written 3600 s after now"));
    }

    #[test]
    fn files_are_judged_by_the_connections_that_may_come() {
        assert_eq!(judge_files("x", Some(1535), 1536).verdict, Verdict::Warning);
        assert_eq!(judge_files("x", Some(1536), 1536).verdict, Verdict::Good);
        assert_eq!(judge_files("x", None, 1536).verdict, Verdict::Good);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(Some(1024)));
        assert_eq!(soft_limit("Max open files  unlimited  unlimited  files"), Some(None));
        assert_eq!(soft_limit("Max cpu time  unlimited"), None);
        assert!(limit_of(std::process::id()).is_some());
    }

    #[test]
    fn a_disk_is_judged_by_its_room_its_names_and_the_log_s_limit() {
        let plenty = 1 << 40;
        for (free, names, wal, verdict, word) in [
            (plenty, Some(1_000_000), 4 << 30, Verdict::Good, "free"),
            (plenty, None, 4 << 30, Verdict::Good, "free"),
            (ROOM_WRONG - 1, None, 1, Verdict::Wrong, "free"),
            (ROOM_WARNING - 1, None, 1, Verdict::Warning, "free"),
            (2 << 30, None, 4 << 30, Verdict::Warning, "limit of"),
            (plenty, Some(NAMES_WARNING - 1), 1, Verdict::Warning, "inodes"),
            (plenty, Some(NAMES_WRONG - 1), 1, Verdict::Wrong, "inodes"),
        ] {
            let finding = judge_room(free, names, wal);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.detail.contains(word), "{finding:?}");
        }
    }
}
