#!/usr/bin/env bash
# Checks and tests the Go code against an installed larder: the shared library under the race detector, then the static
# one with strict checks of every pointer that C gets and a collection of garbage at every turn.
#     gotest.sh PREFIX
set -euo pipefail
prefix=$(realpath "$1")
cd "$(dirname "$0")/.."

source scripts/go_env.sh
modules=(bindings/go examples/go/server)

unformatted=$("$(go env GOROOT)/bin/gofmt" -l "${modules[@]}")
if [ -n "$unformatted" ]; then
    echo "gofmt would change: $unformatted" >&2
    exit 1
fi
for module in "${modules[@]}"; do
    echo "== $module"
    (cd "$module" && go vet ./... && go test -count=1 -race ./...)
done
echo "== bindings/go, static"
cd bindings/go
export GOFLAGS="${GOFLAGS:-} -tags=larder_static"
unset LD_LIBRARY_PATH
GOGC=1 GOEXPERIMENT=cgocheck2 GODEBUG=cgocheck=1 go test -count=1 ./...
