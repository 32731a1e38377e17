#!/usr/bin/env bash
# Installs the rivals of `cargo xtask bench query` from the index that pip is configured for, into the folder named by the first argument.
# Then: BENCH_PYTHON=FOLDER/bin/python cargo xtask bench query
set -euo pipefail
work=$1
if [[ ! -x $work/bin/python ]]; then
    python3 -m venv "$work"
fi
"$work/bin/pip" install --quiet 'duckdb==2.0.0' 'polars==2.1.0' 'pyarrow' 'datafusion==55.0.0'
"$work/bin/python" -c 'import duckdb, polars, datafusion; print(duckdb.__version__, polars.__version__, datafusion.__version__)'
