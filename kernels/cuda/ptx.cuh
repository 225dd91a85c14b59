// All assembler of the kernels, behind names. This half is for the device; on the emulator the same names come from
// simt/ptx_emulated.h, and tests/ptx.rs compares both with plain arithmetic.
#pragma once

#ifdef LARDER_SIMT
#include "ptx_emulated.h"
#else

#include <cstdint>

#define LARDER_PTX __device__ __forceinline__

LARDER_PTX uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- Matrix products: d += a * b for one 16 x 8 tile of f32, the operands as the PTX manual lays them out. ----

// m16n8k16, bf16. With g = lane / 4 and t = lane % 4 * 2: a[0] holds (row g, columns t and t + 1), a[1] row g + 8,
// a[2] and a[3] the same rows at columns t + 8; b[0] holds (k = t and t + 1, column g), b[1] k + 8;
// d[0], d[1] are (row g, columns t and t + 1), d[2], d[3] row g + 8.
LARDER_PTX void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// m16n8k16, f16.
LARDER_PTX void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// m16n8k8, tf32: f32 values of which the product sees the first 10 bits of the mantissa. With g = lane / 4 and
// t = lane % 4: a[0] is (row g, column t), a[1] row g + 8, a[2] and a[3] the same at column t + 4; b[0] is
// (k = t, column g), b[1] k = t + 4.
LARDER_PTX void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Loads of 8 x 8 matrices of 16-bit elements. Lane 8 i + j gives the shared address of row j of matrix i, ----
// ---- aligned to 16 bytes; register i then holds (row lane / 4, columns lane % 4 * 2 and the next), or with    ----
// ---- `trans` (rows lane % 4 * 2 and the next, column lane / 4).                                               ----

LARDER_PTX void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

LARDER_PTX void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The addresses of lanes 16 to 31 are not used, but must be valid.
LARDER_PTX void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

LARDER_PTX void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- Asynchronous copies from global to shared memory, counted per thread. Both addresses are aligned to the ----
// ---- size. Where not `valid`, nothing is read and zeros are written.                                         ----

LARDER_PTX void cp_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

LARDER_PTX void cp_async4(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

LARDER_PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's groups are under way.
template <int N> LARDER_PTX void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Programmatic dependent launch, on chips that have it. ----

// Until the kernels before this one have finished and their writes can be seen.
LARDER_PTX void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next kernel may start (it still waits for this one's end in its own pdl_wait).
LARDER_PTX void pdl_trigger() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- Reads of what is used once. ----

// 16 bytes that stay in no cache: weights in a decode step. The memory must not change while the kernel runs.
LARDER_PTX uint4 load_streaming(const void* global) {
    uint64_t evict_first;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(evict_first));
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(global), "l"(evict_first));
    return value;
}

// Brings the line of an address into L2.
LARDER_PTX void prefetch_l2(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

#undef LARDER_PTX
#endif
