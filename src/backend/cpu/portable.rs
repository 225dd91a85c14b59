//! The readable variant: plain arrays of eight lanes, on every processor.

mod bytes;
mod words;

use super::simd::Simd;
use half::{bf16, f16};

/// Eight lanes in an array.
#[derive(Clone, Copy)]
pub struct Portable;

type F = [f32; 8];

/// Writes lane by lane what `$lane` gives for lane number `$i`.
macro_rules! lanes {
    ($i:ident => $lane:expr) => {{
        let mut lanes = [0.0f32; 8];
        let mut $i = 0;
        while $i < 8 {
            lanes[$i] = $lane;
            $i += 1;
        }
        lanes
    }};
}

/// The same tree for every reduction: lane i with i + 4, then i + 2, then i + 1.
macro_rules! tree {
    ($a:ident, $combine:path) => {{
        let four = [
            $combine($a[0], $a[4]),
            $combine($a[1], $a[5]),
            $combine($a[2], $a[6]),
            $combine($a[3], $a[7]),
        ];
        let two = [$combine(four[0], four[2]), $combine(four[1], four[3])];
        $combine(two[0], two[1])
    }};
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn plus(a: f32, b: f32) -> f32 {
    a + b
}

/// 2^n for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// Reads `n` values and puts zeros behind them.
macro_rules! read {
    ($from:ident, $n:expr, $convert:expr) => {{
        let mut lanes = [0.0f32; 8];
        for (i, lane) in lanes.iter_mut().enumerate().take($n) {
            // SAFETY: the caller's pointer is valid for n elements.
            *lane = $convert(unsafe { $from.add(i).read_unaligned() });
        }
        lanes
    }};
}

macro_rules! write {
    ($to:ident, $v:ident, $n:expr, $convert:expr) => {
        for (i, &lane) in $v.iter().enumerate().take($n) {
            // SAFETY: the caller's pointer is valid for n elements.
            unsafe { $to.add(i).write_unaligned($convert(lane)) };
        }
    };
}

impl Simd for Portable {
    const LANES: usize = 8;
    const TILE_COLUMNS: usize = 4;
    const TILES: usize = 1;
    const AHEAD: usize = 0;
    type F = F;
    type M = [bool; 8];

    #[inline(always)]
    unsafe fn zero() -> F {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> F {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        read!(from, 8, f32::from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: F) {
        write!(to, v, 8, f32::from)
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> F {
        read!(from, n, f32::from)
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: F, n: usize) {
        write!(to, v, n, f32::from)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> F {
        read!(from, 8, |bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const u16, n: usize) -> F {
        read!(from, n, |bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_even_bf16(from: *const u16) -> F {
        // SAFETY: the caller's pointer is valid for eight pairs.
        lanes!(i => bf16::from_bits(unsafe { from.add(2 * i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_odd_bf16(from: *const u16) -> F {
        // SAFETY: as above.
        lanes!(i => bf16::from_bits(unsafe { from.add(2 * i + 1).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> F {
        read!(from, 8, |bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f16_partial(from: *const u16, n: usize) -> F {
        read!(from, n, |bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: F) {
        write!(to, v, 8, |lane| bf16::from_f32(lane).to_bits())
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(to: *mut u16, v: F, n: usize) {
        write!(to, v, n, |lane| bf16::from_f32(lane).to_bits())
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: F) {
        write!(to, v, 8, |lane| f16::from_f32(lane).to_bits())
    }
    #[inline(always)]
    unsafe fn store_f16_partial(to: *mut u16, v: F, n: usize) {
        write!(to, v, n, |lane| f16::from_f32(lane).to_bits())
    }

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        lanes!(i => larger(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        lanes!(i => smaller(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        lanes!(i => a[i].abs())
    }
    #[inline(always)]
    unsafe fn copysign(a: F, sign: F) -> F {
        lanes!(i => a[i].copysign(sign[i]))
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        lanes!(i => a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_2(a: F, n: F) -> F {
        lanes!(i => {
            let n = n[i] as i32;
            a[i] * power_of_2(n >> 1) * power_of_2(n - (n >> 1))
        })
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: F) -> F {
        lanes!(i => a[i ^ 1])
    }
    #[inline(always)]
    unsafe fn less(a: F, b: F) -> [bool; 8] {
        let mut mask = [false; 8];
        for i in 0..8 {
            mask[i] = a[i] < b[i];
        }
        mask
    }
    #[inline(always)]
    unsafe fn select(mask: [bool; 8], yes: F, no: F) -> F {
        lanes!(i => if mask[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        tree!(a, plus)
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        tree!(a, larger)
    }
    #[inline(always)]
    unsafe fn same_address(at: *const u8) -> *const u8 {
        at
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}
