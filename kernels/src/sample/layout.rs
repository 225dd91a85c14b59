//! What the host and the kernels of `sample*.cu` both read, and where it lies.

/// Tokens of a vocabulary; sums of fixed-point weights hold as many.
pub const MAX_VOCAB: u32 = 1 << 20;
/// Rows of one call.
pub const MAX_ROWS: u32 = 64;

/// Log probabilities of a row.
pub const MAX_TOPS: u32 = 64;

/// Logits that one block reduces, and its threads.
pub(super) const TILE: u32 = 2048;
pub(super) const TILE_THREADS: u32 = 256;
/// Bins of the histogram over distances to the largest logit.
pub(super) const N_BINS: u32 = 1728;

const _: () = assert!(size_of::<Row>() == 48 && size_of::<Edit>() == 16);
const _: () = assert!(size_of::<Choice>() == 16 && size_of::<TopToken>() == 8);

/// The settings of a row, ready for the kernels; what is off is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    pub seed: u64,
    pub counter: u64,
    /// 1 / temperature, finite.
    pub scale: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub top_k: u32,
    pub repetition: f32,
    /// Log probabilities beside the chosen one's.
    pub n_top: u32,
    /// 0: greedy.
    pub draws: u32,
    /// Whether any of top-k, top-p and min-p is on.
    pub cuts: u32,
}

/// A change of one logit: a bias or, in a list of its own, a penalty.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Edit {
    /// Of the call; with [`FOLLOWS`] when an earlier bias of the same token leads here.
    pub row: u32,
    pub token: u32,
    /// Place of the next bias of the same row and token, counted from 1; 0: none.
    pub link: u32,
    /// Bias: added. Penalty: subtracted after the repetition penalty.
    pub amount: f32,
}

/// Mark of a bias that another one of the same row and token precedes: one thread adds them all, in order.
pub(super) const FOLLOWS: u32 = 1 << 31;

/// A token and its natural log probability.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TopToken {
    pub token: u32,
    pub logprob: f32,
}

/// The outcome of one row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice {
    pub chosen: TopToken,
    /// 0: there is no token to choose.
    pub is_finite: u32,
    /// Log probabilities that were written.
    pub n_top: u32,
}

/// The most of everything in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most [`MAX_ROWS`].
    pub rows: u32,
    /// At most [`MAX_VOCAB`].
    pub vocab: u32,
    /// Log probabilities of a row, at most [`MAX_TOPS`].
    pub logprobs: u32,
    /// Biases and penalties that are on their way at once; with more, there are several rounds.
    pub edits: u32,
}

/// Byte offsets in the scratch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scratch {
    pub rows: u64,
    pub edits: u64,
    pub choices: u64,
    pub tops: u64,
    pub masks: u64,
    pub tiles: u64,
    pub weights: u64,
    pub masses: u64,
    pub counts: u64,
    pub bytes: u64,
}

/// What a tile's block of `sample_reduce` and of `sample_weigh` leaves for the row's last block.
pub(super) const TILE_BYTES: u64 = 16;
pub(super) const WEIGHT_BYTES: u64 = 16;

impl Limits {
    pub(super) fn tiles(&self) -> u32 {
        self.vocab.div_ceil(TILE)
    }

    /// Words of a row's mask: the row, and a bit per token.
    pub(super) fn mask_words(&self) -> usize {
        1 + self.vocab.div_ceil(32) as usize
    }

    pub(super) fn scratch(&self) -> Scratch {
        let [rows, edits, logprobs] = [self.rows, self.edits, self.logprobs].map(u64::from);
        let tiles = rows * u64::from(self.tiles());
        let bins = rows * u64::from(N_BINS);
        let mut end = 0;
        let mut place = |bytes: u64| {
            let offset = end;
            end += bytes.next_multiple_of(16);
            offset
        };
        Scratch {
            rows: place(rows * size_of::<Row>() as u64),
            edits: place(edits * size_of::<Edit>() as u64),
            choices: place(rows * size_of::<Choice>() as u64),
            tops: place(rows * logprobs * size_of::<TopToken>() as u64),
            masks: place(rows * 4 * self.mask_words() as u64),
            tiles: place(tiles * TILE_BYTES),
            weights: place(tiles * WEIGHT_BYTES),
            masses: place(bins * 8),
            counts: place(bins * 4),
            bytes: end,
        }
    }

    /// Device bytes that a call needs beside the logits.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch().bytes
    }

    /// Pinned host bytes that a call needs: the scratch's begin, up to the masks.
    pub fn staging_bytes(&self) -> u64 {
        self.scratch().tiles
    }

    /// Host bytes of a [`Sampler`](super::Sampler)'s table.
    pub fn table_bytes(&self) -> u64 {
        4 * u64::from(self.vocab)
    }
}
