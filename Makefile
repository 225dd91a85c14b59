# make demo      an answer from a small model, with the plan first and the speed last
# make test      everything: cargo's tests, then ctest
# make test-avx512   the kernels' tests on an emulated processor with AVX-512 (Debian; many minutes)
# make test-neon   the kernels' tests on emulated AArch64 processors (Debian; many minutes)
# make cuda-toolchain   NVIDIA's compiler from PyPI, which the CUDA backend is built with; CUDA=1 builds it in
# make cuda-test    the CUDA backend's tests, without a GPU: kernels on an emulator, a stand-in for the driver
# make cuda-asan    the kernels' tests with bounds watched by AddressSanitizer; part of cuda-test
# make bench      speed beside llama.cpp and OpenVINO, a table and a picture (hours; BENCH=--quick: minutes, small cases)
# make bench-kernels   what the CPU's products reach of what a core can do (minutes)
# make bench-cuda   on a real GPU: each kernel's share of the bandwidth, then whole models beside PyTorch
# make bench-cuda-smoke   the run of bench-cuda's whole models, tiny, without a GPU
# make bench-schedule   what scheduling costs a step, and admission on a simulated day; no model is needed
# make cuda-mutants   faults planted in the kernels, and which tests notice
# make gotest    the Go module's tests, with the shared and the static library
# make servertest   the example server, with OpenAI's Python client
# make install   library, headers, pkg-config and CMake files: PREFIX=/usr/local, DESTDIR=
# make asan      the C tests against a library whose Rust is instrumented by AddressSanitizer, too
# make loom      the calls that threads may mix, in every order, by a model checker; part of test
# make tsan      a stress test of many threads under ThreadSanitizer; part of test
# make header    include/larder.h from src/ffi
# make lint      formatting and clippy
# make clean

PREFIX ?= /usr/local
DESTDIR ?=
CC ?= cc
CARGO ?= cargo
DEMO_MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL ?= $(DEMO_MODEL)
QUESTION ?= What is the capital of France, and what is it known for?

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
RELEASE := target/release
PANIC := build/test-panic
lib = $(DESTDIR)$(PREFIX)/lib

# With CUDA=1 the library has its CUDA backend.
CUDA ?=
FEATURES = $(if $(CUDA),--features cuda)

.PHONY: demo test cuda-toolchain cuda-test cuda-asan cuda-mutants bench bench-kernels bench-cuda bench-cuda-smoke bench-cuda-setup bench-schedule test-avx512 test-neon library library-test-panic ctest gotest servertest stage asan loom tsan install header lint clean

demo: library
	@if [ "$(MODEL)" = "$(DEMO_MODEL)" ]; then scripts/fetch_model.sh; fi
	@mkdir -p build
	$(CC) -std=c11 -O2 -Iinclude examples/c/generate.c -o build/generate \
	    -L$(RELEASE) -llarder -Wl,-rpath,$(abspath $(RELEASE))
	@echo
	@build/generate $(MODEL) "$(QUESTION)"

test:
	@scripts/setup.sh
	@scripts/fetch_model.sh || echo "Tests that need the demo model are skipped."
	$(CARGO) test
	python3 -m unittest discover -s bench
	$(MAKE) --no-print-directory cuda-test
	$(MAKE) --no-print-directory ctest
	$(MAKE) --no-print-directory loom
	$(MAKE) --no-print-directory tsan
	$(MAKE) --no-print-directory gotest
	$(MAKE) --no-print-directory servertest

cuda-toolchain:
	@scripts/setup.sh
	@scripts/cuda_toolchain.sh

# One set of features for the tests that need any, so that the library is built once for all of them.
TEST_FEATURES := cuda-standin,test-panic
cuda-test: cuda-toolchain
	$(CARGO) test -p larder-kernels --features standin
	$(CARGO) test --features $(TEST_FEATURES) --test cuda_forward --test cuda_memory --test cuda_failures \
	    --test cuda_weights --test cuda_no_alloc
	scripts/cuda_asan.sh

cuda-asan: cuda-toolchain
	scripts/cuda_asan.sh

# The whole-model grid beside other engines: bench/RESULTS.md and bench/results.svg. BENCH has the options of bench/run.py.
BENCH ?=
bench:
	@scripts/bench_setup.sh
	$(CARGO) build --release --bin larder
	build/bench/venv/bin/python bench/run.py $(BENCH)

# Each product's share of what a core reads and multiplies.
bench-kernels:
	$(CARGO) bench --bench kernels

# On a real GPU: each kernel's share of the device's bandwidth, then whole models beside PyTorch: bench/RESULTS.md. BENCH as
# above. With BENCH_PYTHON, a Python that has torch and transformers, nothing is installed for it.
BENCH_PYTHON ?=
CUDA_PYTHON = $(or $(BENCH_PYTHON),build/bench/venv-cuda/bin/python)
bench-cuda: cuda-toolchain bench-cuda-setup
	$(CARGO) build --release --bin larder --features cuda
	LD_LIBRARY_PATH=$$($(CUDA_PYTHON) bench/cuda.py) $(CARGO) run --release -p larder-kernels --example bench_gpu
	$(CUDA_PYTHON) bench/run.py --device cuda $(BENCH)

# The same whole-model run with tiny models, larder on the stand-in for a GPU, PyTorch on the processor; into build/bench.
bench-cuda-smoke: cuda-toolchain bench-cuda-setup
	$(CARGO) build --bin larder --features cuda-standin
	standin=$$($(CARGO) run -q -p larder-kernels --features standin --example standin_path) && \
	    $(CUDA_PYTHON) bench/run.py --smoke $$standin $(BENCH)

