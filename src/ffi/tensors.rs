//! forward whose rows stay where they were computed, as tensors of DLPack (dlpack.h), so that another library on the
//! same device reads them without a copy.

use std::ffi::c_void;
use std::ptr;

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::forward::{larder_batch, with_batch};
use super::pointers::{Versioned, init, struct_size, versioned, write_versioned};
use super::status::larder_status;
use crate::backend::Placed;
use crate::engine::PlacedOutput;

/// A tensor as dlpack.h declares it; include that to look inside.
pub struct DLManagedTensor(Managed);

#[repr(C)]
struct Managed {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    n_dim: i32,
    type_code: u8,
    type_bits: u8,
    type_lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

const _: () = assert!(size_of::<Managed>() == 64);

const DL_CPU: i32 = 1;
const DL_CUDA: i32 = 2;
const DL_FLOAT: u8 = 2;

/// Where forward left its rows.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_tensors {
    /// Set by larder_tensors_init.
    pub struct_size: u32,
    /// Not 0: the tensors lie on a CUDA device, and event is set.
    pub is_device: u32,
    /// float32 `[n_logits_rows][vocabulary_size]`, or NULL when there are none.
    pub logits: *mut DLManagedTensor,
    /// float32 `[n_hidden_rows][hidden_size]`, or NULL when there are none.
    pub hidden: *mut DLManagedTensor,
    /// A CUevent to wait for before the tensors are read (cuStreamWaitEvent); NULL: they are there.
    pub event: *mut c_void,
}

// SAFETY: integers and pointers only.
unsafe impl Versioned for larder_tensors {
    const NAME: &'static str = "larder_tensors";
    const MIN_BYTES: usize = 32;
}

const _: () = assert!(size_of::<larder_tensors>() == 32);

/// Sets every field to 0, and struct_size. tensors: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_tensors_init(tensors: *mut larder_tensors) {
    // SAFETY: the header's contract.
    unsafe { init(tensors) }
}

/// As larder_engine_forward, but the rows stay where they were computed: nothing is copied to the host, and on a
/// device nothing is waited for. The tensors and the event are the engine's and valid until its next forward, step or
/// release; a tensor's deleter may be called and does nothing. batch.pooling must be LARDER_POOL_NONE and normalize 0;
/// where hidden states are wanted, they must be of all rows that want anything.
///
/// engine, batch: not NULL. tensors: not NULL, set up by larder_tensors_init, written on success only.
/// Errors: as larder_engine_forward.
/// One caller at a time, from any thread; a second one gets BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_forward_tensors(
    engine: *mut larder_engine,
    batch: *const larder_batch,
    tensors: *mut larder_tensors,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let batch = versioned(batch, "batch")?;
            struct_size(tensors, "tensors")?;
            let mut running = engine.lock()?;
            let running = &mut *running;
            let (vocabulary, hidden) = (running.engine.vocab_size(), running.engine.hidden_size());
            let output = with_batch(engine, running, &batch, |engine, batch| {
                engine.forward_in_place(&batch)
            })?;
            let result = running.tensors.of(&output, vocabulary, hidden);
            write_versioned(tensors, &result, "tensors")
        })
    }
}

/// The two tensors of an engine, written anew by each pass, at addresses that stay.
pub(super) struct Tensors(Box<[Tensor; 2]>);

struct Tensor {
    managed: DLManagedTensor,
    shape: [i64; 2],
}

// SAFETY: the addresses inside are used by the one caller that the engine lets in.
unsafe impl Send for Tensors {}

unsafe extern "C" fn keep(_: *mut DLManagedTensor) {}

impl Tensors {
    pub(super) fn new() -> Tensors {
        let empty = || Tensor {
            managed: DLManagedTensor(Managed {
                data: ptr::null_mut(),
                device_type: DL_CPU,
                device_id: 0,
                n_dim: 2,
                type_code: DL_FLOAT,
                type_bits: 32,
                type_lanes: 1,
                shape: ptr::null_mut(),
                strides: ptr::null_mut(),
                byte_offset: 0,
                manager: ptr::null_mut(),
                deleter: Some(keep),
            }),
            shape: [0; 2],
        };
        Tensors(Box::new([empty(), empty()]))
    }

    /// Heap bytes.
    pub(super) fn bytes() -> u64 {
        size_of::<[Tensor; 2]>() as u64
    }

    fn of(&mut self, output: &PlacedOutput, vocabulary: u32, hidden: u32) -> larder_tensors {
        let [logits, states] = &mut *self.0;
        let event = output.logits.event.max(output.hidden.event);
        larder_tensors {
            struct_size: 0,
            is_device: u32::from(output.logits.cuda_device.is_some()),
            logits: logits.set(&output.logits, output.n_logits_rows, vocabulary),
            hidden: states.set(&output.hidden, output.n_hidden_rows, hidden),
            event: ptr::with_exposed_provenance_mut(event),
        }
    }
}

impl Tensor {
    fn set(&mut self, place: &Placed, n_rows: u32, n_columns: u32) -> *mut DLManagedTensor {
        if n_rows == 0 {
            return ptr::null_mut();
        }
        self.shape = [i64::from(n_rows), i64::from(n_columns)];
        let managed = &mut self.managed.0;
        managed.data = ptr::with_exposed_provenance_mut(place.address as usize);
        managed.device_type = if place.cuda_device.is_some() { DL_CUDA } else { DL_CPU };
        managed.device_id = place.cuda_device.unwrap_or(0) as i32;
        managed.shape = self.shape.as_mut_ptr();
        &raw mut self.managed
    }
}
