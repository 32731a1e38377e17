#!/usr/bin/env bash
# Installs the rivals that `cargo xtask bench ingest` can measure beside Weir. On request only: nothing else needs them.
set -euo pipefail
missing=()
command -v victoria-metrics >/dev/null || missing+=(victoria-metrics)
command -v influxd >/dev/null || missing+=(influxdb)
if ((${#missing[@]})); then
    apt-get update
    apt-get install -y --no-install-recommends "${missing[@]}"
fi
victoria-metrics --version
influxd version
