// The functions of half and bfloat16 that CUDA's headers have for the device only; each rounds once, as there.
#pragma once

#include <cmath>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

inline __half __hfma(__half a, __half b, __half c) {
    // The product of two halves is exact in f32; the sum in f64 is exact enough to be rounded once.
    return __double2half(double(__half2float(a)) * __half2float(b) + __half2float(c));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    return __halves2half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
    return __double2bfloat16(double(__bfloat162float(a)) * __bfloat162float(b) + __bfloat162float(c));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
    return __halves2bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

inline __half hexp(__half x) { return __float2half_rn(expf(__half2float(x))); }
inline __half hexp2(__half x) { return __float2half_rn(exp2f(__half2float(x))); }
inline __half hrsqrt(__half x) { return __float2half_rn(1.0f / sqrtf(__half2float(x))); }
inline __half2 h2exp2(__half2 x) { return __halves2half2(hexp2(x.x), hexp2(x.y)); }
inline __nv_bfloat16 hexp(__nv_bfloat16 x) { return __float2bfloat16_rn(expf(__bfloat162float(x))); }
inline __nv_bfloat16 hexp2(__nv_bfloat16 x) { return __float2bfloat16_rn(exp2f(__bfloat162float(x))); }
inline __nv_bfloat162 h2exp2(__nv_bfloat162 x) { return __halves2bfloat162(hexp2(x.x), hexp2(x.y)); }
