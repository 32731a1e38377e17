//! Tables come and go; the catalog, not the folder listing, says which are there.

use std::collections::HashSet;

use weir_base::Kind;

use super::*;
use crate::store::Change;

everywhere! {
    a_dropped_table_is_kept_and_a_new_one_gets_a_new_folder,
    racing_creates_agree_on_one_folder,
    the_catalog_compacts_itself_and_keeps_all,
    tables_created_in_one_call_share_a_commit,
}

async fn a_dropped_table_is_kept_and_a_new_one_gets_a_new_folder(place: Place) {
    let store = open(&place).await;
    let old = store.create_table("db", "cpu").await.unwrap();
    let file = simple_file(&old, &[("a", 1, 1)]).await;
    old.commit(Change::flush(vec![file], None)).await.unwrap();
    let dropped = store.drop_table("db", "cpu", "op-1").await.unwrap();
    assert_eq!((dropped.folder.as_str(), dropped.operation.as_str()), ("db/cpu", "op-1"));
    assert!(store.table("db", "cpu").await.unwrap().is_none());
    assert_eq!(store.drop_table("db", "cpu", "op-2").await.unwrap_err().kind(), Kind::NotFound);
    let new = store.create_table("db", "cpu").await.unwrap();
    assert_eq!((new.folder(), new.snapshot().version), ("db/cpu.2", -1));
    let taken = store.undrop_table("db/cpu", "op-3").await.unwrap_err();
    assert_eq!((taken.kind(), taken.to_string()), (Kind::Conflict, "the name 'cpu' is in use again".to_owned()));
    store.drop_table("db", "cpu", "op-4").await.unwrap();
    store.undrop_table("db/cpu", "op-5").await.unwrap();
    let again = open(&place).await;
    let back = again.table("db", "cpu").await.unwrap().unwrap();
    assert_eq!(read_simple(&back, &back.snapshot()).await, [("a".to_owned(), 1, 1)]);
    assert_eq!(again.tables().len(), 1);
    assert_eq!(again.tables_with_dropped().len(), 2);
}

async fn racing_creates_agree_on_one_folder(place: Place) {
    let tasks: Vec<_> = (0..4)
        .map(|writer| {
            let place = place.clone();
            tokio::spawn(async move {
                let options = StoreOptions { shared: true, ..place.options() };
                let store = Store::open(place.location(), &options, env()).await.unwrap();
                let mut folders = Vec::new();
                for number in 0..30 {
                    let names =
                        [("db".to_owned(), format!("shared-{number}")), ("db".to_owned(), format!("own-{writer}"))];
                    let tables = store.create_tables(&names).await.unwrap();
                    folders.extend(tables.iter().map(|table| table.folder().to_owned()));
                }
                folders
            })
        })
        .collect();
    let mut folders = HashSet::new();
    for task in tasks {
        folders.extend(task.await.unwrap());
    }
    assert_eq!(folders.len(), 34);
    let store = open(&place).await;
    assert_eq!(store.tables().len(), 34);
    assert_eq!(store.tables_with_dropped().len(), 34);
}

async fn the_catalog_compacts_itself_and_keeps_all(place: Place) {
    let store = open(&place).await;
    for number in 0..150 {
        store.create_table("db", &format!("t{number}")).await.unwrap();
        if number % 3 == 0 {
            store.drop_table("db", &format!("t{number}"), "op").await.unwrap();
        }
    }
    let again = open(&place).await;
    assert_eq!((again.tables().len(), again.tables_with_dropped().len()), (100, 150));
    assert!(again.table("db", "t1").await.unwrap().is_some());
    assert!(again.table("db", "t0").await.unwrap().is_none());
    assert!(again.catalog_files() <= 65);
}

async fn tables_created_in_one_call_share_a_commit(place: Place) {
    let store = open(&place).await;
    let names: Vec<_> = (0..10).map(|number| ("db".to_owned(), format!("t{number}"))).collect();
    assert_eq!(store.create_tables(&names).await.unwrap().len(), 10);
    let commits = listed(&store, "_weir/catalog/_delta_log").await;
    assert_eq!(commits, [format!("{:020}.json", 0)]);
}
