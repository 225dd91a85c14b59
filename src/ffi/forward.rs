//! forward: the host decides every row.

use super::boundary::engine_call;
use super::engine::{Running, larder_engine};
use super::pointers::{
    Versioned, init, input_slice, invalid, struct_size, versioned, write_versioned,
};
use super::sequence::larder_sequence;
use super::status::larder_status;
use crate::engine::{Engine, ForwardBatch, Pooling};
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// batch.wants: this row's logits.
pub const LARDER_WANT_LOGITS: u8 = 1;
/// batch.wants: this row's final hidden state.
pub const LARDER_WANT_HIDDEN: u8 = 2;

/// batch.pooling: hidden states come row by row.
pub const LARDER_POOL_NONE: u32 = 0;
/// batch.pooling: one hidden row per sequence of the batch, the mean of its rows that want one.
pub const LARDER_POOL_MEAN: u32 = 1;
/// batch.pooling: one hidden row per sequence of the batch, its last row that wants one.
pub const LARDER_POOL_LAST: u32 = 2;

/// The rows of one forward pass, of one or more sequences. The caller's own; read during the call only.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_batch {
    /// Set by larder_batch_init.
    pub struct_size: u32,
    /// 1 to max_batch_rows.
    pub n_rows: u32,
    /// `[n_rows]`, or NULL where embeddings are given.
    pub tokens: *const u32,
    /// `[n_rows][hidden_size]` in place of tokens, or NULL.
    pub embeddings: *const f32,
    /// `[n_rows]`; the rows of one sequence in order, appended to it.
    pub sequences: *const larder_sequence,
    /// `[n_rows]` LARDER_WANT_ bits, or NULL: logits of each sequence's last row.
    pub wants: *const u8,
    /// LARDER_POOL_ for the hidden states.
    pub pooling: u32,
    /// Not 0: hidden states, pooled or not, are scaled to length 1.
    pub normalize: u32,
}

// SAFETY: integers and pointers only.
unsafe impl Versioned for larder_batch {
    const NAME: &'static str = "larder_batch";
    const MIN_BYTES: usize = 32;
}

const _: () = assert!(size_of::<larder_batch>() == 48);

/// What forward computed. The arrays are the engine's and valid until its next forward, step or release.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_output {
    /// Set by larder_output_init.
    pub struct_size: u32,
    /// Rows of logits.
    pub n_logits_rows: u32,
    /// Rows of hidden.
    pub n_hidden_rows: u32,
    /// Columns of logits.
    pub vocabulary_size: u32,
    /// Columns of hidden, and of batch.embeddings.
    pub hidden_size: u32,
    /// `[n_logits_rows][vocabulary_size]`, in the order of the batch; NULL when there are none.
    pub logits: *const f32,
    /// `[n_hidden_rows][hidden_size]`, in the order of the batch; NULL when there are none.
    pub hidden: *const f32,
}

// SAFETY: integers and pointers only.
unsafe impl Versioned for larder_output {
    const NAME: &'static str = "larder_output";
    const MIN_BYTES: usize = 40;
}

const _: () = assert!(size_of::<larder_output>() == 40);

/// Sets every field to its default. batch: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_batch_init(batch: *mut larder_batch) {
    // SAFETY: the header's contract.
    unsafe { init(batch) }
}

/// Sets every field to 0, and struct_size. output: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_output_init(output: *mut larder_output) {
    // SAFETY: the header's contract.
    unsafe { init(output) }
}

/// One forward pass over the rows of batch, each appended to its sequence. All or nothing: on any error but
/// ENGINE_FAILED and INTERNAL the sequences are as they were.
///
/// engine, batch: not NULL. output: not NULL, set up by larder_output_init, written on success only.
/// Errors: INVALID_ARGUMENT (the message names row and field), STALE_HANDLE, OUT_OF_SLOTS, LIMIT_REACHED
/// (max_batch_rows, max_logits_rows, max_sequence_tokens), BUSY, DEVICE, ENGINE_FAILED.
/// One caller at a time, from any thread; a second one gets BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_forward(
    engine: *mut larder_engine,
    batch: *const larder_batch,
    output: *mut larder_output,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let batch = versioned(batch, "batch")?;
            struct_size(output, "output")?;
            let result = run(engine, &mut *engine.lock()?, &batch)?;
            write_versioned(output, &result, "output")
        })
    }
}

