//! Slots, marks and lines of the spool.

use weir_track::Started;

use super::*;

fn finished(name: &str, end_ns: i64) -> Row {
    let labels = Labels::from([("tool name".to_owned(), "a,b=c \\".to_owned())]);
    let measures = BTreeMap::from([("user_ms".to_owned(), 1.5), ("unknown".to_owned(), f64::NAN)]);
    let id = Some(format!("x\"{end_ns}"));
    Row::Finished(Finished {
        name: name.into(),
        labels,
        id,
        end_ns,
        duration_ns: 2_000_000,
        count: 1,
        measures,
        ..Finished::default()
    })
}

fn all(env: &Env, dir: &Path) -> (Vec<Placed>, ReadSummary) {
    let mut rows = Vec::new();
    let summary = read(env, dir, i64::MIN..=i64::MAX, &KeyMatch::Any, |row| rows.push(row)).unwrap();
    (rows, summary)
}

#[test]
fn each_process_has_its_own_slot_and_the_next_one_takes_it_over() {
    let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
    let dir = dir.path().join("spool");
    assert!(all(&env, &dir).0.is_empty());
    assert!(Drain::begin(&env, &dir).unwrap().is_none());
    let mut first = Spool::open(&env, &dir, "one").unwrap();
    let mut second = Spool::open(&env, &dir, "two").unwrap();
    assert_eq!((first.slot(), second.slot()), (0, 1));
    first.append(vec![finished("a", 10), finished("a", 10)]).unwrap();
    second.append(vec![finished("b", 10)]).unwrap();
    let (rows, summary) = all(&env, &dir);
    assert_eq!(rows.iter().map(|row| (row.slot, row.row.time_ns())).collect::<Vec<_>>(), [(0, 10), (0, 11), (1, 10)]);
    assert_eq!(summary.holders, BTreeMap::from([(0, "one".to_owned()), (1, "two".to_owned())]));
    first.close().unwrap();
    let mut third = Spool::open(&env, &dir, "three").unwrap();
    assert_eq!(third.slot(), 0);
    let began = Started { id: "three-1".into(), name: "c".into(), start_ns: 20, ..Started::default() };
    third.append(vec![Row::Started(began)]).unwrap();
    drop((second, third));
    let (rows, summary) = all(&env, &dir);
    assert!(rows.len() == 4 && summary.holders.is_empty() && summary.damage.is_empty(), "{summary:?}");
}

#[test]
fn draining_hands_on_every_row_and_again_what_was_not_marked() {
    let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
    let mut spool = Spool::open(&env, dir.path(), "one").unwrap();
    spool.append((0..7000).map(|at| finished("a", at)).collect()).unwrap();
    let drain = Drain::begin(&env, dir.path()).unwrap().unwrap();
    assert!(Drain::begin(&env, dir.path()).unwrap().is_none(), "one at a time");
    let first = drain.next().unwrap().unwrap();
    assert_eq!(drain.next().unwrap().unwrap(), first, "not marked, so it comes again");
    drain.done(&first).unwrap();
    let second = drain.next().unwrap().unwrap();
    assert_eq!((first.rows, second.rows), (BATCH_ROWS, 7000 - BATCH_ROWS));
    drain.done(&second).unwrap();
    assert_eq!(drain.next().unwrap(), None);
    drop(drain);
    let drain = Drain::begin(&env, dir.path()).unwrap().unwrap();
    assert_eq!(drain.next().unwrap(), None);
    spool.append(vec![finished("a", 9000)]).unwrap();
    assert_eq!(drain.next().unwrap().unwrap().rows, 1);
    let (operations, measures): (Vec<_>, Vec<_>) =
        first.lines.lines().partition(|line| line.starts_with("operations,"));
    assert_eq!(
        (operations.len(), measures.len()),
        (BATCH_ROWS, BATCH_ROWS),
        "what is not finite was not measured (M1)"
    );
    assert_eq!(
        operations[3],
        "operations,name=a,slot=000,label_tool\\ name=a\\,b\\=c\\ \\_ sequence=4i,count=1i,failures=0i,duration_ms=2,id=\"x\\\"3\" 3"
    );
}

#[test]
fn sixteen_writers_lose_nothing() {
    let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
    std::thread::scope(|scope| {
        for worker in 0..16 {
            let (dir, env) = (dir.path(), env.clone());
            scope.spawn(move || {
                for round in 0..3 {
                    let mut spool = Spool::open(&env, dir, &format!("w{worker}")).unwrap();
                    spool.append((0..100).map(|at| finished("a", round * 100 + at)).collect()).unwrap();
                    spool.close().unwrap();
                }
            });
        }
    });
    let (rows, summary) = all(&env, dir.path());
    assert!(rows.len() == 16 * 300 && summary.damage.is_empty(), "{} {summary:?}", rows.len());
}

/// The history must still be told once the spool has let its oldest rows go: the rest is read from the spool, and the
/// drained lines hold what is gone, by the sequence at which the spool begins.
#[test]
fn what_the_limits_let_go_was_drained_and_the_rest_is_still_read() {
    let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
    let dir = dir.path().join("spool");
    let limit = 64 << 10;
    let small = Options {
        segment_bytes_max: 16 << 10,
        retention: Retention { stored_bytes_max: Some(limit), ..Retention::default() },
        ..options()
    };
    let (journal, _) = Journal::open(env.clone(), &slot_dir(&dir, 0), "one", small).unwrap();
    let mut spool = Spool { journal, slot: 0, latest: HashMap::new() };
    let (mut drained, rows) = (0, 60_000);
    for batch in 0..rows / 1000 {
        spool.append((0..1000).map(|at| finished("a", 10 + batch * 1000 + at)).collect()).unwrap();
        let drain = Drain::begin(&env, &dir).unwrap().unwrap();
        while let Some(batch) = drain.next().unwrap() {
            drained += batch.lines.lines().filter(|line| line.starts_with("operations")).count();
            drain.done(&batch).unwrap();
        }
    }
    spool.journal.settle().unwrap();
    spool.close().unwrap();
    let (left, summary) = all(&env, &dir);
    let first = summary.first[&0];
    assert!(summary.damage.is_empty() && first > 1, "{summary:?}");
    assert_eq!(drained, rows as usize, "every row was handed on before it was let go");
    assert_eq!(left.first().map(|row| row.sequence), Some(first));
    assert_eq!(left.last().map(|row| row.row.time_ns()), Some(10 + rows - 1));
    assert!(left.windows(2).all(|two| two[0].sequence + 1 == two[1].sequence), "no hole");
    let files = env.fs.list(&slot_dir(&dir, 0)).unwrap();
    let stored: u64 = files.iter().map(|path| env.fs.read(path).unwrap().len() as u64).sum();
    assert!(stored <= limit + (64 << 10), "{stored} bytes");
}
