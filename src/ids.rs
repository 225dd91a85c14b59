//! Indices that must not be mixed up are types.
#![forbid(unsafe_code)]

/// The place of one token's K and V, in every layer of the KV repo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Slot(pub u32);

/// A decoder layer, counted from the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Layer(pub u32);

/// A token of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct TokenId(pub u32);

/// A sequence's handle: index in the low 32 bits, generation in the high ones. 0 is no sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SequenceHandle(pub u64);

/// A request's handle: index in the low 32 bits, generation in the high ones. 0 is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct RequestHandle(pub u64);

/// Consecutive slots that hold consecutive tokens of one or more sequences, and what comes before them.
///
/// A sequence is a chain of segments, read from its last one backwards; forks share their first segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// First slot.
    pub start: Slot,
    /// Number of slots and tokens.
    pub len: u32,
    /// Tokens of the sequence before this segment.
    pub first_position: u32,
    /// The segment before this one, or [`NO_SEGMENT`].
    pub parent: u32,
}

/// The end of a chain of segments.
pub const NO_SEGMENT: u32 = u32::MAX;
