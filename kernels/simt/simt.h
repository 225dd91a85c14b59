// CUDA's device side on a CPU: kernels compile against this as plain C++ and run with one fiber per CUDA thread.
// Included by larder.cuh instead of the CUDA headers; the types (half, bfloat16, fp8, vectors) are CUDA's own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#define __noinline__ __attribute__((noinline))
// Defined before CUDA's headers, which then keep these. Shared memory belongs to the host thread, which runs one block
// at a time.
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __grid_constant__
#include <vector_functions.h>
#include <vector_types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#undef __forceinline__
#define __forceinline__ inline

#include "core.h"

#include "atomics.h"
#include "intrinsics.h"
#include "packed.h"
#include "warp.h"
