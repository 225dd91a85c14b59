//! What a kernel needs from a processor, as a trait. A kernel is written once, generic over [`Simd`], and every
//! helper is `#[inline(always)]`, so that the whole body is compiled with the instruction set of the function
//! that [`dispatch`](super::dispatch) puts around it. Closures would lose that set: kernels have none.

mod math;

pub use math::{erf, exp, tanh};

/// Vectors of `LANES` f32 values.
///
/// # Safety
/// Every function needs a processor with the type's instruction set; pointers must be valid for the elements
/// named (no alignment is asked beyond the element's).
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Simd: Copy + Send + Sync + 'static {
    /// f32 values in a vector.
    const LANES: usize;
    /// Activation rows of a register tile of products.
    const TILE_COLUMNS: usize;
    /// Tiles of 16 weight rows that it takes.
    const TILES: usize;
    /// Bytes by which a stream of weights is asked for ahead of its use; 0 where the processor does better alone.
    const AHEAD: usize;
    /// A vector of f32.
    type F: Copy;
    /// A truth value per lane.
    type M: Copy;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
    /// The first `n < LANES` lanes; the others are 0 and not read.
    unsafe fn load_partial(from: *const f32, n: usize) -> Self::F;
    /// Writes the first `n < LANES` lanes.
    unsafe fn store_partial(to: *mut f32, v: Self::F, n: usize);

    unsafe fn load_bf16(from: *const u16) -> Self::F;
    unsafe fn load_bf16_partial(from: *const u16, n: usize) -> Self::F;
    /// The lower halves of LANES neighbouring pairs of bf16 numbers.
    unsafe fn load_even_bf16(from: *const u16) -> Self::F;
    /// The upper halves.
    unsafe fn load_odd_bf16(from: *const u16) -> Self::F;
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn load_f16_partial(from: *const u16, n: usize) -> Self::F;
    /// Rounds to nearest even; NaN stays NaN.
    unsafe fn store_bf16(to: *mut u16, v: Self::F);
    unsafe fn store_bf16_partial(to: *mut u16, v: Self::F, n: usize);
    /// Rounds to nearest even; too large becomes infinity, NaN stays NaN.
    unsafe fn store_f16(to: *mut u16, v: Self::F);
    unsafe fn store_f16_partial(to: *mut u16, v: Self::F, n: usize);

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the processor can.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`; `b` when either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`; `b` when either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// The sign of `sign` on the magnitude of `a`.
    unsafe fn copysign(a: Self::F, sign: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in −252 ..= 254, with denormal and infinite results.
    unsafe fn scale_by_power_of_2(a: Self::F, n: Self::F) -> Self::F;
    /// Lanes 2i and 2i + 1 change places.
    unsafe fn swap_pairs(a: Self::F) -> Self::F;

    /// `a < b`; false when either is NaN.
    unsafe fn less(a: Self::F, b: Self::F) -> Self::M;
    unsafe fn select(mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;

    /// Sum of the lanes: halves are added until one is left.
    unsafe fn sum(a: Self::F) -> f32;
    /// `to[i] = sum(vectors[i]) · factor`, each sum by the same tree.
    #[inline(always)]
    unsafe fn store_sums(to: *mut f32, vectors: [Self::F; 4], factor: f32) {
        for (i, vector) in vectors.into_iter().enumerate() {
            // SAFETY: the trait's contract.
            unsafe { *to.add(i) = Self::sum(vector) * factor };
        }
    }
    /// Largest lane, by the tree of [`sum`](Self::sum).
    unsafe fn max_lane(a: Self::F) -> f32;

    /// `at`; what is read there the compiler takes for unknown.
    unsafe fn same_address(at: *const u8) -> *const u8;
    /// Asks for the cache line of `at`; any address is allowed.
    unsafe fn prefetch(at: *const u8);
}

#[cfg(test)]
mod tests;
