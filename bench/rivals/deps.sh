#!/usr/bin/env bash
# Installs what `cargo xtask bench dependencies` measures into the folder named by the first argument: the rivals into `tools`, and an
# environment of real packages (bench/deps/packages.txt) into `env`. Both come from the index that pip is configured for.
set -euo pipefail
work=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
if [[ ! -x /usr/bin/time ]]; then
    apt-get install -y --no-install-recommends time
fi
if [[ ! -x $work/tools/bin/liccheck ]]; then
    python3 -m venv "$work/tools"
    # liccheck stands on pkg_resources, which newer setuptools no longer have.
    "$work/tools/bin/pip" install --quiet uv pip-licenses licensecheck liccheck 'setuptools<81'
fi
if [[ ! -f $work/env/installed ]]; then
    "$work/tools/bin/uv" venv --quiet --clear "$work/env"
    "$work/tools/bin/uv" pip install --quiet --python "$work/env/bin/python" --only-binary :all: -r "$here/../deps/packages.txt"
    touch "$work/env/installed"
fi
