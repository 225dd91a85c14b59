#!/usr/bin/env bash
# Puts the peers of `make bench` into build/bench/venv. llama.cpp is built here with the processor's own instructions, which
# takes ten minutes of processor time or more. A peer that cannot be installed is left out; the results say so.
# With the argument `cuda`: PyTorch for `make bench-cuda`, with NVIDIA's libraries, into build/bench/venv-cuda (gigabytes).
set -euo pipefail
cd "$(dirname "$0")/.."

make_venv() {
    python3 -m venv "$folder" 2> /dev/null || {
        echo "The benchmark's peers are installed with Python's venv and pip: install python3-venv." >&2
        exit 1
    }
}
pip() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

if [ "${1:-}" = cuda ]; then
    folder=build/bench/venv-cuda
    pins=bench/requirements_cuda.txt
    if ! cmp -s "$pins" "$folder/pins"; then
        make_venv
        pip -r "$pins"
        cp "$pins" "$folder/pins"
    fi
    exit 0
fi

folder=build/bench/venv
pins=bench/requirements.txt
llama_cpp=llama-cpp-python==0.3.36

if [ -f "$folder/pins" ] && { cat "$pins" && echo "$llama_cpp"; } | cmp -s - "$folder/pins"; then
    exit 0
fi
for tool in cc c++; do
    command -v $tool > /dev/null || { echo "The benchmark needs $tool." >&2; exit 1; }
done
make_venv

complete=yes
grep -v openvino "$pins" | pip -r /dev/stdin
pip "$(grep openvino "$pins")" || { complete=; echo "OpenVINO GenAI could not be installed." >&2; }
echo "building llama.cpp"
CMAKE_ARGS="-DGGML_NATIVE=ON" pip --no-binary llama-cpp-python "$llama_cpp" ||
    { complete=; echo "llama.cpp could not be built." >&2; }
if [ -n "$complete" ]; then
    { cat "$pins" && echo "$llama_cpp"; } > "$folder/pins"
fi
