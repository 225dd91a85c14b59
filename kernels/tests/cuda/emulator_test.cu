// Kernels with faults, for tests/emulator.rs: what the emulator must find. Each runs on the emulator only.
#include "larder.cuh"

// Half a warp waits for the block, the other half for the warp.
extern "C" __global__ void fault_deadlock(float* out) {
    pdl_wait();
    float value = 1.0f;
    if (threadIdx.x < 16)
        __syncthreads();
    else
        value = __shfl_xor_sync(FULL_WARP, value, 1);
    out[threadIdx.x] = value;
}
KERNEL_ENTRY(fault_deadlock)

extern "C" __global__ void fault_exit_before_barrier(float* out) {
    pdl_wait();
    if (threadIdx.x == 5)
        return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}
KERNEL_ENTRY(fault_exit_before_barrier)

extern "C" __global__ void fault_mask_lacks_lane(float* out) {
    pdl_wait();
    out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0);
}
KERNEL_ENTRY(fault_mask_lacks_lane)

extern "C" __global__ void fault_different_collectives(float* out) {
    pdl_wait();
    float value = 1.0f;
    if (threadIdx.x % 2 == 0)
        value = __shfl_xor_sync(FULL_WARP, value, 2);
    else
        __syncwarp();
    out[threadIdx.x] = value;
}
KERNEL_ENTRY(fault_different_collectives)

// Reads shared memory that nobody has written: static, then dynamic.
extern "C" __global__ void fault_unset_shared(float* out) {
    __shared__ float fixed[32];
    DYN_SMEM(float, dynamic);
    pdl_wait();
    out[threadIdx.x] = fixed[threadIdx.x];
    out[32 + threadIdx.x] = dynamic[threadIdx.x];
    // For the next block to find, if it does not start anew.
    fixed[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
}
KERNEL_ENTRY(fault_unset_shared)

// Reads what is being copied.
extern "C" __global__ void fault_missing_wait(const uint4* from, uint4* to) {
    __shared__ uint4 staged[32];
    pdl_wait();
    cp_async16(&staged[threadIdx.x], &from[threadIdx.x]);
    cp_async_commit();
    __syncthreads();
    to[threadIdx.x] = staged[threadIdx.x];
    cp_async_wait<0>();
}
KERNEL_ENTRY(fault_missing_wait)

// Copies over what is still to be read.
extern "C" __global__ void fault_early_overwrite(const uint4* from, uint4* to) {
    __shared__ uint4 staged[32];
    pdl_wait();
    staged[threadIdx.x] = from[threadIdx.x];
    cp_async16(&staged[threadIdx.x], &from[32 + threadIdx.x]);
    cp_async_commit();
    to[threadIdx.x] = staged[threadIdx.x];
    cp_async_wait<0>();
}
KERNEL_ENTRY(fault_early_overwrite)

// Reads what its neighbour writes, with no barrier between: right in some orders only.
extern "C" __global__ void fault_race(float* out) {
    __shared__ float shared[64];
    pdl_wait();
    shared[threadIdx.x] = 1.0f;
    out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}
KERNEL_ENTRY(fault_race)

extern "C" __global__ void fault_misaligned_copy(const uint32_t* from, uint4* to) {
    __shared__ uint4 staged;
    pdl_wait();
    cp_async16(&staged, from + 1);
    cp_async_commit();
    cp_async_wait<0>();
    *to = staged;
}
KERNEL_ENTRY(fault_misaligned_copy)

extern "C" __global__ void fault_no_pdl_wait(float* out) { out[threadIdx.x] = 1.0f; }
KERNEL_ENTRY(fault_no_pdl_wait)

// No fault in itself: out[index] = value.
extern "C" __global__ void test_store(float* out, uint32_t index, float value) {
    pdl_wait();
    if (threadIdx.x == 0)
        out[index] = value;
}
KERNEL_ENTRY(test_store)

// The same, of all threads of a grid: what they are, and what the block has seen.
extern "C" __global__ void test_places(uint32_t* out) {
    pdl_wait();
    const uint32_t in_block = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const uint32_t n_threads = blockDim.x * blockDim.y * blockDim.z;
    const int n_odd = __syncthreads_count(in_block % 2);
    out[block * n_threads + in_block] = block * 1000 + in_block + (n_odd << 24);
}
KERNEL_ENTRY(test_places)

// Lanes 8 to 31 exit; the others go on with masks that name them, and with their own.
extern "C" __global__ void test_exited_lanes(uint32_t* out) {
    pdl_wait();
    const uint32_t lane = threadIdx.x;
    if (lane >= 8)
        return;
    const uint32_t sum = __reduce_add_sync(FULL_WARP, lane);
    const uint32_t odd = __ballot_sync(0xffu, lane % 2);
    out[lane] = sum * 1000 + odd;
}
KERNEL_ENTRY(test_exited_lanes)

extern "C" __global__ void test_atomics(uint32_t* counter, uint32_t* largest) {
    pdl_wait();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(counter, i);
    atomicMax(largest, i * 7 % 100);
}
KERNEL_ENTRY(test_atomics)
