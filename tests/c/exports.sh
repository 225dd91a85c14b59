#!/usr/bin/env bash
# The shared library exports larder_* only, and exactly what the header declares.
set -euo pipefail
library=$1
header=$(dirname "$0")/../../include/larder.h

exported=$(nm -D --defined-only "$library" | awk '{print $NF}' | sort -u)
declared=$(grep -oE '^[a-z].*\blarder_[a-z_]+\(' "$header" | grep -oE 'larder_[a-z_]+\(' | tr -d '(' | sort -u)
diff <(echo "$declared") <(echo "$exported")

headers=$(objdump -p "$library")
grep -qE 'SONAME +liblarder\.so\.0$' <<< "$headers"
