#!/usr/bin/env bash
# Runs the CPU kernels' tests as an AArch64 program in qemu's emulator: once on a processor with dotprod, once on one
# without. Arguments go to the test program; without arguments it takes up to ten minutes for each.
# For Debian on x86-64; what is missing is installed where that is allowed.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
    set -- backend::cpu
fi
target=aarch64-unknown-linux-gnu
scripts/packages.sh gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    rustup target add "$target"
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
for cpu in max cortex-a53; do
    echo "on qemu's $cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu" \
        cargo test --lib --target "$target" -- "$@"
done