/// Runs the rows and points into the result.
///
/// # Safety
/// As [`input_slice`] for each array of the batch.
unsafe fn run(
    handles: &larder_engine,
    running: &mut Running,
    batch: &larder_batch,
) -> Result<larder_output> {
    let (vocabulary_size, hidden_size) =
        (running.engine.vocab_size(), running.engine.hidden_size());
    let or_null = |rows: &[f32]| if rows.is_empty() { std::ptr::null() } else { rows.as_ptr() };
    // SAFETY: handed on.
    unsafe {
        with_batch(handles, running, batch, |engine, batch| {
            let output = engine.forward(&batch)?;
            Ok(larder_output {
                struct_size: 0,
                n_logits_rows: output.n_logits_rows,
                n_hidden_rows: output.n_hidden_rows,
                vocabulary_size,
                hidden_size,
                logits: or_null(output.logits),
                hidden: or_null(output.hidden),
            })
        })
    }
}

/// Converts the rows.
///
/// # Safety
/// As [`input_slice`] for each array of the batch.
pub(super) unsafe fn with_batch<T>(
    handles: &larder_engine,
    running: &mut Running,
    batch: &larder_batch,
    then: impl FnOnce(&mut Engine, ForwardBatch<'_>) -> Result<T>,
) -> Result<T> {
    let n_rows = batch.n_rows as usize;
    let Running { engine, sequences, .. } = running;
    if n_rows == 0 {
        return Err(invalid("batch.n_rows is 0".into()));
    }
    if n_rows > sequences.capacity() {
        return Err(Error::LimitReached(format!(
            "batch.n_rows is {n_rows}, options.max_batch_rows is {}",
            sequences.capacity()
        )));
    }
    let given = |address: bool, length: usize| if address { length } else { 0 };
    let n_embeddings = n_rows * engine.hidden_size() as usize;
    // SAFETY: this function's contract; a NULL array is read as an empty one.
    let (tokens, embeddings, rows, wants) = unsafe {
        (
            input_slice(batch.tokens, given(!batch.tokens.is_null(), n_rows), "batch.tokens")?,
            input_slice(
                batch.embeddings,
                given(!batch.embeddings.is_null(), n_embeddings),
                "batch.embeddings",
            )?,
            input_slice(batch.sequences, n_rows, "batch.sequences")?,
            input_slice(batch.wants, given(!batch.wants.is_null(), n_rows), "batch.wants")?,
        )
    };
    sequences.clear();
    sequences.extend(rows.iter().map(|handle| handles.sequence(*handle)));
    let batch = ForwardBatch {
        n_rows: batch.n_rows,
        tokens: (!batch.tokens.is_null()).then(|| token_ids(tokens)),
        embeddings: (!batch.embeddings.is_null()).then_some(embeddings),
        sequences,
        wants: (!batch.wants.is_null()).then_some(wants),
        pooling: pooling_from(batch.pooling)?,
        normalize: batch.normalize != 0,
    };
    then(engine, batch)
}

fn pooling_from(value: u32) -> Result<Pooling> {
    match value {
        LARDER_POOL_NONE => Ok(Pooling::None),
        LARDER_POOL_MEAN => Ok(Pooling::Mean),
        LARDER_POOL_LAST => Ok(Pooling::Last),
        other => Err(invalid(format!("batch.pooling is {other}, expected a LARDER_POOL_ value"))),
    }
}

/// The same numbers as ids.
pub(super) fn token_ids(tokens: &[u32]) -> &[TokenId] {
    // SAFETY: TokenId is a transparent u32, of which every value is an id to be checked.
    unsafe { std::slice::from_raw_parts(tokens.as_ptr().cast(), tokens.len()) }
}
