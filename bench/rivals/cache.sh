#!/usr/bin/env bash
# Installs the rivals of `cargo xtask bench cache` that are no crates: diskcache into a Python environment in the folder named by the first
# argument, and the distribution's Redis. Then: BENCH_PYTHON=FOLDER/bin/python cargo xtask bench cache -- all --weir PATH
set -euo pipefail
work=$1
if [[ ! -x $work/bin/python ]]; then
    python3 -m venv "$work"
fi
"$work/bin/pip" install --quiet diskcache
"$work/bin/python" -c 'import diskcache; print("diskcache", diskcache.__version__)'
if ! command -v redis-server >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends redis-server
fi
redis-server --version
