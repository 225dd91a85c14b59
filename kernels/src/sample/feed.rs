//! Masks, biases and penalties of the rows on their way to the device; biases and penalties go through a staging that
//! may be smaller than they are.

use super::layout::{Edit, FOLLOWS, Limits, Row, Scratch};
use super::{Places, Rows, Settings};
use crate::args;
use crate::driver::{Launch, Result, Stream};
use crate::modules::Kernels;

/// Mark of a token that occurs in the prompt; below it, how often it occurs in the output.
const IN_PROMPT: u32 = 1 << 31;

/// Threads of a block, each with one edit.
const THREADS: u32 = 256;

pub(super) struct Feed<'a> {
    kernels: &'a Kernels,
    stream: &'a Stream,
    places: &'a Places,
    scratch: Scratch,
    limits: Limits,
    vocab: u32,
    /// The staging's edits: first biases, then penalties.
    edits: &'a mut [Edit],
    n_biases: usize,
    n_edits: usize,
}

impl<'a> Feed<'a> {
    pub fn new(
        kernels: &'a Kernels,
        stream: &'a Stream,
        places: &'a Places,
        limits: &Limits,
        edits: &'a mut [Edit],
    ) -> Feed<'a> {
        let (limits, scratch, vocab) = (*limits, limits.scratch(), limits.vocab);
        Feed { kernels, stream, places, scratch, limits, vocab, edits, n_biases: 0, n_edits: 0 }
    }

    /// Sends the masks of the rows that have one, by way of `staging`, and applies them.
    pub fn mask(&self, rows: &impl Rows, staging: &mut [u32]) -> Result<()> {
        let mask_words = self.limits.mask_words();
        let masks = (0..rows.n_rows()).filter_map(|row| Some((row as u32, rows.mask(row)?)));
        let mut n_masks = 0;
        for (place, (row, mask)) in staging.chunks_exact_mut(mask_words).zip(masks) {
            let n = mask.len().min(mask_words - 1);
            place[0] = row;
            place[1..=n].copy_from_slice(&mask[..n]);
            place[1 + n..].fill(0);
            n_masks += 1;
        }
        if n_masks == 0 {
            return Ok(());
        }
        let masks = self.places.scratch + self.scratch.masks;
        let bytes = (n_masks * mask_words * size_of::<u32>()) as u64;
        let (logits, vocab, mask_words) = (self.places.logits, self.vocab, mask_words as u32);
        let launch = Launch {
            grid: [vocab.div_ceil(THREADS), n_masks as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            dependent: true,
        };
        // SAFETY: both places are as large as the limits' masks, the staging is not written before the stream has been
        // waited for, and the kernel's rows are inside of the logits.
        unsafe {
            self.stream.copy_to_device(masks, staging.as_mut_ptr().cast(), bytes)?;
            self.kernels.function("sample_masks").launch(
                self.stream,
                launch,
                &mut args![logits, masks, mask_words, vocab],
            )
        }
    }

    /// Sends every row's edits and the table of rows, which is in the staging already. `seen` has one element per
    /// token; all are zero before, and after unless there was an error.
    pub fn send(&mut self, rows: &impl Rows, seen: &mut [u32]) -> Result<()> {
        for row in 0..rows.n_rows() {
            self.biases(row as u32, rows.biases(row), seen)?;
        }
        for row in 0..rows.n_rows() {
            self.penalties(row, rows, seen)?;
        }
        self.flush()
    }

    /// A token's biases are chained in their order; `seen` tells where the last one is, counted from 1.
    fn biases(
        &mut self,
        row: u32,
        biases: impl Iterator<Item = (u32, f32)>,
        seen: &mut [u32],
    ) -> Result<()> {
        let mut first = self.n_edits;
        let vocab = self.vocab;
        for (token, bias) in biases.filter(|&(token, _)| token < vocab) {
            if self.n_edits == self.edits.len() {
                forget(&self.edits[first..], seen);
                self.make_room()?;
                first = 0;
            }
            let place = self.n_edits as u32 + 1;
            let before = std::mem::replace(&mut seen[token as usize], place);
            let mark = if before == 0 { 0 } else { FOLLOWS };
            if before > 0 {
                self.edits[before as usize - 1].link = place;
            }
            self.edits[self.n_edits] = Edit { row: row | mark, token, link: 0, amount: bias };
            self.n_edits += 1;
            self.n_biases = self.n_edits;
        }
        forget(&self.edits[first..self.n_edits], seen);
        Ok(())
    }

    /// One edit for each token that occurs; `seen` counts.
    fn penalties(&mut self, row: usize, rows: &impl Rows, seen: &mut [u32]) -> Result<()> {
        let settings = rows.settings(row);
        if !penalises(&settings) {
            return Ok(());
        }
        for token in rows.prompt(row) {
            seen.get_mut(token as usize).into_iter().for_each(|count| *count |= IN_PROMPT);
        }
        for token in rows.output(row) {
            seen.get_mut(token as usize).into_iter().for_each(|count| *count += 1);
        }
        let n = seen.len();
        for token in rows.prompt(row).chain(rows.output(row)).filter(|&token| (token as usize) < n)
        {
            // A token is done when it is met first.
            let count = std::mem::take(&mut seen[token as usize]);
            if count == 0 {
                continue;
            }
            if self.n_edits == self.edits.len() {
                self.make_room()?;
            }
            let amount = match count & !IN_PROMPT {
                0 => 0.0,
                n => settings.presence_penalty + settings.frequency_penalty * n as f32,
            };
            self.edits[self.n_edits] = Edit { row: row as u32, token, link: 0, amount };
            self.n_edits += 1;
        }
        Ok(())
    }

    /// Sends what is staged and waits until the staging can be written again.
    fn make_room(&mut self) -> Result<()> {
        self.flush()?;
        self.stream.synchronize()
    }

    fn flush(&mut self) -> Result<()> {
        let edits_end = self.n_edits * size_of::<Edit>();
        let (scratch, staging) = (self.places.scratch, self.places.staging);
        // The table of rows lies in front of the edits.
        let bytes = self.scratch.edits + edits_end as u64;
        // SAFETY: both are as large as the limits' edits need, and the staging is not written before the stream has
        // been waited for.
        unsafe { self.stream.copy_to_device(scratch, staging, bytes) }?;
        let n_penalties = self.n_edits - self.n_biases;
        self.launch("sample_biases", 0, self.n_biases as u32)?;
        self.launch("sample_penalties", self.n_biases as u32, n_penalties as u32)?;
        (self.n_biases, self.n_edits) = (0, 0);
        Ok(())
    }

    fn launch(&self, kernel: &str, first: u32, n: u32) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let rows = self.places.scratch + self.scratch.rows;
        let edits = self.places.scratch + self.scratch.edits;
        let (logits, vocab) = (self.places.logits, self.vocab);
        let launch = Launch {
            grid: [n.div_ceil(THREADS), 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            dependent: true,
        };
        // SAFETY: the kernel's parameters; rows and tokens of the edits are inside of the logits.
        unsafe {
            self.kernels.function(kernel).launch(
                self.stream,
                launch,
                &mut args![logits, rows, edits, first, n, vocab],
            )
        }
    }
}

