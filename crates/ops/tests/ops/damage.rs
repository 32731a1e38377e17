//! Torn, truncated and flipped files: reported, salvaged, never overwritten. And what index, retention and chain promise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_base::{FileSystem, Kind};
use weir_ops::{History, Listing, Options, Plan, Retention, RunOptions, State, Summary, View, apply, verify_chain};

use crate::scripted::{DIR, Scripted, Trick, World, wishes};

/// A history of `count` operations, closed.
fn told(world: &World, count: usize, options: &Options) -> Vec<Summary> {
    let (history, _) = History::open(world.env(), Path::new(DIR), "test", options.clone()).unwrap();
    let target = Scripted::new(None);
    for n in 0..count {
        world.clock.advance(Duration::from_secs(60));
        let plan = Plan::make(&history, &target, "tester", "assign", wishes(3, &format!("v{n}"))).unwrap();
        apply(&history, &target, &plan, &RunOptions { concurrency: 1, ..RunOptions::default() }).unwrap();
    }
    let listed = list(world);
    history.close().unwrap();
    listed
}

fn view(world: &World) -> View {
    View::open(world.env(), Path::new(DIR)).unwrap()
}

fn list(world: &World) -> Vec<Summary> {
    view(world).list(&Listing::default()).unwrap().0
}

fn log_file(world: &World) -> PathBuf {
    let files = world.disk.list(&Path::new(DIR).join("log")).unwrap();
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "wj")).unwrap()
}

fn forked(world: &World, seed: u64) -> World {
    World { disk: world.disk.fork(seed), clock: std::sync::Arc::default(), seed }
}

/// What a reader meets beside a server that makes its history, and after one that died doing it.
#[test]
fn a_history_without_its_first_record_is_none_yet() {
    let world = World::new(1);
    let log = Path::new(DIR).join("log");
    let (journal, _) =
        weir_journal::Journal::open(world.env().journal, &log, "test", weir_journal::Options::default()).unwrap();
    let error = View::open(world.env(), Path::new(DIR)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    journal.close().unwrap();
    assert_eq!(told(&world, 1, &Options::default()).len(), 1, "it is made where it was left");
}

#[test]
fn a_damaged_log_is_reported_salvaged_and_left_as_it_is() {
    let world = World::new(1);
    let listed = told(&world, 4, &Options::default());
    let file = log_file(&world);
    let len = world.disk.metadata(&file).unwrap().len as usize;
    let mut damaged = 0;
    for at in (300..len).step_by(97) {
        let broken = forked(&world, at as u64);
        broken.disk.flip(&file, at, 0x10);
        let bytes = broken.disk.read(&file).unwrap();
        match broken.open() {
            Ok(history) => drop(history),
            Err(error) => {
                damaged += 1;
                assert_eq!(error.kind(), Kind::Damaged, "flip at {at}: {error}");
                assert_eq!(broken.disk.read(&file).unwrap(), bytes, "flip at {at}: never overwritten");
                let view = view(&broken);
                assert_eq!(view.list(&Listing::default()).unwrap().0, listed, "the index still lists all");
                let shown = listed.iter().filter(|summary| {
                    let whole = |(operation, lost): (weir_ops::Operation, Vec<_>)| {
                        lost.is_empty() || operation.state == State::Done || operation.state == State::Running
                    };
                    view.show(&summary.id.to_string()).is_ok_and(whole)
                });
                assert!(shown.count() >= 3, "flip at {at}: what is not damaged is shown");
            }
        }
    }
    assert!(damaged > 20, "{damaged}");
}

#[test]
fn a_cut_log_goes_on_from_where_it_is_whole() {
    let world = World::new(2);
    let listed = told(&world, 4, &Options::default());
    let file = log_file(&world);
    let len = world.disk.metadata(&file).unwrap().len as usize;
    for at in (len / 2..len).step_by(61) {
        let torn = forked(&world, at as u64);
        torn.disk.truncate(&file, at);
        let history = torn.open().unwrap();
        let now = list(&torn);
        let known = |summary: &Summary| listed.iter().any(|before| before.id == summary.id);
        assert!(now.iter().all(known) && now.len() >= 2, "cut at {at}: {}", now.len());
        drop(history);
        assert_eq!(told(&torn, 1, &Options::default()).len(), now.len() + 1, "cut at {at}: it goes on");
    }
}

#[test]
fn a_lost_or_bad_index_is_made_again() {
    let world = World::new(3);
    let listed = told(&world, 5, &Options::default());
    let index = Path::new(DIR).join("index");
    let len = world.disk.metadata(&index).unwrap().len as usize;
    for at in (0..len).step_by(53) {
        for flip in [true, false] {
            let broken = forked(&world, at as u64);
            if flip {
                broken.disk.flip(&index, at, 4)
            } else {
                broken.disk.truncate(&index, at)
            }
            assert_eq!(list(&broken), listed, "at {at}, without a writer");
            drop(broken.open().unwrap());
            assert_eq!(list(&broken), listed, "at {at}");
            let again = broken.disk.metadata(&index).unwrap().len as usize;
            assert!(again >= len - 5 * 20, "at {at}: written again, in fewer groups: {again} of {len}");
        }
    }
}

#[test]
fn retention_spares_what_is_unfinished_and_the_chain_holds_across_its_gaps() {
    let world = World::new(4);
    let options = Options { chain: true, ..Options::default() };
    told(&world, 6, &options);
    let (history, _) = History::open(world.env(), Path::new(DIR), "test", options.clone()).unwrap();
    let target = Scripted::new(None);
    target.trick(0, Trick::Fails(weir_ops::Class::Skip));
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(3, "x")).unwrap();
    let partial = apply(&history, &target, &plan, &RunOptions::default()).unwrap();
    assert_eq!(partial.state, State::Partial);
    let noted = verify_chain(view(&world).reader(), None).unwrap();
    assert!(noted.problems.is_empty() && noted.unchained == 0, "{noted:?}");
    world.clock.advance(Duration::from_secs(3600));
    told_more(&world, &history, 2);
    let retention = Retention { age_max: Some(Duration::from_secs(1800)), ..Retention::default() };
    let retained = history.retain(&retention).unwrap();
    assert_eq!((retained.removed, retained.left), (6, 3));
    let left = list(&world);
    assert!(left.iter().any(|summary| summary.id == partial.id) && left.len() == 3);
    let report = verify_chain(view(&world).reader(), noted.head.as_deref()).unwrap();
    assert_eq!((report.problems.len(), report.holds_head), (0, Some(true)), "{report:?}");
    let again = history.retain(&Retention { count_max: Some(1), unfinished: true, ..retention }).unwrap();
    assert_eq!((again.removed, again.left), (2, 1));
    told_more(&world, &history, 1);
    let report = verify_chain(view(&world).reader(), noted.head.as_deref()).unwrap();
    assert_eq!((report.problems.len(), report.holds_head), (0, Some(false)), "{report:?}");
    history.close().unwrap();
    let (history, _) = History::open(world.env(), Path::new(DIR), "test", Options::default()).unwrap();
    told_more(&world, &history, 1);
    let report = verify_chain(view(&world).reader(), None).unwrap();
    assert!(report.problems.is_empty(), "a chained history stays chained: {report:?}");
}

