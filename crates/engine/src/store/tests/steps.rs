//! Steps of operations: committed once and in order, and refused where the write order would no longer hold.

use weir_base::Kind;

use super::*;
use crate::store::{Change, Step};

everywhere! {
    a_step_is_committed_once_and_after_the_one_before_r2,
    a_rewrite_is_refused_when_a_file_came_that_is_not_newer_e3,
}

fn step(number: u32) -> Step {
    Step { operation: "op".to_owned(), number }
}

/// A file in the place of others in the write order.
async fn placed(table: &Table, rows: &[(&str, i64, i64)], order: (i64, i64)) -> NewFile {
    NewFile { order: Some(order), ..simple_file(table, rows).await }
}

async fn a_step_is_committed_once_and_after_the_one_before_r2(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    let file = simple_file(&table, &[("a", 1, 10), ("b", 2, 20)]).await;
    table.commit(Change::flush(vec![file], None)).await.unwrap();
    let seen = table.snapshot();
    let early = Change::rewrite("UNDO", step(2), Arc::clone(&seen), Vec::new(), Vec::new());
    let error = table.commit(early.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Conflict, weir_base::Retry::Never), "{error}");
    let kept = placed(&table, &[("b", 2, 20)], (0, 0)).await;
    let delete = Change::rewrite("DELETE", step(1), Arc::clone(&seen), seen.files.clone(), vec![kept]);
    let done = table.commit(delete.clone()).await.unwrap();
    assert_eq!((done.version, done.already), (1, false));
    // Its inputs have gone, and yet it is no conflict: it has happened.
    assert!(table.commit(delete).await.unwrap().already);
    assert!(!table.commit(early).await.unwrap().already);
    let snapshot = table.snapshot();
    assert_eq!((snapshot.transactions["weir-op/op/1"], snapshot.transactions["weir-op/op/2"]), (1, 2));
    assert!(snapshot.step_times["weir-op/op/1"] < snapshot.step_times["weir-op/op/2"], "each commit is later");
    assert_eq!(read_simple(&table, &snapshot).await, [("b".to_owned(), 2, 20)]);
    table.checkpoint().await.unwrap();
    let again = open(&place).await.table("db", "cpu").await.unwrap().unwrap().snapshot();
    assert_eq!((&again.transactions, &again.step_times), (&snapshot.transactions, &snapshot.step_times));
}

async fn a_rewrite_is_refused_when_a_file_came_that_is_not_newer_e3(place: Place) {
    let store = open(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    for value in 0..2 {
        let file = simple_file(&table, &[("a", 1_000, value)]).await;
        table.commit(Change::flush(vec![file], None)).await.unwrap();
    }
    let seen = table.snapshot();
    let kept = placed(&table, &[("a", 1_000, 1)], (0, 1)).await;
    let rewrite = Change::rewrite("DELETE", step(2), Arc::clone(&seen), seen.files.clone(), vec![kept]);
    // One takes a place among them, with a key of theirs.
    let other = placed(&table, &[("a", 1_000, 9)], (1, 1)).await;
    table.commit(Change::rewrite("OTHER", step(1), Arc::clone(&seen), Vec::new(), vec![other])).await.unwrap();
    let error = table.commit(rewrite).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Conflict, weir_base::Retry::Backoff), "{error}");
    // A flush in between is newer than all of it.
    let fresh = store.create_table("db", "mem").await.unwrap();
    let file = simple_file(&fresh, &[("a", 1_000, 0)]).await;
    fresh.commit(Change::flush(vec![file], None)).await.unwrap();
    let seen = fresh.snapshot();
    let late = simple_file(&fresh, &[("a", 1_000, 7)]).await;
    fresh.commit(Change::flush(vec![late], None)).await.unwrap();
    let kept = placed(&fresh, &[("a", 1_000, 0)], (0, 0)).await;
    fresh.commit(Change::rewrite("DELETE", step(1), Arc::clone(&seen), seen.files.clone(), vec![kept])).await.unwrap();
    let orders: Vec<_> = fresh.snapshot().files.iter().map(|file| file.order).collect();
    assert_eq!(orders, [(0, 0), (1, 1)]);
}
