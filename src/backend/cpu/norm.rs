//! Norms: a row in, a row out.

use super::dispatch::Kernels;
use super::memory::Memory;
use crate::backend::ops::{Norm, Vector};

/// A norm with its vectors at hand.
#[derive(Clone, Copy)]
pub enum Normer<'a> {
    Rms { weight: &'a [f32], eps: f32 },
    Layer { weight: &'a [f32], bias: Option<&'a [f32]>, eps: f32 },
}

impl<'a> Normer<'a> {
    pub fn of(memory: &'a Memory, norm: &Norm) -> Normer<'a> {
        let vector = |vector: Vector| memory.vector(vector);
        match *norm {
            Norm::Rms { weight, eps } => Normer::Rms { weight: vector(weight), eps },
            Norm::Layer { weight, bias, eps } => {
                Normer::Layer { weight: vector(weight), bias: bias.map(vector), eps }
            }
        }
    }

    /// `to = norm(x)`.
    pub fn apply(&self, kernels: &Kernels, x: &[f32], to: &mut [f32]) {
        assert!(x.len() == to.len());
        // SAFETY: both hold as many values.
        unsafe { self.kernel(kernels, x.as_ptr(), to.as_mut_ptr(), x.len()) }
    }

    /// `x = norm(x)`.
    pub fn apply_in_place(&self, kernels: &Kernels, x: &mut [f32]) {
        let at = x.as_mut_ptr();
        // SAFETY: the kernels read an element before they write it.
        unsafe { self.kernel(kernels, at, at, x.len()) }
    }

    /// # Safety
    /// `x` and `to` are valid for `n` values.
    unsafe fn kernel(&self, kernels: &Kernels, x: *const f32, to: *mut f32, n: usize) {
        let (Normer::Rms { weight, .. } | Normer::Layer { weight, .. }) = *self;
        assert!(weight.len() == n, "a norm of {} values meets a row of {n}", weight.len());
        // SAFETY: sizes checked here and by the caller; the table is supported by this processor.
        unsafe {
            match *self {
                Normer::Rms { weight, eps } => (kernels.rms_norm)(x, weight, eps, to),
                Normer::Layer { weight, bias, eps } => {
                    assert!(bias.is_none_or(|bias| bias.len() == n));
                    (kernels.layer_norm)(x, weight, bias, eps, to)
                }
            }
        }
    }
}
