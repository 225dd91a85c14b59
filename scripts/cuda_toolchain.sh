#!/usr/bin/env bash
# Puts the pinned CUDA compiler from PyPI into build/cuda-toolchain, where kernels/build.rs looks for it (104 MB to
# download, 271 MB on disk). Does nothing where that is done already, or where NVCC names a compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/cuda-toolchain
pins=kernels/requirements.txt
if [ -n "${NVCC:-}" ] && [ -x "$NVCC" ]; then
    echo "Using $NVCC."
    exit 0
fi
if [ -f "$folder/pins" ] && cmp -s "$pins" "$folder/pins"; then
    exit 0
fi

python3 -m venv "$folder" 2> /dev/null || {
    echo "The CUDA compiler is installed with Python's venv and pip: install python3-venv." >&2
    exit 1
}
# Exactly these: what pip would choose for their dependencies does not fit together.
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins"
"$folder"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc --version | tail -n 2
cp "$pins" "$folder/pins"
