# To be sourced, from the root of the tree: Go, and larder as installed under $prefix.
export PATH=$PWD/build/go-toolchain/bin:$PATH
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
# Go's build cache knows nothing of a header elsewhere, but of this flag.
CGO_CFLAGS="-O2 -g -DLARDER_$( (echo "$prefix"; cat "$prefix/include/larder.h") | sha256sum | cut -c 1-16)"
export CGO_CFLAGS
