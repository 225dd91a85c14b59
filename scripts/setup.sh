#!/usr/bin/env bash
# Sees to the tools that the tests need besides Rust, cc, Python and make; installs missing ones where it may.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" > /dev/null || missing+=("$2"); }
need cmake cmake
need c++ g++
need valgrind valgrind
need pkg-config pkg-config
python3 -c 'import ensurepip, venv' > /dev/null 2>&1 || missing+=(python3-venv)
python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
scripts/packages.sh "${missing[@]}"
