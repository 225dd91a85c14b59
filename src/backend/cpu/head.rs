//! The final norm and the language-model head.

use super::Cpu;
use super::linear::{Input, Product, Source, ThreadRoom, panels};
use super::matmul::Output;
use super::memory::Parts;
use super::norm::Normer;
use crate::area::{Area, Region};
use crate::backend::ops::{HeadOp, Norm};
use crate::error::{Error, Result};

/// See [`Backend::final_norm`](crate::backend::Backend::final_norm).
pub fn final_norm(
    cpu: &Cpu,
    area: &mut Area,
    norm: &Norm,
    rows: &[u32],
    x: &mut Region,
) -> Result<()> {
    if area.is_tracing() {
        return Ok(());
    }
    if !rows.is_sorted_by(|a, b| a < b) {
        return Err(Error::Internal("rows of the final norm are not in ascending order".into()));
    }
    let memory = cpu.memory()?;
    let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
    let (hidden, norm) = (weight.len as usize, Normer::of(memory, norm));
    let x = Parts::new(memory.region_mut::<f32>(x));
    // One task: a row moves to where an earlier one may have been.
    cpu.pool.run(1, &|_, _| {
        for (to, &from) in rows.iter().enumerate() {
            // SAFETY: the only task.
            let x = unsafe { x.part(0, x.len()) };
            let from = from as usize * hidden;
            x.copy_within(from..from + hidden, to * hidden);
            norm.apply_in_place(cpu.kernels, &mut x[to * hidden..(to + 1) * hidden]);
        }
    })
}

/// See [`Backend::head`](crate::backend::Backend::head).
pub fn head(
    cpu: &Cpu,
    area: &mut Area,
    op: &HeadOp,
    rows: &[u32],
    x: &Region,
    logits: &mut Region,
) -> Result<()> {
    let (weights, source) = ([&op.weight], Source::Listed(rows));
    let vocab = op.weight.n_out as usize;
    // While tracing there may be no rows yet; the logits' size says how many there will be.
    let n = if area.is_tracing() { logits.bytes() as usize / 4 / vocab.max(1) } else { rows.len() };
    let mut input = Input::take(cpu, area, &weights, None, n, source);
    let mut room = ThreadRoom::take(cpu, area, &weights, 0);
    if !area.is_tracing() {
        let memory = cpu.memory()?;
        let x = memory.region(x);
        input.fill(cpu, memory, None, source, x)?;
        let product = Product::new(cpu, memory, &op.weight, &input, x);
        let rooms = room.rooms(memory);
        let logits = Parts::new(&mut memory.region_mut::<f32>(logits)[..n * vocab]);
        panels(cpu, vocab, n, &|columns, tokens, thread| {
            // SAFETY: the running task of the thread; its part of the logits is these columns of these rows.
            unsafe {
                let (scratch, _) = rooms.of(thread);
                let at = logits.address(tokens.start * vocab + columns.start);
                let out = Output { first: at, stride: vocab };
                product.run(cpu, columns.clone(), tokens.clone(), scratch, out);
                for row in tokens {
                    let values = logits.part(row * vocab + columns.start, columns.len());
                    finish(cpu, op, values);
                }
            }
        })?;
    }
    input.give(area);
    room.give(area);
    Ok(())
}

/// Multiplier, then cap.
fn finish(cpu: &Cpu, op: &HeadOp, logits: &mut [f32]) {
    if op.multiplier != 1.0 {
        logits.iter_mut().for_each(|logit| *logit *= op.multiplier);
    }
    if let Some(cap) = op.softcap {
        // SAFETY: the table is supported by this processor.
        unsafe { (cpu.kernels.softcap_row)(logits, cap) };
    }
}
