//! E3 at the places where a plan could break it.

use crate::world::{World, rows, schema};

/// Two versions of one point, the newer in a file or in the buffer, and a point that nothing overlaps.
fn worlds() -> Vec<World> {
    let old = rows("a | 20,x | 100\nb | 1,y | 100\na | 7,z | 200");
    let new = rows("a | 5,- | 100");
    let apart = rows("c | 30,w | 90000");
    let make = |in_file: bool| {
        let world = World::new();
        world.create("db", "m", &schema("host:tag; v:integer; s:string"));
        world.file("db", "m", &old, 3);
        world.file("db", "m", &apart, 3);
        if in_file {
            world.file("db", "m", &new, 3);
        } else {
            world.run("db", "m", &new);
        }
        world
    };
    vec![make(true), make(false)]
}

fn check(sql: &str, expected: &str) {
    for world in worlds() {
        let answer = world.ask("db", sql).unwrap();
        assert_eq!(answer, expected, "{sql}\n{}", world.ask("db", &format!("EXPLAIN {sql}")).unwrap());
    }
}

/// E3: an old v=20 must not survive `v > 10` when its newer v=5 was filtered away.
#[test]
fn a_field_filter_sees_the_newest_version() {
    check("SELECT host, v FROM m WHERE v > 10", "host,v\nc,30\n");
    check("SELECT host FROM m WHERE v = 5 AND s = 'x'", "host\na\n");
    check("SELECT host FROM m WHERE v > 10 OR time = to_timestamp_nanos(200) ORDER BY host", "host\na\nc\n");
    check("SELECT count(*) FROM m WHERE v < 6", "count(*)\n2\n");
}

/// E3: limits, counts and extremes count merged rows.
#[test]
fn limits_counts_and_extremes_see_merged_rows() {
    check("SELECT count(*) FROM m", "count(*)\n4\n");
    check("SELECT count(v), count(s), sum(v) FROM m", "count(m.v),count(m.s),sum(m.v)\n4,4,43\n");
    check("SELECT max(v) FROM m WHERE host = 'a'", "max(m.v)\n7\n");
    check("SELECT min(v), max(v) FROM m", "min(m.v),max(m.v)\n1,30\n");
    check("SELECT count(*) FROM (SELECT * FROM m WHERE host = 'a' LIMIT 2)", "count(*)\n2\n");
    check("SELECT host, v FROM m ORDER BY v DESC LIMIT 2", "host,v\nc,30\na,7\n");
    check("SELECT host, v FROM m ORDER BY time DESC, host LIMIT 3", "host,v\nc,30\na,7\na,5\n");
    check("SELECT DISTINCT host FROM m ORDER BY host", "host\na\nb\nc\n");
}

/// E3: a NULL in the newer row leaves the older value.
#[test]
fn the_last_write_wins_field_by_field() {
    check("SELECT v, s FROM m WHERE host = 'a' AND time = to_timestamp_nanos(100)", "v,s\n5,x\n");
    check("SELECT count(*) FROM m WHERE s IS NULL", "count(*)\n0\n");
}

#[test]
fn a_join_of_a_table_with_itself_uses_one_snapshot() {
    for world in worlds() {
        world.tables.taken.lock().unwrap().clear();
        let sql = "SELECT count(*) FROM m AS l JOIN m AS r ON l.host = r.host AND l.time = r.time WHERE l.v <> r.v";
        assert_eq!(world.ask("db", sql).unwrap(), "count(*)\n0\n");
        // Q1: one query reads one snapshot.
        assert_eq!(*world.tables.taken.lock().unwrap(), ["m"]);
    }
}
