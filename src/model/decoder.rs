//! The one forward pass, over any backend. It owns no memory: every temporary is a region of the compute area.
#![forbid(unsafe_code)]

use crate::area::{Area, Region};
use crate::backend::Backend;
use crate::backend::ops::{
    AttendOp, BatchView, Embedding, HeadOp, MlpOp, Norm, ProjectOp, QkvOp, Rope,
};
use crate::error::{Error, Result};
use crate::ids::Layer;

/// Distinct position encodings that one model may have: global and local.
pub const MAX_ROPES: usize = 2;

/// What the backend is told in a forward pass: operations with the places of their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    pub hidden_size: u32,
    pub embedding: Embedding,
    /// At most [`MAX_ROPES`].
    pub ropes: Vec<Rope>,
    pub layers: Vec<DecoderLayer>,
    pub final_norm: Norm,
    pub head: HeadOp,
}

/// One layer's operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecoderLayer {
    /// Index into [`Decoder::ropes`], whose table `qkv` is given.
    pub rope: usize,
    pub qkv: QkvOp,
    pub attend: AttendOp,
    pub project: ProjectOp,
    pub mlp: MlpOp,
}

const F32: usize = size_of::<f32>();

impl Decoder {
    /// All layers over `batch`: the residual `x [rows, hidden]`, before the final norm. The caller gives it back.
    /// `should_stop` is asked before each layer.
    ///
    /// # Errors
    /// What the backend reports; `Cancelled` when it should stop: not all K and V are there then. The regions are then
    /// lost until [`Area::begin`].
    pub fn trunk<B: Backend>(
        &self,
        backend: &mut B,
        area: &mut Area,
        batch: &BatchView<'_>,
        mlp_tile_rows: usize,
        should_stop: impl Fn() -> bool,
    ) -> Result<Region> {
        area.phase("embed");
        let mut x = area.take("x", batch.n_rows * self.hidden_size as usize * F32);
        backend.embed(area, &self.embedding, batch, &mut x)?; // [rows, hidden]
        let tables = self.rope_tables(backend, area, batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if should_stop() {
                return Err(Error::Cancelled("nobody waits for this pass any more".into()));
            }
            let table = tables.get(layer.rope).and_then(Option::as_ref);
            area.phase("attention");
            layer.attention(backend, area, Layer(index as u32), batch, table, &mut x)?;
            area.phase("mlp");
            backend.mlp(area, &layer.mlp, batch.n_rows, mlp_tile_rows, &mut x)?;
        }
        for table in tables.into_iter().flatten() {
            give(backend, area, table);
        }
        Ok(x)
    }

    /// cos and sin of every row's position, once for all layers.
    fn rope_tables<B: Backend>(
        &self,
        backend: &mut B,
        area: &mut Area,
        batch: &BatchView<'_>,
    ) -> Result<[Option<Region>; MAX_ROPES]> {
        let mut tables = [const { None }; MAX_ROPES];
        for (rope, place) in self.ropes.iter().zip(&mut tables) {
            let mut table = area.take("rope", batch.n_rows * rope.dim as usize * F32);
            backend.rope_table(area, rope, batch, &mut table)?; // [rows, dim / 2, 2]
            *place = Some(table);
        }
        Ok(tables)
    }
}

impl DecoderLayer {
    /// `x += output(attention(qkv(norm(x))))`.
    fn attention<B: Backend>(
        &self,
        backend: &mut B,
        area: &mut Area,
        id: Layer,
        batch: &BatchView<'_>,
        rope_table: Option<&Region>,
        x: &mut Region,
    ) -> Result<()> {
        let mut q = area.take("q", batch.n_rows * self.qkv.q.n_out as usize * F32);
        backend.qkv(area, &self.qkv, id, batch, rope_table, x, &mut q)?; // [rows, heads, head_dim]
        backend.attend(area, &self.attend, id, batch, &mut q)?; // the output takes q's place
        backend.project_residual(area, &self.project, batch.n_rows, &q, x)?;
        give(backend, area, q);
        Ok(())
    }
}

/// Gives a dead region back; debug builds fill it with NaN first, so that a use after death shows.
fn give<B: Backend>(backend: &mut B, area: &mut Area, region: Region) {
    if cfg!(debug_assertions) && !area.is_tracing() {
        backend.poison(&region);
    }
    area.give(region);
}
