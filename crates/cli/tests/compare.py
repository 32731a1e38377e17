"""Reads Delta tables with readers that are not Weir, and compares their rows with what Weir's SQL answered.

usage: compare.py TABLES_FOLDER ANSWERS.json

TABLES_FOLDER is the folder of one database. ANSWERS.json holds, for each table, the rows of
`select cast(time as bigint) as _ns, * from ...` as Weir printed them. Prints {table: {reader: rows}} and ends with
code 1 where a reader's rows differ from Weir's, naming the first difference.
"""

import collections
import json
import os
import sys

import deltalake
import duckdb
import duckdb_extension_delta
import polars


def table_name(folder):
    """The table whose folder this is: bytes other than [a-z0-9_-] are written as =XX."""
    out, at = bytearray(), 0
    while at < len(folder):
        if folder[at] == "=":
            out.append(int(folder[at + 1 : at + 3], 16))
            at += 3
        else:
            out.append(ord(folder[at]))
            at += 1
    return out.decode()


def true_names(path):
    """Stored column name -> the name as written; Delta keeps it in the field's metadata."""
    fields = deltalake.DeltaTable(path).schema().fields
    return {field.name: field.metadata.get("weir.name", field.name) for field in fields}


def read_deltalake(path):
    table = deltalake.DeltaTable(path).to_pyarrow_table()
    frame = polars.from_arrow(table)
    return frame.with_columns(polars.col("time").dt.epoch("us")).to_dicts()


def read_polars(path):
    return polars.read_delta(path).with_columns(polars.col("time").dt.epoch("us")).to_dicts()


def read_duckdb(path):
    connection = duckdb.connect()
    folder = os.path.dirname(duckdb_extension_delta.__file__)
    connection.execute(f"LOAD '{folder}/extensions/v{duckdb.__version__}/delta.duckdb_extension'")
    cursor = connection.execute("select * replace (epoch_us(time) as time) from delta_scan(?)", [path])
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]


READERS = {"deltalake": read_deltalake, "polars": read_polars, "duckdb": read_duckdb}


def value(one):
    """A value that equals itself however it travelled: decimals of unsigned fields become integers."""
    if one is None or isinstance(one, (bool, str)):
        return one
    return float(one) if isinstance(one, float) else int(one)


def of_reader(row, names):
    nanos = row["time"] * 1000 + int(row.get("weir_ns") or 0)
    rest = {names[key]: value(one) for key, one in row.items() if key not in ("time", "weir_ns")}
    return canonical(nanos, rest)


def of_weir(row):
    rest = {key: value(one) for key, one in row.items() if key not in ("time", "_ns")}
    return canonical(row["_ns"], rest)


def canonical(nanos, rest):
    # repr tells 1 from 1.0 from True; numbers of a float field may be printed without a point.
    items = []
    for key, one in sorted(rest.items()):
        if one is not None:
            items.append((key, repr(float(one)) if isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) < 2**53 else repr(one)))
    return (nanos, tuple(items))


def main(tables, answers):
    expected = {name: collections.Counter(map(of_weir, rows)) for name, rows in json.load(open(answers)).items()}
    found, differences = {}, []
    for folder in sorted(os.listdir(tables)):
        path = os.path.join(tables, folder)
        name = table_name(folder)
        names = true_names(path)
        found[name] = {}
        for reader, read in READERS.items():
            rows = collections.Counter(of_reader(row, names) for row in read(path))
            found[name][reader] = sum(rows.values())
            wanted = expected.get(name, collections.Counter())
            for what, extra in (("only there", rows - wanted), ("only in weir", wanted - rows)):
                if extra:
                    first = next(iter(sorted(extra)))
                    differences.append(f"{name!r} by {reader}: {sum(extra.values())} rows {what}, the first {first}")
    for name in sorted(set(expected) - set(found)):
        differences.append(f"{name!r} has no folder")
    print(json.dumps(found))
    for difference in differences:
        print(difference, file=sys.stderr)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
