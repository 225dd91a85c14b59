"""The faults that scripts/cuda_mutants.py plants: each is one line of a kernel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    file: str  # in kernels/cuda
    what: str
    old: str
    new: str
    tests: tuple  # that should notice, the likeliest first; cuda_* are larder's, the others the kernels crate's
    occurrence: int = 1
    remark: str = ""  # where it cannot be noticed: why
    sources: tuple = ()  # kernel files to build with it, without their ending; none: all that include it


GEMM = ("gemm", "finish", "cuda_forward", "cuda_weights")
ATTEND = ("attention", "cuda_forward")
GEMV = ("gemv", "cuda_forward", "cuda_weights")
# The kernels that the test `finish` launches.
FINISH = ("finish_q", "gemm_f32")
SMALL = ("small", "cuda_forward", "cuda_weights")

MUTANTS = [
    # ---- reductions that all kernels share ----
    Mutant("larder.cuh", "block_sum without its first barrier",
           "    scratch[warp] = value;\n    __syncthreads();", "    scratch[warp] = value;", ("ptx", "norm"), sources=("norm", "ptx_test")),
    Mutant("larder.cuh", "block_sum without its last barrier",
           ": 0.0f);\n    __syncthreads();", ": 0.0f);", ("ptx", "norm"), sources=("norm", "ptx_test")),
    Mutant("larder.cuh", "warp_sum leaves out a distance",
           "distance = 16; distance > 0", "distance = 8; distance > 0", ("ptx", "norm"), sources=("norm", "ptx_test")),
    # ---- norms, gate, RoPE ----
    Mutant("norm.cu", "no pdl_wait", "    pdl_wait();\n", "", ("norm",)),
    Mutant("norm.cu", "gather_rows writes a column too many",
           "if (column >= n) return;", "if (column > n) return;", ("norm",)),
    Mutant("norm.cu", "gather_rows without the bound of its last group",
           "if (first + j < n_rows) held", "held", ("norm",),
           remark="reads rows behind the list and drops them: for AddressSanitizer"),
    Mutant("rope.cu", "one pair too many", "if (at >= size_t", "if (at > size_t", ("rope",)),
    Mutant("gate.cu", "the last columns not cut off", "i < min(first + WIDE, rows.n)", "i < first + WIDE", ("norm",)),
    # ---- what products do with their results ----
    Mutant("finish.cuh", "head: no __syncwarp between norm and RoPE",
           "            values[i] = value;\n        }\n        __syncwarp();",
           "            values[i] = value;\n        }", ("finish",), sources=FINISH),
    Mutant("finish.cuh", "head: no __syncwarp between RoPE's reads and writes",
           "f.rope_pairs, i);\n        }\n        __syncwarp();", "f.rope_pairs, i);\n        }", ("finish",), sources=FINISH),
    Mutant("finish.cuh", "head: no __syncwarp before it is stored",
           "values[lane + 32 * j] = held[j];\n        }\n        __syncwarp();",
           "values[lane + 32 * j] = held[j];\n        }", ("finish", "cuda_forward"),
           sources=FINISH,
           remark="q is stored by the lanes that have written it; K's f16 and 8-bit rows are not"),
    Mutant("kv.cuh", "8-bit K and V: the largest of one lane instead of the warp",
           "    largest = warp_max(largest);\n", "", ("finish",), sources=FINISH),
    # ---- products of few rows ----
    Mutant("gemv.cuh", "no barrier before the ending", "    __syncthreads();\n    finish_block<R>", "    finish_block<R>", GEMV),
    Mutant("gemv.cuh", "lanes exchange the wrong halves", "upper ? low : high, kept", "upper ? high : low, kept", GEMV),
    Mutant("gemv.cuh", "no bound of n_in", "if (k < n_in && row < p.n_rows)", "if (row < p.n_rows)", GEMV,
           remark="reads behind a row, times weights that are zero: for AddressSanitizer"),
    Mutant("gemv.cuh", "the weights of a later chunk not loaded",
           "if (chunk < chunks) load_unit<F, R>(p, u, chunk, t, held);", "", GEMV),
    Mutant("small.cuh", "no barrier before the ending",
           "    __syncthreads();\n    finish_block<SMALL_UNIT>", "    finish_block<SMALL_UNIT>", SMALL),
    Mutant("small.cuh", "tile's columns in the wrong lanes", "8 * tile + 2 * t + i % 2", "8 * tile + t + 4 * (i % 2)", SMALL),
    Mutant("small.cuh", "no bound of the rows", "if (token < p.n_rows && k[i] < n_in)", "if (k[i] < n_in)", SMALL,
           remark="reads rows behind the last and drops their products: for AddressSanitizer"),
    # ---- products of many rows ----
    Mutant("gemm_mma.cuh", "waits for one copy too few", "cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>", GEMM),
    Mutant("gemm_mma.cuh", "no barrier behind the wait",
           "cp_async_wait<STAGES - 2>();\n            __syncthreads();", "cp_async_wait<STAGES - 2>();", GEMM),
    Mutant("gemm_mma.cuh", "ldmatrix of the wrong half", "2 * half + lane / 8 % 2", "2 * half + lane / 16 % 2", GEMM),
    Mutant("gemm_mma.cuh", "no bound of the rows", "const bool valid = inside && row < n_rows;", "const bool valid = inside;", GEMM,
           remark="reads rows behind the last and drops their products: for AddressSanitizer"),
    Mutant("gemm_body.cuh", "no barrier between products and staging",
           "pass * COLUMNS);\n        __syncthreads();", "pass * COLUMNS);", GEMM),
    Mutant("gemm_decoded.cuh", "one buffer instead of two",
           "bf16* tile = tiles + step % 2 * TILE", "bf16* tile = tiles + 0 * TILE", GEMM),
    # ---- attention ----
    Mutant("attend_mma.cuh", "waits for two copies too few (4 buffers)", "cp_async_wait<2>", "cp_async_wait<4>", ATTEND),
    Mutant("attend_mma.cuh", "waits for two copies too few (6 buffers)", "cp_async_wait<4>", "cp_async_wait<6>", ATTEND),
    Mutant("attend_mma.cuh", "no barrier behind the wait",
           "cp_async_wait<0>();\n        }\n        __syncthreads();", "cp_async_wait<0>();\n        }", ATTEND),
    Mutant("attend_mma.cuh", "no barrier between items", "__syncthreads();  // the former item", "// the former item", ATTEND),
    Mutant("attend_mma.cuh", "widens in place without a barrier",
           "i * 16);\n        }\n        __syncthreads();", "i * 16);\n        }", ATTEND),
    Mutant("attend_mma.cuh", "the largest score of the wrong lanes",
           "fmaxf(largest[half], __shfl_xor_sync(FULL_WARP, largest[half], 2))",
           "fmaxf(largest[half], __shfl_xor_sync(FULL_WARP, largest[half], 1))", ATTEND,
           remark="the base of a softmax may differ between lanes only if their sums are not added"),
    Mutant("attend_mma.cuh", "the sum of the wrong lanes",
           "state.sum[half] += __shfl_xor_sync(FULL_WARP, state.sum[half], 2)",
           "state.sum[half] += __shfl_xor_sync(FULL_WARP, state.sum[half], 4)", ATTEND),
    Mutant("attend_mma.cuh", "tokens behind the end are seen",
           "position < item.end && attend_sees", "attend_sees", ATTEND),
    Mutant("attend_mma.cuh", "no barrier between the warps' results",
           "make_float2(o[j][2 * half], o[j][2 * half + 1]);\n            }\n        }\n        __syncthreads();",
           "make_float2(o[j][2 * half], o[j][2 * half + 1]);\n            }\n        }", ATTEND),
    Mutant("attend.cuh", "a window one token too wide", "query_position - key_position < p.window",
           "query_position - key_position <= p.window", ATTEND),
    Mutant("attend.cuh", "a run's limit forgotten", "if (low > 0) limit = min(", "if (low > 1) limit = min(", ATTEND),
    Mutant("attend_f32.cu", "no barrier between K's tile and its scores",
           "load_tile(p, shared, kv_head, false, n_tokens);\n        __syncthreads();",
           "load_tile(p, shared, kv_head, false, n_tokens);", ATTEND),
    Mutant("attend_merge.cu", "parts not weighted", "sum += stats.y * factor;", "sum += stats.y;", ATTEND),
    # ---- sampling ----
    Mutant("sample_reduce.cu", "no barrier behind the cleared bins",
           "bin_counts[i] = 0;\n        }\n        __syncthreads();", "bin_counts[i] = 0;\n        }", ("sample",)),
    Mutant("sample_reduce.cu", "no bound of the vocabulary", "token < vocab ? logits[token] : -INFINITY", "logits[token]", ("sample",),
           remark="reads behind the row; the rank of such a token is 0: its weight alone counts"),
    Mutant("sample_rank.cuh", "find_part without the barrier before the warps' sums",
           "if (lane == 31) shared.warps[warp] = upto;\n    __syncthreads();", "if (lane == 31) shared.warps[warp] = upto;", ("sample",)),
    Mutant("sample_rank.cuh", "find_part without its last barrier",
           "const Found found = shared.found;\n    __syncthreads();", "const Found found = shared.found;", ("sample",)),
]
