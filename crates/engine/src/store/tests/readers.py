"""Reads tables of Weir with Delta readers that are not Weir's and compares every value with what was written."""

import datetime
import json
import pathlib
import sys

import deltalake
import duckdb
import duckdb_extension_delta
import polars

given = json.loads(sys.argv[1])
stored = given["stored"]
UTC = datetime.timezone.utc
micros = lambda us: datetime.datetime(1970, 1, 1, tzinfo=UTC) + datetime.timedelta(microseconds=us)
TIMES = [(micros(-1), 999), (micros(1_700_000_000_123_456), 789), (micros(1_700_000_000_123_457), None)]
TAGS = [None, "v ä", "w"]
FIELDS = {
    "A": [1.5, -0.0, None],
    "a": [-(2**63), 2**63 - 1, None],
    "my field": [0, 2**64 - 1, None],
    "x=y": [True, False, None],
    "é": ["", 'text, "q" é', None],
    "100%": [0, 2**64 - 1, None],
}


def expected(row):
    values = [TAGS[row] if name not in FIELDS else FIELDS[name][row] for name in given["names"]]
    return [*TIMES[row], *values]


def check(reader, table, rows):
    rows = sorted((list(row) for row in rows), key=lambda row: row[0])
    rows = [[int(v) if type(v).__name__ == "Decimal" else v for v in row] for row in rows]
    wanted = [expected(row) for row in range(3)]
    assert rows == wanted, f"{reader}, table {table!r}:\n{rows}\n{wanted}"


columns = ["time", "weir_ns", *stored]
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
# The wheel holds the extension's file; nothing is downloaded.
package = pathlib.Path(duckdb_extension_delta.__file__).parent
extension = next(package.glob("extensions/*/delta.duckdb_extension"))
connection.execute(f"LOAD '{extension}'")

for table, folder in given["tables"]:
    path = f"{given['root']}/{folder}"
    delta = deltalake.DeltaTable(path)
    fields = {field.name: field.metadata for field in delta.schema().fields}
    for name, column in zip(given["names"], stored):
        assert fields[column].get("weir.name", column) == name, (table, column, fields[column])
    frame = polars.scan_delta(path).select(columns)
    check("polars", table, frame.collect().rows())
    one = frame.filter(polars.col("time") == TIMES[1][0]).collect().rows()
    assert len(one) == 1 and one[0][1] == TIMES[1][1], (table, one)
    listed = ", ".join('"' + column + '"' for column in columns)
    query = f"SELECT {listed} FROM delta_scan('{path}')"
    found = [[v.astimezone(UTC) if isinstance(v, datetime.datetime) else v for v in row]
             for row in connection.execute(query).fetchall()]
    check("duckdb", table, found)
    last = connection.execute(f"SELECT count(*) FROM delta_scan('{path}') WHERE time >= '2023-11-14 22:13:20.123457+00'")
    assert last.fetchone() == (1,), table
    arrow = delta.to_pyarrow_table(columns=columns)
    check("deltalake", table, [[cell.as_py() for cell in row] for row in zip(*arrow.columns)])
    delta.create_checkpoint()

print(f"{len(given['tables'])} tables, 3 readers")
