#!/usr/bin/env bash
# The kernels' tests on a stand-in that is built with AddressSanitizer: reads and writes out of bounds of device memory,
# of dynamic shared memory and of stacks.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/cuda_toolchain.sh

export LARDER_STANDIN_ASAN=1
tests=(attention embed finish gemm gemv norm ptx rope sample small)
target=target/standin-asan
list=$(cargo test -p larder-kernels --features standin --target-dir $target --no-run "${tests[@]/#/--test=}" 2>&1) || { echo "$list"; exit 1; }
for program in $(sed -n 's/.*(\(target.*\))$/\1/p' <<< "$list"); do
    echo "$program"
    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 "$program" --quiet
done