bench-cuda-setup:
	@$(if $(BENCH_PYTHON),true,scripts/bench_setup.sh cuda)

# What scheduling costs a step, and admission on a simulated day.
bench-schedule:
	$(CARGO) bench --bench schedule

# Plants faults in the kernels, one at a time, and tells which tests notice (many minutes).
cuda-mutants: cuda-toolchain
	scripts/cuda_mutants.py

test-avx512:
	scripts/test_avx512.sh

test-neon:
	scripts/test_neon.sh

# The shared library asks to be found under its interface's name.
library: $(if $(CUDA),cuda-toolchain)
	$(CARGO) build --release --lib $(FEATURES)
	@ln -sf liblarder.so $(RELEASE)/liblarder.so.0

# The library of the C tests: with debug assertions, dead memory poisoned, and a way to make it panic.
library-test-panic: cuda-toolchain
	$(CARGO) build --lib --features $(TEST_FEATURES)
	@mkdir -p $(PANIC)
	@cp target/debug/liblarder.so $(PANIC)/liblarder.so
	@ln -sf liblarder.so $(PANIC)/liblarder.so.0

ctest: library library-test-panic
	@standin=$$($(CARGO) run -q -p larder-kernels --features standin --example standin_path) && \
	    cmake -S . -B build/ctest -DCMAKE_BUILD_TYPE=Debug -DLARDER_CUDA_STANDIN=$$standin > /dev/null
	@cmake --build build/ctest --parallel 2 > build/ctest.log || { cat build/ctest.log; exit 1; }
	ctest --test-dir build/ctest --output-on-failure

# An installed larder inside the tree.
STAGE := $(abspath build/stage)
stage: library
	@$(MAKE) --no-print-directory -s install DESTDIR= PREFIX=$(STAGE)

gotest: stage
	@scripts/go_toolchain.sh
	scripts/gotest.sh $(STAGE)

servertest: stage
	@scripts/go_toolchain.sh
	scripts/servertest.sh $(STAGE)

# Valgrind sees no AVX-512; this does. The instrumentation is unstable, hence RUSTC_BOOTSTRAP.
ASAN := target/asan/x86_64-unknown-linux-gnu/debug
asan: library
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address $(CARGO) build --lib --features test-panic \
	    --target x86_64-unknown-linux-gnu --target-dir target/asan
	@ln -sf liblarder.so $(ASAN)/liblarder.so.0
	@cmake -S . -B build/asan -DCMAKE_BUILD_TYPE=Debug -DLARDER_TEST_DIR=$(abspath $(ASAN)) \
	    -DCMAKE_C_FLAGS=-fsanitize=address -DCMAKE_CXX_FLAGS=-fsanitize=address -DVALGRIND=FALSE > /dev/null
	@cmake --build build/asan --parallel 2 > build/asan.log || { cat build/asan.log; exit 1; }
	ctest --test-dir build/asan --output-on-failure -E '^(rounds|install|exports)$$'

# Every interleaving of the edge's calls, by loom.
loom:
	$(CARGO) test --lib --features test-loom serve::edge_models

# Races, looked for by ThreadSanitizer while many threads use engines. The standard library is not instrumented:
# tests/c/tsan.supp tells what that hides. Optimised little, so that it builds in minutes.
TSAN := target/tsan/x86_64-unknown-linux-gnu/tsan
TSAN_ROUNDS ?= 6
tsan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg larder_tsan" \
	    $(CARGO) rustc --lib --crate-type cdylib --profile tsan --target x86_64-unknown-linux-gnu \
	    --target-dir target/tsan
	@ln -sf liblarder.so $(TSAN)/liblarder.so.0
	@mkdir -p build
	$(CC) -std=gnu11 -O1 -g -fno-builtin -fsanitize=thread -rdynamic -Iinclude tests/c/stress.c tests/c/tsan.c \
	    -o build/stress_tsan -L$(TSAN) -llarder -lpthread -Wl,-rpath,$(abspath $(TSAN))
	TSAN_OPTIONS="suppressions=tests/c/tsan.supp halt_on_error=0 second_deadlock_stack=1" \
	    build/stress_tsan tests/data/chat $(TSAN_ROUNDS)

install: library
	install -d $(lib)/pkgconfig $(lib)/cmake/larder $(DESTDIR)$(PREFIX)/include/larder
	install -m 644 include/larder.h include/larder.hpp $(DESTDIR)$(PREFIX)/include
	install -m 644 include/larder/*.hpp $(DESTDIR)$(PREFIX)/include/larder
	install -m 755 $(RELEASE)/liblarder.so $(lib)/liblarder.so.$(VERSION)
	ln -sf liblarder.so.$(VERSION) $(lib)/liblarder.so.0
	ln -sf liblarder.so.0 $(lib)/liblarder.so
	install -m 644 $(RELEASE)/liblarder.a $(lib)/liblarder.a
	for name in larder larder-static; do \
	    sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' packaging/$$name.pc.in \
	        > $(lib)/pkgconfig/$$name.pc; \
	done
	for name in larder-config larder-config-version; do \
	    sed 's|@VERSION@|$(VERSION)|' packaging/$$name.cmake.in > $(lib)/cmake/larder/$$name.cmake; \
	done

header:
	LARDER_WRITE_HEADER=1 $(CARGO) test -q --test header

lint: cuda-toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets -p larder-kernels --features standin -- -D warnings
	$(CARGO) clippy --all-targets --features $(TEST_FEATURES) -- -D warnings

clean:
	$(CARGO) clean
	rm -rf build
