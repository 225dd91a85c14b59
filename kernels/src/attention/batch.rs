//! What attention is told about a step.

/// Sizes of the attention of one or more layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// A multiple of `n_kv_heads`.
    pub n_heads: u32,
    pub n_kv_heads: u32,
    /// A multiple of 8, at most 256.
    pub head_dim: u32,
    /// A query at position p sees the keys `p + 1 - window ..= p`; `None`: all up to p.
    pub window: Option<u32>,
}

/// The most that a step may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the device.
    pub n_multiprocessors: u32,
    /// Rows of a batch, padding included.
    pub max_rows: u32,
    /// Sequences of a batch.
    pub max_sequences: u32,
    /// Slots of the KV repo without the one for padding. There are never more segments than that.
    pub total_tokens: u32,
    pub max_sequence_tokens: u32,
}

/// The rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceRows {
    /// Its rows are numbers `first .. first + n` of the list that [`Batch::row`] reads, in order of position.
    pub first: u32,
    pub n: u32,
    /// Tokens of the sequence with these rows; row i has position `n_tokens - n + i`.
    pub n_tokens: u32,
    /// The last segment of its chain.
    pub last_segment: u32,
}

/// Consecutive slots that hold consecutive tokens of one or more sequences, and what comes before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// First slot.
    pub start: u32,
    /// Slots and tokens.
    pub len: u32,
    /// Tokens of the sequence before this segment.
    pub first_position: u32,
    /// The segment before this one, or [`NO_SEGMENT`].
    pub parent: u32,
}

/// The end of a chain of segments.
pub const NO_SEGMENT: u32 = u32::MAX;

/// A ragged batch.
pub trait Batch {
    /// Rows of the launch, padding included.
    fn n_rows(&self) -> u32;
    fn n_sequences(&self) -> usize;
    fn sequence(&self, i: usize) -> SequenceRows;
    /// The batch's row that is number `i` of the list grouped by sequence. Rows that no sequence has are padding.
    fn row(&self, i: u32) -> u32;
    fn segment(&self, i: u32) -> Segment;
}
