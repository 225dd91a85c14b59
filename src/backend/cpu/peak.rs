//! What the processor can do at best, measured by bare loops of the instructions that the products use: benchmarks
//! divide by it.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::blocks::words::Words;
use super::simd::Simd;

/// Sums in flight: enough to hide the latency of a multiplication.
const CHAINS: usize = 10;

/// Bytes that lie between the streams of [`read_bytes`].
const STREAM: usize = 64 << 10;
const STREAMS: usize = 4;

/// Reads all of `bytes`, but for a rest of less than 256 KiB, in four streams, and returns something that depends on
/// them.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn read_bytes<S: Words>(bytes: &[u8]) -> f32 {
    let mut sums = [S::load_words([0; 64].as_ptr()); STREAMS];
    for part in bytes.chunks_exact(STREAMS * STREAM) {
        for at in (0..STREAM).step_by(4 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = S::merge(*sum, S::load_words(part.as_ptr().add(i * STREAM + at)));
            }
        }
    }
    let all = S::merge(S::merge(sums[0], sums[1]), S::merge(sums[2], sums[3]));
    S::sum(S::number(all, 0, 255))
}

/// `rounds · 10 · LANES` multiplications and additions of f32.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn multiply_floats<S: Simd>(rounds: usize, value: f32) -> f32 {
    let (a, mut sums) = (S::splat(value), [S::splat(value); CHAINS]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = S::fma(*sum, a, a);
        }
    }
    let mut all = S::zero();
    for sum in sums {
        all = S::add(all, sum);
    }
    S::sum(all)
}

/// Multiplies each four bytes of `bytes`, but for a rest, with ten others: ten multiplications and additions of 8-bit
/// integers for every byte, of four unsigned bits, of which eight groups add up before they are widened, or signed.
///
/// # Safety
/// The processor has `S`'s instruction set; `bytes` holds no value above 15.
#[inline(always)]
pub unsafe fn multiply_integers<S: Words>(bytes: &[u8], signed: bool) -> f32 {
    let mut sums = [S::no_sums(); CHAINS];
    for run in bytes.chunks_exact(8 * 4 * S::LANES) {
        let mut pairs = [S::no_sums(); CHAINS];
        for g in 0..8 {
            let w = S::load_words(run.as_ptr().add(4 * S::LANES * g));
            for c in 0..CHAINS {
                let x = S::splat_word(run.as_ptr().add(4 * c));
                if signed {
                    sums[c] = S::add_signed(sums[c], w, x);
                } else {
                    pairs[c] = S::add_unsigned(pairs[c], w, x);
                }
            }
        }
        for c in 0..CHAINS {
            sums[c] = if signed { sums[c] } else { S::add_pairs(sums[c], pairs[c]) };
        }
    }
    let mut all = S::zero();
    for sum in sums {
        all = S::add(all, S::sums_f32(sum));
    }
    S::sum(all)
}
