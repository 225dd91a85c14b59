//! Rows of the KV repo as the kernels see them (`cuda/kv.cuh`): one row per slot and layer with K of all heads, V of
//! all heads, then the scales of 8-bit kinds.

use crate::driver::DevicePtr;

/// How K or V is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum KvKind {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    /// With a scale per token and head: the largest magnitude / 127.
    Int8 = 3,
    /// e4m3 with a scale per token and head: the largest magnitude / 448.
    Fp8 = 4,
}

impl KvKind {
    /// Bytes of an element, without its part of a scale.
    pub const fn element_bytes(self) -> u64 {
        match self {
            KvKind::F32 => 4,
            KvKind::F16 | KvKind::BF16 => 2,
            KvKind::Int8 | KvKind::Fp8 => 1,
        }
    }

    /// Whether each head of a token has a scale.
    pub const fn has_scales(self) -> bool {
        matches!(self, KvKind::Int8 | KvKind::Fp8)
    }

    /// What a head's size must be a multiple of.
    pub const fn head_dim_multiple(self) -> u32 {
        if self.has_scales() { 16 } else { 8 }
    }
}

/// Largest head.
pub const MAX_HEAD_DIM: u32 = 256;

/// Bytes of a slot's row in one layer.
pub const fn row_bytes(k: KvKind, v: KvKind, n_kv_heads: u32, head_dim: u32) -> u64 {
    KvRows::new(0, k, v, n_kv_heads, head_dim).row_bytes
}

/// One layer's rows. The same struct as in kv.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct KvRows {
    /// The row of slot 0, aligned to 16 bytes.
    pub base: DevicePtr,
    pub row_bytes: u64,
    /// Of V in a row; K is at 0.
    pub v_offset: u64,
    /// Of the scales of K's heads in a row (f32), where its kind has them.
    pub k_scales: u64,
    /// Of the scales of V's heads.
    pub v_scales: u64,
    /// A [`KvKind`].
    pub k_kind: u32,
    /// A [`KvKind`].
    pub v_kind: u32,
    pub n_kv_heads: u32,
    pub head_dim: u32,
}

const _: () = assert!(size_of::<KvRows>() == 56);

impl KvRows {
    /// The layout of rows at `base`. Every row begins at a multiple of 16 bytes.
    pub const fn new(
        base: DevicePtr,
        k: KvKind,
        v: KvKind,
        n_kv_heads: u32,
        head_dim: u32,
    ) -> Self {
        let elements = n_kv_heads as u64 * head_dim as u64;
        let v_offset = elements * k.element_bytes();
        let k_scales = v_offset + elements * v.element_bytes();
        let scales_bytes = 4 * n_kv_heads as u64;
        let v_scales = k_scales + if k.has_scales() { scales_bytes } else { 0 };
        let end = v_scales + if v.has_scales() { scales_bytes } else { 0 };
        Self {
            base,
            row_bytes: end.next_multiple_of(16),
            v_offset,
            k_scales,
            v_scales,
            k_kind: k as u32,
            v_kind: v as u32,
            n_kv_heads,
            head_dim,
        }
    }

    /// Whether the kernels can store and read heads of this size.
    pub fn is_supported(k: KvKind, v: KvKind, head_dim: u32) -> bool {
        let multiple = k.head_dim_multiple().max(v.head_dim_multiple());
        (1..=MAX_HEAD_DIM).contains(&head_dim) && head_dim.is_multiple_of(multiple)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_scales_have_no_padding() {
        assert_eq!(row_bytes(KvKind::BF16, KvKind::BF16, 8, 128), 4096);
        assert_eq!(row_bytes(KvKind::F32, KvKind::F16, 3, 8), 3 * 8 * 6);
    }

    #[test]
    fn scales_lie_behind_the_elements() {
        let rows = KvRows::new(0, KvKind::Int8, KvKind::Fp8, 3, 16);
        assert_eq!((rows.v_offset, rows.k_scales, rows.v_scales), (48, 96, 108));
        assert_eq!(rows.row_bytes, 128);
        let rows = KvRows::new(0, KvKind::BF16, KvKind::Int8, 2, 32);
        assert_eq!((rows.v_offset, rows.k_scales, rows.v_scales), (128, 192, 192));
        assert_eq!(rows.row_bytes, 208);
    }

    #[test]
    fn every_row_is_aligned() {
        let kinds = [KvKind::F32, KvKind::F16, KvKind::BF16, KvKind::Int8, KvKind::Fp8];
        for (k, v) in kinds.iter().flat_map(|&k| kinds.map(|v| (k, v))) {
            for head_dim in (1..=MAX_HEAD_DIM).filter(|&dim| KvRows::is_supported(k, v, dim)) {
                for n_kv_heads in 1..5 {
                    let rows = KvRows::new(0, k, v, n_kv_heads, head_dim);
                    assert_eq!((rows.row_bytes % 16, rows.v_offset % 16), (0, 0));
                    assert_eq!((rows.k_scales % 4, rows.v_scales % 4), (0, 0));
                }
            }
        }
    }
}