fn told_more(world: &World, history: &History, count: usize) {
    let target = Scripted::new(None);
    for n in 0..count {
        world.clock.advance(Duration::from_secs(1));
        let plan = Plan::make(history, &target, "tester", "assign", wishes(2, &format!("w{n}"))).unwrap();
        apply(history, &target, &plan, &RunOptions { concurrency: 1, ..RunOptions::default() }).unwrap();
    }
}

#[test]
fn tampering_breaks_the_chain() {
    let world = World::new(5);
    let options = Options { chain: true, ..Options::default() };
    told(&world, 2, &options);
    let reader = view(&world);
    let records: Vec<weir_journal::OwnedRecord> = reader.reader().records_from(0).map(Result::unwrap).collect();
    let rewritten = |change: &dyn Fn(&mut Vec<weir_journal::OwnedRecord>)| {
        let mut records = records.clone();
        change(&mut records);
        let copy = World::new(6);
        weir_base::FileSystem::create_dir_all(&copy.disk, Path::new(DIR)).unwrap();
        let log = Path::new(DIR).join("log");
        let env = copy.env().journal;
        let (journal, _) = weir_journal::Journal::open(env, &log, "forger", weir_journal::Options::default()).unwrap();
        for record in &records {
            let record = weir_journal::Record {
                time: record.time,
                kind: record.kind,
                key: &record.key,
                payload: &record.payload,
            };
            journal.append(&[record], weir_journal::Durability::Durable).unwrap();
        }
        journal.close().unwrap();
        verify_chain(view(&copy).reader(), None).unwrap().problems.len()
    };
    assert_eq!(rewritten(&|_| {}), 0);
    assert!(rewritten(&|records| drop(records.remove(3))) > 0, "removed");
    assert!(rewritten(&|records| records.swap(3, 4)) > 0, "reordered");
    assert!(rewritten(&|records| records[2].time += 1) > 0, "time changed");
    let change = |records: &mut Vec<weir_journal::OwnedRecord>| {
        let at = records[2].payload.iter().position(|byte| *byte == b'0').unwrap();
        records[2].payload[at] = b'7';
    };
    assert!(rewritten(&change) > 0, "changed");
}

#[test]
fn a_listing_past_its_memory_is_refused_by_name() {
    let world = World::new(7);
    told(&world, 8, &Options::default());
    let error = view(&world).with_memory(1000).list(&Listing::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "S1");
    assert!(error.to_string().contains("memory_bytes_max"), "{error}");
}
