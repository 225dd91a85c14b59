//! Which variant of each kernel runs: the only file that asks what the processor has.
//!
//! `kernels!` holds the one list. From it come the table of function pointers, [`Kernels`], and for every
//! instruction set the functions that compile the generic kernels with it. Adding a kernel is one entry:
//! the field's name and arguments, and the path of a function generic over [`Simd`](super::simd::Simd).

#[cfg(target_arch = "aarch64")]
use super::arm::neon::{Baseline, DotProduct};
use super::attention::kernel::{HeadRows, Rows};
use super::matmul::Job;
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::{avx2::Avx2, avx512::Avx512};
use crate::backend::ops::Activation;
use crate::dtype::DType;

/// Wraps every kernel of the list for one instruction set, and fills the table with the wrappers.
macro_rules! variant {
    ($module:ident, $table:ident, $simd:ident, $attribute:meta,
     $($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $($path:ident)::+;)*) => {
        mod $module {
            use super::*;
            $(
                #[$attribute]
                #[allow(clippy::too_many_arguments, reason = "the kernel's own arguments")]
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $result)? {
                    // SAFETY: the caller has the instruction set and keeps the kernel's contract.
                    unsafe { $($path)::+::<$simd>($($arg),*) }
                }
            )*
        }
        static $table: Kernels = Kernels {
            name: stringify!($module),
            lanes: <$simd as super::simd::Simd>::LANES,
            $($name: $module::$name),*
        };
    };
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?
       = $($path:ident)::+;)*) => {
        /// One variant of every kernel.
        ///
        /// # Safety
        /// The functions need the variant's instruction set, which whoever got the table from
        /// [`detect`](Kernels::detect) or [`supported`](Kernels::supported) has, and what the kernel's own
        /// documentation asks.
        #[derive(Debug)]
        pub struct Kernels {
            /// `portable`, `avx2`, `avx512`, `neon` or `neon_dot`.
            pub name: &'static str,
            /// f32 values in a vector.
            pub lanes: usize,
            $($(#[$doc])* pub $name: unsafe fn($($type),*) $(-> $result)?,)*
        }
        variant!(portable, PORTABLE, Portable, inline,
            $($name($($arg: $type),*) $(-> $result)? = $($path)::+;)*);
        #[cfg(target_arch = "x86_64")]
        variant!(avx2, AVX2, Avx2, target_feature(enable = "avx2,fma,f16c"),
            $($name($($arg: $type),*) $(-> $result)? = $($path)::+;)*);
        #[cfg(target_arch = "x86_64")]
        variant!(avx512, AVX512, Avx512,
            target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni"),
            $($name($($arg: $type),*) $(-> $result)? = $($path)::+;)*);
        #[cfg(target_arch = "aarch64")]
        variant!(neon, NEON, Baseline, target_feature(enable = "neon"),
            $($name($($arg: $type),*) $(-> $result)? = $($path)::+;)*);
        #[cfg(target_arch = "aarch64")]
        variant!(neon_dot, NEON_DOT, DotProduct, target_feature(enable = "neon,dotprod"),
            $($name($($arg: $type),*) $(-> $result)? = $($path)::+;)*);
    };
}

kernels! {
    /// The largest value of a row without NaN.
    max_row(values: &[f32]) -> f32 = crate::backend::cpu::rows::max_row;
    /// `values[i] = e^((values[i] - shift) * scale)`; their sum.
    exp_shifted(values: &mut [f32], shift: f32, scale: f32) -> f32
        = crate::backend::cpu::rows::exp_shifted;
    /// `values[i] = cap * tanh(values[i] / cap)`.
    softcap_row(values: &mut [f32], cap: f32) = crate::backend::cpu::rows::softcap_row;
    /// A row's RMS norm.
    rms_norm(x: *const f32, weight: &[f32], eps: f32, to: *mut f32)
        = crate::backend::cpu::rows::rms_norm;
    /// A row's layer norm.
    layer_norm(x: *const f32, weight: &[f32], bias: Option<&[f32]>, eps: f32, to: *mut f32)
        = crate::backend::cpu::rows::layer_norm;
    /// `gate[i] = activation(gate[i]) * up[i]`.
    gate_row(gate: &mut [f32], up: &[f32], activation: Activation)
        = crate::backend::cpu::rows::gate_row;
    /// `to[i] = to[i] * keep + from[i] * factor`.
    blend_row(to: &mut [f32], keep: f32, from: &[f32], factor: f32)
        = crate::backend::cpu::rows::blend_row;
    /// Values to bf16.
    store_bf16_row(from: &[f32], to: *mut u16) = crate::backend::cpu::rows::store_bf16_row;
    /// Values to f16.
    store_f16_row(from: &[f32], to: *mut u16) = crate::backend::cpu::rows::store_f16_row;
    /// Queries by f32 keys.
    scores_f32(q: Rows, keys: HeadRows<'_>, scale: f32, to: Rows, room: *mut f32)
        = crate::backend::cpu::attention::kernel::scores_f32;
    /// Queries by f16 keys.
    scores_f16(q: Rows, keys: HeadRows<'_>, scale: f32, to: Rows, room: *mut f32)
        = crate::backend::cpu::attention::kernel::scores_f16;
    /// Queries by bf16 keys.
    scores_bf16(q: Rows, keys: HeadRows<'_>, scale: f32, to: Rows, room: *mut f32)
        = crate::backend::cpu::attention::kernel::scores_bf16;
    /// Weighted sums of f32 values.
    sums_f32(weights: Rows, values: HeadRows<'_>, first: usize, end: usize, to: Rows,
        room: *mut f32)
        = crate::backend::cpu::attention::kernel::sums_f32;
    /// Weighted sums of f16 values.
    sums_f16(weights: Rows, values: HeadRows<'_>, first: usize, end: usize, to: Rows,
        room: *mut f32)
        = crate::backend::cpu::attention::kernel::sums_f16;
    /// Weighted sums of bf16 values.
    sums_bf16(weights: Rows, values: HeadRows<'_>, first: usize, end: usize, to: Rows,
        room: *mut f32)
        = crate::backend::cpu::attention::kernel::sums_bf16;
    /// `out.len()` weights at the pointer to f32.
    dequantise(dtype: DType, row: *const u8, out: &mut [f32])
        = crate::backend::cpu::blocks::dequantise;
    /// `x` to a row of [`q8`](super::matmul::q8)'s layout.
    quantise_row(x: &[f32], row: &mut [u8]) = crate::backend::cpu::matmul::q8::quantise_row;
    /// Plain weights, f32 activations.
    matmul_dense(job: &Job) = crate::backend::cpu::matmul::matmul_dense;
    /// Quantised weights, f32 activations.
    matmul_exact(job: &Job) = crate::backend::cpu::matmul::matmul_exact;
    /// Quantised weights, 8-bit activations.
    matmul_q8(job: &Job) = crate::backend::cpu::matmul::matmul_q8;
    /// Reads bytes, as fast as the memory gives them.
    read_bytes(bytes: &[u8]) -> f32 = crate::backend::cpu::peak::read_bytes;
    /// `rounds · 10 · lanes` multiplications and additions.
    multiply_floats(rounds: usize, value: f32) -> f32 = crate::backend::cpu::peak::multiply_floats;
    /// Ten multiplications and additions of 8-bit integers for every byte.
    multiply_integers(bytes: &[u8], signed: bool) -> f32
        = crate::backend::cpu::peak::multiply_integers;
}

impl Kernels {
    /// The fastest variant that this processor has.
    pub fn detect() -> &'static Kernels {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return &AVX512;
            }
            if has_avx2() {
                return &AVX2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                return &NEON_DOT;
            }
            if std::arch::is_aarch64_feature_detected!("neon") {
                return &NEON;
            }
        }
        &PORTABLE
    }

    /// Every variant that this processor has, the portable one first.
    pub fn supported() -> Vec<&'static Kernels> {
        let mut variants = vec![&PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx2() {
                variants.push(&AVX2);
            }
            if has_avx512() {
                variants.push(&AVX512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("neon") {
                variants.push(&NEON);
            }
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                variants.push(&NEON_DOT);
            }
        }
        variants
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}
