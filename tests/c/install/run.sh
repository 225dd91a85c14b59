#!/usr/bin/env bash
# Installs larder, then builds and runs the examples by pkg-config and by CMake, the C one shared and static.
set -euo pipefail
source=$1 folder=$2 model=$3
prefix=$folder/prefix
rm -rf "$folder"
mkdir -p "$folder"

make -s -C "$source" install PREFIX="$prefix"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
example=$source/examples/c/generate.c
example_cpp=$source/examples/cpp/generate.cpp
cd "$folder"

read -ra flags < <(pkg-config --cflags --libs larder)
cc -std=c11 "$example" -o by_pkg_config "${flags[@]}" -Wl,-rpath,"$prefix/lib"
c++ -std=c++20 "$example_cpp" -o cpp_by_pkg_config "${flags[@]}" -Wl,-rpath,"$prefix/lib"

read -ra includes < <(pkg-config --cflags larder)
read -ra others < <(pkg-config --static --libs-only-l larder | sed 's/-llarder//')
cc -std=c11 "${includes[@]}" "$example" -o by_pkg_config_static "$prefix/lib/liblarder.a" "${others[@]}"

cmake -S "$source/tests/c/install" -B cmake -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLE="$example" \
    -DEXAMPLE_CPP="$example_cpp" > /dev/null
cmake --build cmake > /dev/null

for program in by_pkg_config by_pkg_config_static cmake/generate_shared cmake/generate_static; do
    echo "== $program"
    "./$program" "$model" "the question" | grep -a speed
done
for program in cpp_by_pkg_config cmake/generate_cpp; do
    echo "== $program"
    "./$program" "$model" "the question" | grep -a 'answer tokens'
done
# No pipes into grep -q: it ends early, and the writer would fail.
linked=$(ldd by_pkg_config)
grep -q "liblarder.so.0 => $prefix/lib/" <<< "$linked"
for program in by_pkg_config_static cmake/generate_static; do
    linked=$(ldd "$program")
    if grep -q liblarder <<< "$linked"; then
        echo "$program wants liblarder.so"
        exit 1
    fi
done

# Staged: everything lies under DESTDIR, the files speak of PREFIX alone.
make -s -C "$source" install DESTDIR="$folder/stage" PREFIX=/opt/larder
test -f "$folder/stage/opt/larder/lib/liblarder.a"
grep -q '^prefix=/opt/larder$' "$folder/stage/opt/larder/lib/pkgconfig/larder.pc"
