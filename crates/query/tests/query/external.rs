//! External tables: files of others, read where they lie and nowhere else.

#![allow(clippy::disallowed_methods, reason = "external tables are files of a real disk")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use weir_base::{ByteSize, Kind};
use weir_query::Error;
use weir_query::external::{Locations, parse};

use crate::world::{World, rows, schema};

/// A world that may read below `folder`.
fn world(folder: &Path) -> World {
    let folder = folder.to_owned();
    World::with(move |settings| settings.query_external_locations = Locations::Below(vec![folder]))
}

fn create(world: &World, sql: &str) -> Result<usize, Error> {
    let statement = parse(sql)?.expect("it makes an external table");
    let (definition, columns) = world.block_on(world.engine.define_external(&statement))?;
    world.tables.externals.lock().unwrap().insert(("db".to_owned(), definition.name.clone()), definition);
    Ok(columns)
}

fn parquet(path: &Path, hosts: &[&str], numbers: &[i64]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let columns = [
        ("host", Arc::new(StringArray::from(hosts.to_vec())) as _),
        ("n", Arc::new(Int64Array::from(numbers.to_vec())) as _),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn place(folder: &Path, rest: &str) -> String {
    folder.join(rest).display().to_string()
}

#[test]
fn files_of_each_format_are_read_and_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = |rest: &str| place(folder.path(), rest);
    let world = world(folder.path());
    fs::write(at("owners.csv"), "host,owner\na,Ann\nb,Bo\n").unwrap();
    fs::create_dir(at("logs")).unwrap();
    fs::write(at("logs/1.jsonl"), "{\"host\":\"a\",\"ms\":1}\n{\"host\":\"b\",\"ms\":2}\n").unwrap();
    fs::write(at("logs/2.json"), "{\"host\":\"a\",\"ms\":3}\n").unwrap();
    fs::write(at("logs/readme.txt"), "not JSON").unwrap();
    parquet(&folder.path().join("days/day=1/x.parquet"), &["a", "b"], &[10, 20]);
    parquet(&folder.path().join("days/day=2/x.parquet"), &["a"], &[30]);
    assert_eq!(
        create(&world, &format!("CREATE EXTERNAL TABLE owners STORED AS CSV LOCATION '{}'", at("owners.csv"))).unwrap(),
        2
    );
    create(&world, &format!("CREATE EXTERNAL TABLE logs STORED AS JSON LOCATION '{}'", at("logs"))).unwrap();
    assert_eq!(
        create(&world, &format!("CREATE EXTERNAL TABLE days STORED AS PARQUET LOCATION '{}/'", at("days"))).unwrap(),
        3
    );
    let bare = format!(
        "CREATE EXTERNAL TABLE bare (a VARCHAR, b VARCHAR) STORED AS CSV LOCATION '{}' OPTIONS ('has_header' 'false')",
        at("owners.csv")
    );
    create(&world, &bare).unwrap();
    world.create("db", "cpu", &schema("host:tag; v:float"));
    world.file("db", "cpu", &rows("a | 1.5 | 1\nb | 2.5 | 2\nc | 3.5 | 3"), 2);
    for (sql, wanted) in [
        ("SELECT * FROM owners ORDER BY host", "host,owner\na,Ann\nb,Bo\n"),
        ("SELECT host, sum(ms) AS ms FROM logs GROUP BY host ORDER BY host", "host,ms\na,4\nb,2\n"),
        ("SELECT day, sum(n) AS n FROM days GROUP BY day ORDER BY day", "day,n\n1,30\n2,30\n"),
        ("SELECT n FROM days WHERE day = '2'", "n\n30\n"),
        ("SELECT count(*) AS n FROM days", "n\n3\n"),
        ("SELECT count(*) AS n FROM bare WHERE a = 'host'", "n\n1\n"),
        (
            "SELECT cpu.host, owner, v, n FROM cpu JOIN owners ON cpu.host = owners.host JOIN days ON days.host = cpu.host \
             ORDER BY cpu.host, n",
            "host,owner,v,n\na,Ann,1.5,10\na,Ann,1.5,30\nb,Bo,2.5,20\n",
        ),
        ("SELECT owner FROM cpu LEFT JOIN db.owners AS o ON cpu.host = o.host WHERE v > 3", "owner\n\n"),
        ("SHOW TABLES", "table\nbare\ncpu\ndays\nlogs\nowners\n"),
        (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'db' ORDER BY 1",
            "table_name\nbare\ncpu\ndays\nlogs\nowners\n",
        ),
        ("DESCRIBE days", "column,role,type\nhost,external,utf8view\nn,external,int64\nday,external,utf8view\n"),
        ("SHOW FIELD KEYS", "table,field,type\ncpu,v,float\n"),
        ("SELECT \"table\" FROM (SELECT 'x' AS \"table\")", "table\nx\n"),
    ] {
        let sql = if sql.starts_with("SHOW") {
            format!("{sql}{}", if sql.ends_with("KEYS") { "" } else { " FROM db" })
        } else {
            sql.to_owned()
        };
        assert_eq!(world.ask("db", &sql).unwrap(), wanted, "{sql}");
    }
    // Files are found by each query.
    parquet(&folder.path().join("days/day=3/y.parquet"), &["b"], &[40]);
    assert_eq!(world.ask("db", "SELECT sum(n) AS n FROM days").unwrap(), "n\n100\n");
    // What cannot be opened is an error where it is named, and in nobody else's way.
    fs::remove_file(at("owners.csv")).unwrap();
    let error = world.ask("db", "SELECT * FROM owners").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("external table 'owners'"), "{error}");
    let columns =
        world.ask("db", "SELECT count(*) AS n FROM information_schema.columns WHERE table_name = 'cpu'").unwrap();
    assert_eq!(columns, "n\n3\n");
    assert_eq!(world.ask("db", "SHOW TABLES").unwrap().lines().count(), 6);
}

