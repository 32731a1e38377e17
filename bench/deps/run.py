"""Measures `weir deps check` from the outside, beside its rivals, in one run.

usage: run.py WEIR [--work DIR]     (needs a Python with venv, and an index that pip is configured for)

Installs the packages of packages.txt into an environment, checks that every tool sees the same packages, and prints a table of wall time
(median of five) and peak memory. Generated environments of 500 and 10,000 packages have the declaration mix of the real one.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
MIX = [(43, "expression"), (35, "both"), (13, "text"), (10, "classifier")]
MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "
    '"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, '
    "distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the "
    "following conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions of the "
    'Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF '
    "MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY "
    "CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE "
    "SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.\n"
)


def generate(folder: pathlib.Path, count: int) -> pathlib.Path:
    site = folder / f"generated-{count}" / "site-packages"
    if site.exists():
        return site
    kinds = [kind for share, kind in MIX for _ in range(share)]
    for number in range(count):
        info = site / f"package_{number}-1.{number}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", f"Name: package-{number}", f"Version: 1.{number}"]
        kind = kinds[number % len(kinds)]
        lines += {
            "expression": ["License-Expression: MIT"],
            "both": ["License: MIT License", "Classifier: License :: OSI Approved :: MIT License"],
            "text": [],
            "classifier": ["Classifier: License :: OSI Approved :: MIT License"],
        }[kind]
        lines += [f"Requires-Dist: package-{(number * 7 + step) % count}>=1" for step in range(5)]
        if kind != "classifier":
            lines.append("License-File: LICENSE")
            (info / "licenses").mkdir()
            (info / "licenses" / "LICENSE").write_text(f"Copyright (c) {number}\n\n{MIT}")
        (info / "METADATA").write_text("\n".join(lines) + "\n\n" + "A description.\n" * 200)
    return site


def measure(command: list[str], runs: int = 5, before=None) -> tuple[float, float, str]:
    times, peak, output = [], 0, ""
    for _ in range(runs):
        if before:
            before()
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        output = process.stdout.read()
        _, _, usage = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - started)
        peak = max(peak, usage.ru_maxrss)
    return statistics.median(times), peak / 1024, output


def drop_pages() -> None:
    """Makes a run cold where this may be done: else the first column is as warm as the second."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weir")
    parser.add_argument("--work", default="bench-deps")
    options = parser.parse_args()
    work = pathlib.Path(options.work).resolve()
    work.mkdir(exist_ok=True)
    tools, env = work / "tools", work / "env"
    if not tools.exists():
        subprocess.run([sys.executable, "-m", "venv", tools], check=True)
        subprocess.run([tools / "bin/pip", "install", "-q", "uv", "pip-licenses", "licensecheck", "liccheck"], check=True)
    if not env.exists():
        subprocess.run([tools / "bin/uv", "venv", "-q", env], check=True)
        subprocess.run(
            [tools / "bin/uv", "pip", "install", "-q", "--python", env / "bin/python", "--only-binary", ":all:", "-r", HERE / "packages.txt"],
            check=True,
        )
    os.environ["WEIR_DATA"] = str(work / "data")
    shutil.rmtree(work / "data", ignore_errors=True)
    weir = [options.weir, "deps", "check", "--format", "json", "--env"]
    rows = []
    seconds, memory, output = measure([*weir, str(env)])
    packages = json.loads(output)["summary"]["packages"]
    rows.append(("weir deps check, warm", packages, seconds, memory))
    seconds, memory, _ = measure([*weir, str(env)], runs=3, before=drop_pages)
    rows.append(("weir deps check, cold", packages, seconds, memory))
    for count in (500, 10_000):
        seconds, memory, output = measure([*weir, str(generate(work, count))])
        found = json.loads(output)
        assert found["summary"]["approved"] == count, found["summary"]
        rows.append((f"weir deps check, {count} generated", count, seconds, memory))
    seconds, memory, output = measure([str(tools / "bin/uv"), "pip", "list", "--format", "json", "--python", str(env / "bin/python")])
    rows.append(("uv pip list", len(json.loads(output)), seconds, memory))
    seconds, memory, output = measure(
        [str(tools / "bin/pip-licenses"), "--python", str(env / "bin/python"), "--from=all", "--format=json", "--with-system"], runs=3
    )
    rows.append(("pip-licenses", len(json.loads(output)), seconds, memory))
    assert rows[0][1] == rows[4][1], "the tools do not see the same packages"
    base = rows[0][2]
    print("| tool | packages | wall, ms | times weir | peak memory, MiB |\n|---|---|---|---|---|")
    for name, count, seconds, memory in rows:
        print(f"| {name} | {count} | {seconds * 1000:.1f} | {seconds / base:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
