#!/usr/bin/env bash
# Compiles every kernel for all architectures that the library supports; fails where a kernel spills registers to memory
# or an architecture is missing. Only what changed is compiled again: build/cuda-compile has the results.
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=${NVCC:-$(ls build/cuda-toolchain/lib/python*/site-packages/nvidia/cu13/bin/nvcc | head -n 1)}
to=build/cuda-compile
architectures="80 86 89 90a 100 120"
mkdir -p "$to"

flags="-std=c++17 -O3 -fatbin -Xptxas -v -gencode arch=compute_80,code=compute_80"
for arch in $architectures; do flags+=" -gencode arch=compute_$arch,code=sm_$arch"; done
compile() {
    name=$(basename "$1" .cu)
    if [ "$to/$name.fatbin" -nt "$1" ] && [ -z "$(find kernels/cuda -name '*.cuh' -newer "$to/$name.fatbin")" ]; then
        return
    fi
    # shellcheck disable=SC2086
    "$nvcc" $flags -o "$to/$name.part" "$1" > "$to/$name.log" 2>&1 || { cat "$to/$name.log"; exit 1; }
    mv "$to/$name.part" "$to/$name.fatbin"
}
export -f compile
export nvcc to flags
printf '%s\n' kernels/cuda/*.cu | xargs -P "$(nproc)" -I {} bash -c 'set -e; compile {}'

failed=0
for source in kernels/cuda/*.cu; do
    log=$to/$(basename "$source" .cu).log
    if grep -E 'bytes spill' "$log" | grep -qvE ' 0 bytes spill stores, 0 bytes spill loads'; then
        echo "$source spills registers:" >&2
        grep -E -B1 '[1-9][0-9]* bytes spill' "$log" >&2
        failed=1
    fi
    for arch in $architectures; do
        if ! grep -q "for 'sm_$arch'" "$log"; then
            echo "$source has no code for sm_$arch" >&2
            failed=1
        fi
    done
done
[ $failed -eq 0 ] && echo "kernels: $(ls kernels/cuda/*.cu | wc -l) files for sm_${architectures// /, sm_}, no spills"
exit $failed
