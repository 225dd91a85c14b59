#!/usr/bin/env bash
# Puts NVIDIA's CUDA compiler from PyPI into build/cuda-toolchain: what building and testing the CUDA backend needs.
# Neither a GPU nor a driver is needed, and nothing outside of that folder changes.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/cuda-toolchain
pins=kernels/requirements.txt

if cmp -s "$pins" "$folder/installed.txt"; then
    exit 0
fi
if ! python3 -c 'import ensurepip, venv' > /dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv > /dev/null
    else
        echo "The CUDA compiler needs Python's venv module: install python3-venv and try again." >&2
        exit 1
    fi
fi
echo "installing the CUDA compiler into $folder"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --no-deps --disable-pip-version-check -r "$pins"
cp "$pins" "$folder/installed.txt"
