"""Asks Weir and its rivals the same questions in turns, compares all answers cell by cell, and prints the times as JSON.

The rivals hold the rows that Weir gave out: DuckDB in its own format and over one Parquet file, Polars and DataFusion over the same file. Each
round draws new hosts and a new time range for every question, the same for all; the order of the engines changes from round to round. Every
engine hands its answer over as Arrow; Weir does so over HTTP.

With `--beside` rows that are newer than those asked about come into the same table at that rate while an engine is asked, and the engines are
asked one after the other: Weir gets them as lines over HTTP in requests of 1,000, each durable before it is answered, DuckDB as Arrow tables of
10,000 inside this process, each a transaction. Questions that would see the new rows are asked about the rows before them.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

import datafusion
import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

START = 1451606400  # as bench/src/tsbs.rs
FIELDS = ["usage_user", "usage_system", "usage_idle", "usage_nice", "usage_iowait", "usage_irq", "usage_softirq", "usage_steal", "usage_guest",
          "usage_guest_nice"]


def stamp(seconds):
    return time.strftime("TIMESTAMP '%Y-%m-%d %H:%M:%S'", time.gmtime(seconds))


class Shapes:
    """The questions; `draw` fixes their hosts and times."""

    def __init__(self, hosts, hours, seed, is_fed=False):
        self.hosts, self.hours, self.random = hosts, hours, random.Random(seed)
        self.all = f" WHERE time < {stamp(START + hours * 3600)}" if is_fed else ""

    def range(self, hours):
        begin = START + self.random.randrange(max(1, self.hours * 3600 - hours * 3600) // 10) * 10
        return f"time >= {stamp(begin)} AND time < {stamp(begin + hours * 3600)}"

    def some(self, count):
        names = ", ".join(f"'host_{host}'" for host in self.random.sample(range(self.hosts), count))
        return f"hostname IN ({names})" if count > 1 else f"hostname = {names}"

    def draw(self):
        maxima = lambda count: ", ".join(f"max({name}) AS max_{name}" for name in FIELDS[:count])
        means = lambda count: ", ".join(f"avg({name}) AS avg_{name}" for name in FIELDS[:count])
        lasts = ", ".join(f"LAST({name}) AS {name}" for name in FIELDS)
        until = START + self.random.randrange(1800, self.hours * 3600)
        return {
            "single-groupby-1-1-1": f"SELECT date_trunc('minute', time) AS t, {maxima(1)} FROM cpu WHERE {self.some(1)} AND {self.range(1)} "
                                    "GROUP BY 1 ORDER BY 1",
            "single-groupby-5-8-1": f"SELECT date_trunc('minute', time) AS t, {maxima(5)} FROM cpu WHERE {self.some(8)} AND {self.range(1)} "
                                    "GROUP BY 1 ORDER BY 1",
            "cpu-max-all-8": f"SELECT date_trunc('hour', time) AS t, {maxima(10)} FROM cpu WHERE {self.some(8)} AND {self.range(8)} "
                             "GROUP BY 1 ORDER BY 1",
            "double-groupby-1": f"SELECT date_trunc('hour', time) AS t, hostname, {means(1)} FROM cpu WHERE {self.range(12)} GROUP BY 1, 2 "
                                "ORDER BY 1, 2",
            "double-groupby-all": f"SELECT date_trunc('hour', time) AS t, hostname, {means(10)} FROM cpu WHERE {self.range(12)} GROUP BY 1, 2 "
                                  "ORDER BY 1, 2",
            "high-cpu-all": f"SELECT * FROM cpu WHERE usage_user > 90 AND {self.range(12)}",
            "lastpoint": f"SELECT hostname, max(time) AS t, {lasts} FROM cpu{self.all} GROUP BY hostname ORDER BY hostname",
            "groupby-orderby-limit": f"SELECT date_trunc('minute', time) AS t, {maxima(1)} FROM cpu WHERE time < {stamp(until)} GROUP BY 1 "
                                     "ORDER BY 1 DESC LIMIT 5",
            "count-all": f"SELECT count(*) AS n FROM cpu{self.all}",
            "newest-rows": f"SELECT * FROM cpu{self.all} ORDER BY time DESC, hostname LIMIT 10",
        }


def spelled(sql, form):
    """LAST(x) in the words of an engine."""
    while "LAST(" in sql:
        begin = sql.index("LAST(")
        end = sql.index(")", begin)
        sql = sql[:begin] + form.format(sql[begin + 5:end]) + sql[end + 1:]
    return sql


class Weir:
    name = "weir"

    def __init__(self, address):
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=600)

    def ask(self, sql):
        body = json.dumps({"db": "bench", "q": spelled(sql, "last({}, time)"), "format": "arrow"})
        self.connection.request("POST", "/api/v3/query_sql", body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            sys.exit(f"weir answered {answer.status}: {content[:500]}")
        return ipc.open_stream(content).read_all()

    def feed(self, rate, args):
        command = [args.feeder, "--feed", self.address, "--beside", str(rate), "--hosts", str(args.hosts), "--hours", str(args.hours)]
        feeder = subprocess.Popen(command)

        def end():
            if feeder.poll() is not None:
                sys.exit(f"the writer ended by itself: {feeder.returncode}")
            feeder.kill()
            feeder.wait()

        return end


class DuckDb:
    def __init__(self, name, connection):
        self.name, self.connection = name, connection

    def ask(self, sql):
        answer = self.connection.execute(spelled(sql, "arg_max({}, time)")).to_arrow_table()
        return answer.read_all() if isinstance(answer, pa.RecordBatchReader) else answer

    def feed(self, rate, args):
        rows, cursor, over = 10_000, self.connection.cursor(), threading.Event()
        hosts = cursor.execute(f"SELECT * FROM cpu WHERE time = {stamp(START)} ORDER BY hostname").to_arrow_table()
        hosts = hosts.read_all() if isinstance(hosts, pa.RecordBatchReader) else hosts
        chunk = pa.concat_tables([hosts] * (rows // hosts.num_rows))
        place = chunk.schema.get_field_index("time")

        def work():
            begin, number = time.perf_counter(), 0
            while not over.wait(max(0, begin + number * rows / rate - time.perf_counter())):
                later = START + args.hours * 3600 + number * 10 * (rows // hosts.num_rows)
                stamps = [(later + 10 * (row // hosts.num_rows)) * 1_000_000 for row in range(rows)]
                new = chunk.set_column(place, "time", pa.array(stamps, pa.timestamp("us")))
                cursor.register("new", new)
                cursor.execute("INSERT INTO cpu SELECT * FROM new")
                number += 1

        worker = threading.Thread(target=work, daemon=True)
        worker.start()

        def end():
            over.set()
            worker.join()

        return end


class Polars:
    """Its SQL has no arg_max: the last values are asked for in its own words."""

    name = "polars"

    def __init__(self, file):
        self.frame = polars.scan_parquet(file)
        self.context = polars.SQLContext(cpu=self.frame)

    def ask(self, sql):
        if "LAST(" in sql:
            last = [polars.col(name).sort_by("time").last() for name in FIELDS]
            plan = self.frame.group_by("hostname").agg(polars.col("time").max().alias("t"), *last).sort("hostname")
        else:
            plan = self.context.execute(sql)
        return plan.collect().to_arrow()


class DataFusion:
    name = "datafusion"

    def __init__(self, file):
        self.context = datafusion.SessionContext()
        self.context.register_parquet("cpu", file)

    def ask(self, sql):
        batches = self.context.sql(spelled(sql, "last_value({} ORDER BY time)")).collect()
        return pa.Table.from_batches(batches) if batches else None


def plain(table):
    """Columns as numbers and text, rows in one order."""
    columns = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("ns")).cast(pa.int64())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            column = column.cast(pa.large_string())
        else:
            column = column.cast(pa.float64())
        columns.append(column)
    table = pa.table(columns, names=table.column_names)
    return table.sort_by([(name, "ascending") for name in table.column_names])


def check(shape, engine, answer, wanted):
    answer, wanted = plain(answer), plain(wanted)
    if answer.column_names != wanted.column_names or answer.num_rows != wanted.num_rows:
        sys.exit(f"{shape}: {engine} gave {answer.num_rows} rows of {answer.column_names}, not {wanted.num_rows} of {wanted.column_names}")
    for name in answer.column_names:
        mine, theirs = answer[name], wanted[name]
        if pa.types.is_floating(mine.type):
            scale = pc.add(pc.abs(theirs), 1e-300)
            same = pc.less_equal(pc.divide(pc.abs(pc.subtract(mine, theirs)), scale), 1e-9)
        else:
            same = pc.equal(mine, theirs)
        if not pc.all(same, min_count=0).as_py() or mine.null_count != theirs.null_count:
            sys.exit(f"{shape}: column {name} of {engine} differs from that of weir")


def ask_in_turns(engines, args):
    """Times by question and engine, and those of the first round."""
    shapes = Shapes(args.hosts, args.hours, 7)
    times, cold = {}, {}
    for number in range(args.rounds + 1):
        for shape, sql in shapes.draw().items():
            order = engines[number % len(engines):] + engines[:number % len(engines)]
            answers = {}
            for engine in order:
                begin = time.perf_counter()
                answers[engine.name] = engine.ask(sql)
                took = time.perf_counter() - begin
                if number > 0:
                    times.setdefault(shape, {}).setdefault(engine.name, []).append(took * 1000)
                else:
                    # The first of all questions: nothing is decoded yet, though the files may be in the page cache.
                    cold.setdefault(shape, {})[engine.name] = took * 1000
            for name, answer in answers.items():
                check(shape, name, answer, answers[engines[0].name])
    return times, cold


def ask_fed(engines, args):
    """The same, each engine by itself while it is fed; and the rows a second that it took."""
    times, cold, rates, wanted = {}, {}, {}, {}
    for engine in engines:
        shapes = Shapes(args.hosts, args.hours, 7, is_fed=True)
        count = lambda: engine.ask("SELECT count(*) AS n FROM cpu")["n"][0].as_py()
        before, begun = count(), time.perf_counter()
        end = engine.feed(args.beside, args)
        time.sleep(5)
        for number in range(args.rounds + 1):
            for shape, sql in shapes.draw().items():
                begin = time.perf_counter()
                answer = engine.ask(sql)
                took = (time.perf_counter() - begin) * 1000
                if number > 0:
                    times.setdefault(shape, {}).setdefault(engine.name, []).append(took)
                else:
                    cold.setdefault(shape, {})[engine.name] = took
                check(shape, engine.name, answer, wanted.setdefault((number, shape), answer))
        fed = time.perf_counter() - begun
        end()
        rates[engine.name] = (count() - before) / fed
    return times, cold, rates


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--weir", required=True, help="host:port of the server that holds the rows")
    args.add_argument("--folder", required=True, help="where rivals keep theirs")
    args.add_argument("--rounds", type=int, default=9)
    args.add_argument("--hosts", type=int, default=1000)
    args.add_argument("--hours", type=int, default=24)
    args.add_argument("--engines", default="weir,duckdb,duckdb-parquet,polars,datafusion")
    args.add_argument("--beside", type=int, default=0, help="rows a second that come in while questions are asked")
    args.add_argument("--feeder", help="the program that writes to weir at that rate")
    args = args.parse_args()
    weir = Weir(args.weir)
    names = args.engines.split(",")
    file, own = os.path.join(args.folder, "cpu.parquet"), os.path.join(args.folder, "cpu.duckdb")
    if not os.path.exists(own) and names != ["weir"]:
        rows = weir.ask("SELECT * FROM cpu")
        is_text = lambda kind: pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)
        rows = rows.set_column(0, "time", rows["time"].cast(pa.timestamp("us"))).cast(pa.schema(
            [(field.name, pa.string() if is_text(field.type) else field.type)
             for field in rows.schema.set(0, pa.field("time", pa.timestamp("us")))]))
        pq.write_table(rows.sort_by([("hostname", "ascending"), ("time", "ascending")]), file, compression="zstd")
        rows = rows.sort_by([("time", "ascending"), ("hostname", "ascending")])
        connection = duckdb.connect(own)
        connection.execute("CREATE TABLE cpu AS SELECT * FROM rows")
        connection.close()
        del rows
    if args.beside and "duckdb" in names:
        own = shutil.copy(own, os.path.join(args.folder, "beside.duckdb"))
    engines = []
    for name in names:
        if name == "weir":
            engines.append(weir)
        elif name == "duckdb":
            engines.append(DuckDb(name, duckdb.connect(own, read_only=not args.beside)))
        elif name == "duckdb-parquet":
            connection = duckdb.connect()
            connection.execute("SET parquet_metadata_cache = true")
            connection.execute(f"CREATE VIEW cpu AS SELECT * FROM read_parquet('{file}')")
            engines.append(DuckDb(name, connection))
        else:
            engines.append({"polars": Polars, "datafusion": DataFusion}[name](file))
    rates = {}
    if args.beside:
        times, cold, rates = ask_fed(engines, args)
    else:
        times, cold = ask_in_turns(engines, args)
    size = lambda path: os.path.getsize(path) if os.path.exists(path) else None
    versions = {"duckdb": duckdb.__version__, "polars": polars.__version__, "datafusion": datafusion.__version__}
    medians = {shape: {name: statistics.median(of) for name, of in by.items()} for shape, by in times.items()}
    json.dump({"medians_ms": medians, "cold_ms": cold, "bytes": {"duckdb": size(own), "parquet": size(file)}, "versions": versions, "rounds": args.rounds,
               "beside": rates}, sys.stdout)


main()
