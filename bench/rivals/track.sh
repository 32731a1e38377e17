#!/usr/bin/env bash
# Installs what `cargo xtask bench track` measures Weir beside: hyperfine from the distribution, Apache Otava from the index
# that pip is configured for, into the folder named by the first argument.
set -euo pipefail
work=$1
mkdir -p "$work"
if ! command -v hyperfine > /dev/null; then
    apt-get install -y --no-install-recommends hyperfine
fi
if [[ ! -f $work/otava/installed ]]; then
    python3 -m venv "$work/otava"
    "$work/otava/bin/pip" install --quiet --disable-pip-version-check 'apache-otava==0.8.0'
    touch "$work/otava/installed"
fi
