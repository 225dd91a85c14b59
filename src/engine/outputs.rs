//! What a forward pass hands out: rows that the host reads, or the places where they lie.
#![forbid(unsafe_code)]

use super::batch::HostBatch;
use super::core::Core;
use super::pool::{normalize, pool};
use super::{ForwardBatch, ForwardOutput, PlacedOutput, Pooling};
use crate::area::Region;
use crate::backend::{Backend, Output};
use crate::error::{Error, Result};

impl<B: Backend> Core<B> {
    /// See [`Engine::forward`](super::Engine::forward).
    pub(super) fn forward(&mut self, batch: &ForwardBatch<'_>) -> Result<ForwardOutput<'_>> {
        let (logits, x, n_hidden) = self.run(batch, |core, logits, x| {
            let n_hidden = core.pool(batch, &x)?;
            let n_logits_values = core.host_batch.logits.len() * core.vocab_size() as usize;
            core.compute.backend.fetch(&logits, n_logits_values, Output::Logits)?;
            Ok((logits, x, n_hidden))
        })?;
        let n_logits = self.host_batch.logits.len();
        let n_logits_values = n_logits * self.vocab_size() as usize;
        let n_hidden_values = n_hidden * self.hidden_size() as usize;
        let backend = &self.compute.backend;
        Ok(ForwardOutput {
            n_logits_rows: n_logits as u32,
            n_hidden_rows: n_hidden as u32,
            logits: backend.fetched(&logits, n_logits_values, Output::Logits)?,
            hidden: backend.fetched(&x, n_hidden_values, Output::Hidden)?,
        })
    }

    /// See [`Engine::forward_in_place`](super::Engine::forward_in_place).
    pub(super) fn forward_in_place(&mut self, batch: &ForwardBatch<'_>) -> Result<PlacedOutput> {
        if batch.pooling != Pooling::None || batch.normalize {
            return Err(Error::InvalidArgument(
                "batch.pooling and normalize are done on the host: rows that stay on the device \
                 have neither"
                    .into(),
            ));
        }
        self.run(batch, |core, logits, x| {
            let HostBatch { hidden, wanted, .. } = &core.host_batch;
            if !hidden.is_empty() && hidden.len() != wanted.len() {
                return Err(Error::InvalidArgument(format!(
                    "batch.wants asks for {} hidden rows among {} wanted ones: rows that stay on \
                     the device are the hidden states of all of them, or of none",
                    hidden.len(),
                    wanted.len()
                )));
            }
            Ok(PlacedOutput {
                n_logits_rows: core.host_batch.logits.len() as u32,
                n_hidden_rows: hidden.len() as u32,
                logits: core.compute.backend.place_of(&logits)?,
                hidden: core.compute.backend.place_of(&x)?,
            })
        })
    }

    /// Moves the hidden rows together, as the batch asks for them.
    fn pool(&mut self, batch: &ForwardBatch<'_>, x: &Region) -> Result<usize> {
        let hidden_size = self.compute.decoder.hidden_size as usize;
        let HostBatch { hidden, wanted, .. } = &self.host_batch;
        if hidden.is_empty() {
            return Ok(0);
        }
        let group_of = |i: usize| self.host_batch.group_of_wanted(hidden[i]);
        let (backend, n_values) = (&mut self.compute.backend, wanted.len() * hidden_size);
        backend.fetch(x, n_values, Output::Hidden)?;
        let x = backend.fetched_mut(x, n_values, Output::Hidden)?;
        let n = pool(x, hidden_size, hidden, group_of, batch.pooling, &mut self.pooled);
        if batch.normalize {
            normalize(&mut x[..n * hidden_size], hidden_size);
        }
        Ok(n)
    }
}