fn forget(edits: &[Edit], seen: &mut [u32]) {
    edits.iter().for_each(|edit| seen[edit.token as usize] = 0);
}

fn penalises(settings: &Settings) -> bool {
    repetition(settings) != 1.0
        || settings.presence_penalty != 0.0
        || settings.frequency_penalty != 0.0
}

fn repetition(settings: &Settings) -> f32 {
    match settings.repetition_penalty {
        0.0 => 1.0,
        penalty => penalty,
    }
}

impl Row {
    /// The settings with everything that is off as 0.
    pub(super) fn new(settings: &Settings, limits: &Limits) -> Row {
        let draws = settings.temperature != 0.0;
        let top_k = if settings.top_k < limits.vocab { settings.top_k } else { 0 };
        let top_p = settings.top_p;
        let top_p = if top_p > 0.0 && top_p < 1.0 { top_p } else { 0.0 };
        let min_p = if settings.min_p > 0.0 { settings.min_p } else { 0.0 };
        let cuts = draws && (top_k > 0 || top_p > 0.0 || min_p > 0.0);
        let n_top = settings.n_logprobs.min(limits.logprobs).min(limits.vocab);
        Row {
            seed: settings.seed,
            counter: settings.counter,
            // The least temperatures would make infinity · 0 of the largest logit.
            scale: if draws { (1.0 / settings.temperature).min(f32::MAX) } else { 1.0 },
            top_p,
            min_p,
            top_k,
            repetition: repetition(settings),
            n_top,
            draws: draws.into(),
            cuts: cuts.into(),
        }
    }

    /// Whether the tokens' weights are needed.
    pub(super) fn weighs(&self) -> bool {
        self.draws != 0 || self.n_top > 0
    }
}