#[test]
fn nothing_is_read_outside_of_the_folders_that_are_allowed() {
    let outer = tempfile::tempdir().unwrap();
    let at = |rest: &str| place(outer.path(), rest);
    for folder in ["in/deep", "in/loop", "out"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("out/secret.csv"), "a\n1\n").unwrap();
    fs::write(at("in/fine.csv"), "a\n1\n").unwrap();
    symlink(at("out/secret.csv"), at("in/link.csv")).unwrap();
    symlink(at("out/secret.csv"), at("in/deep/x.csv")).unwrap();
    symlink(at("out"), at("in/folder")).unwrap();
    symlink("../fine.csv", at("in/loop/inside.csv")).unwrap();
    let world = world(&outer.path().join("in"));
    let csv = |rest: &str| format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", at(rest));
    for outside in ["out/secret.csv", "out", "in/link.csv", "in/deep", "in/folder/secret.csv", "in/folder", "inn/x.csv"]
    {
        let error = create(&world, &csv(outside)).expect_err(outside);
        assert_eq!(error.kind(), Kind::Forbidden, "{outside}: {error}");
        assert!(error.to_string().contains("query_external_locations"), "{outside}: {error}");
    }
    for wrong in ["in/../out/secret.csv", "in/deep/../../out"] {
        assert_eq!(create(&world, &csv(wrong)).expect_err(wrong).kind(), Kind::Invalid);
    }
    for wrong in ["fine.csv", "s3://bucket/x.csv", "http://host/x.csv"] {
        let error =
            create(&world, &format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{wrong}'")).expect_err(wrong);
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    // A link that stays inside is no way out.
    create(&world, &csv("in/loop")).unwrap();
    assert_eq!(world.ask("db", "SELECT a FROM t").unwrap(), "a\n1\n");
    // What is made to lead out afterwards is not read.
    create(&world, &csv("in/fine.csv")).unwrap();
    fs::remove_file(at("in/fine.csv")).unwrap();
    symlink(at("out/secret.csv"), at("in/fine.csv")).unwrap();
    assert_eq!(world.ask("db", "SELECT a FROM t").unwrap_err().kind(), Kind::Forbidden);
    // Nor what a link to a folder leads to within.
    fs::create_dir_all(at("in/other/sub")).unwrap();
    symlink("sub", at("in/other/again")).unwrap();
    assert_eq!(create(&world, &csv("in/other")).unwrap_err().kind(), Kind::Invalid);
    // Without the setting nothing at all.
    let nowhere = World::new();
    fs::write(at("in/plain.csv"), "a\n1\n").unwrap();
    assert_eq!(create(&nowhere, &csv("in/plain.csv")).unwrap_err().kind(), Kind::Forbidden);
    let anywhere = World::with(|settings| settings.query_external_locations = Locations::Anywhere);
    create(&anywhere, &csv("out/secret.csv")).unwrap();
    assert_eq!(anywhere.ask("db", "SELECT a FROM t").unwrap(), "a\n1\n");
    // It is a table of queries only, and its database is guarded as others are.
    for sql in ["INSERT INTO t VALUES (2)", "COPY t TO '/tmp/x.csv'", &*csv("out/secret.csv")] {
        assert_eq!(anywhere.ask("db", sql).unwrap_err().kind(), Kind::Invalid, "{sql}");
    }
}

#[test]
fn s1_a_folder_of_too_many_files_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..5 {
        fs::write(folder.path().join(format!("{number}.csv")), "a\n1\n").unwrap();
    }
    let allowed = folder.path().to_owned();
    let world = World::with(move |settings| {
        settings.query_external_locations = Locations::Below(vec![allowed]);
        settings.query_external_files_max = 5;
    });
    let sql = format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", folder.path().display());
    create(&world, &sql).unwrap();
    assert_eq!(world.ask("db", "SELECT count(*) AS n FROM t").unwrap(), "n\n5\n");
    fs::write(folder.path().join("6.csv"), "a\n1\n").unwrap();
    let error = world.ask("db", "SELECT count(*) AS n FROM t").unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert!(error.to_string().contains("query_external_files_max"), "{error}");
}

/// A query over files of others has the memory of any query.
#[test]
fn past_its_memory_a_query_of_external_files_ends() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: Vec<i64> = (0..200_000).collect();
    let hosts: Vec<String> = numbers.iter().map(|number| format!("host-{number:040}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    parquet(&folder.path().join("x.parquet"), &hosts, &numbers);
    let allowed = folder.path().to_owned();
    let world = World::with(move |settings| {
        settings.query_external_locations = Locations::Below(vec![allowed]);
        settings.query_each_memory_bytes_max = ByteSize::mib(2);
    });
    create(&world, &format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", folder.path().display()))
        .unwrap();
    let error = world.ask("db", "SELECT host, max(n) FROM t GROUP BY host ORDER BY 2").unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert!(error.to_string().contains("query_each_memory_bytes_max"), "{error}");
    let start = std::time::Instant::now();
    while world.engine.memory_bytes() > 0 {
        assert!(start.elapsed().as_secs() < 30, "the memory does not come back");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(world.ask("db", "SELECT max(n) AS n FROM t").unwrap(), "n\n199999\n");
}
