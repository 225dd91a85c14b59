#!/usr/bin/env bash
# Builds the example server against an installed larder, and has OpenAI's Python client talk to it.
#     servertest.sh PREFIX
set -euo pipefail
prefix=$(realpath "$1")
cd "$(dirname "$0")/.."

source scripts/go_env.sh
(cd examples/go/server && go build -race -o ../../../build/server .)

folder=build/server-tests
pins=tests/server/requirements.txt
if ! cmp -s "$pins" "$folder/pins"; then
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
    cp "$pins" "$folder/pins"
fi
export LARDER_SERVER=build/server PYTHONDONTWRITEBYTECODE=1
"$folder/bin/python" -m pytest -q -p no:cacheprovider tests/server
