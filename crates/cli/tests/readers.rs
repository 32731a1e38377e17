//! Readers that are not Weir see the same rows in the tables: Polars, DuckDB and the Delta library for Python.

mod harness;

use harness::{Weir, compare_with_readers, folder};

/// Names as people write them; in line protocol a space, a comma and an equals sign are escaped.
const NAMES: [&str; 6] = ["A", "a", "my field", "x=y", "é", "100%"];

fn escaped(name: &str) -> String {
    name.replace(' ', "\\ ").replace('=', "\\=")
}

/// E3: after flush and compaction, for every name as measurement, tag and field, for every type and edge of it.
#[test]
fn see_the_same_rows_whatever_the_names() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = Weir::start(&data);
    let mut expected = 0;
    for flush in 0..3_i64 {
        let mut lines = String::new();
        for name in NAMES {
            let tag = escaped(name);
            let fields: Vec<String> = NAMES.iter().map(|field| format!("{}={flush}.5", escaped(field))).collect();
            // A measurement escapes no equals sign.
            let measurement = name.replace(' ', "\\ ");
            for host in 0..3 {
                let nanos = 1_600_000_000_000_000_000 + flush * 1_000_000_000 + host;
                lines.push_str(&format!("{measurement},t{tag}=h{host} {} {nanos}\n", fields.join(",")));
            }
            // One row that every flush writes again: the last wins, field by field.
            lines.push_str(&format!("{measurement},t{tag}=same {}={flush}.25 1600000000000000000\n", tag));
        }
        server.write_all("names", &lines);
        server.flush();
        expected += 3;
    }
    for name in NAMES {
        server.compact("names", name);
        let count = server.sql("names", &format!("select count(*) as n from {}", harness::quoted(name)));
        assert_eq!(count[0]["n"], expected + 1, "{name}");
        let last = server.sql(
            "names",
            &format!(
                "select {field} as v from {table} where {tag} = 'same'",
                field = harness::quoted(name),
                table = harness::quoted(name),
                tag = harness::quoted(&format!("t{name}")),
            ),
        );
        assert_eq!(last[0]["v"], 2.25, "{name}");
    }
    let found = compare_with_readers(&server, &harness::tables_folder(&data, "names"), "names", &NAMES);
    assert_eq!(found.len(), NAMES.len());
    for name in NAMES {
        for reader in ["deltalake", "polars", "duckdb"] {
            assert_eq!(found[name][reader], expected + 1, "{name} by {reader}");
        }
    }
    server.stop();
}

/// E3: every type at its edges, times before 1970 and between microseconds, and columns that come later.
#[test]
fn see_the_same_values_at_the_edges_of_every_type() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = Weir::start(&data);
    let rounds = [
        "edges,k=a f=1.7976931348623157e308,i=9223372036854775807i,u=18446744073709551615u,b=true,s=\"\" 1\n\
         edges,k=b f=-0.1,i=-9223372036854775808i,u=0u,b=false,s=\"a \\\"quoted\\\" \\\\ line\nof two\" -1\n\
         edges f=1 -1600000000000000001\n\
         edges,k=a f=2 1600000000000000999\n",
        "edges,k=a,later=x new=1i 2\nedges,k=a i=5i 1\nedges,k=c u=9007199254740993u 1600000000000001000\n",
    ];
    for lines in rounds {
        server.write_all("edges", lines);
        server.flush();
    }
    server.compact("edges", "edges");
    let found = compare_with_readers(&server, &harness::tables_folder(&data, "edges"), "edges", &["edges"]);
    for reader in ["deltalake", "polars", "duckdb"] {
        assert_eq!(found["edges"][reader], 6, "{reader}");
    }
    let merged = server.sql("edges", "select i, u, b, f from edges where k = 'a' and cast(time as bigint) = 1");
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0]["i"], 5);
    assert_eq!(merged[0]["u"], serde_json::json!(18_446_744_073_709_551_615_u64));
    assert_eq!(merged[0]["b"], true);
    server.stop();
}
