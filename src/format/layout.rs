//! Whether a file's tensors fill its data section: no two share bytes, and none is left over.
#![forbid(unsafe_code)]

use crate::dtype::DType;
use crate::error::{Error, Result};

use super::TensorInfo;

/// Bytes that a tensor of this dtype and shape takes, or `None` when rows are no whole blocks or it
/// overflows.
pub(super) fn tensor_bytes(dtype: DType, shape: &[u64]) -> Option<u64> {
    let (row, rows) = match shape.split_last() {
        Some((row, outer)) => (*row, outer),
        None => (1, &[][..]),
    };
    rows.iter().try_fold(dtype.row_bytes(row)?, |bytes, n| bytes.checked_mul(*n))
}

/// Checks that the tensors lie one behind the other from `begin` on, each at the next multiple of
/// `alignment` (counted from `begin`), and that behind the last one only padding is left before
/// `end`. Tensors without bytes may lie anywhere.
pub(super) fn check_coverage(
    file: &str,
    tensors: &[TensorInfo],
    begin: u64,
    end: u64,
    alignment: u64,
) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
    order.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    let bad = |message: String| Err(Error::BadModel(format!("{file}: {message}")));
    let mut last: Option<&TensorInfo> = None;
    // Relative to `begin`, where the next tensor may start.
    let mut free: u64 = 0;
    let data_bytes = end.saturating_sub(begin);
    for tensor in order {
        let name = &tensor.name;
        let Some(relative) = tensor.offset.checked_sub(begin) else {
            return bad(format!("tensor {name:?} begins before the data"));
        };
        let Some(tensor_end) = relative.checked_add(tensor.bytes).filter(|e| *e <= data_bytes)
        else {
            return bad(format!(
                "tensor {name:?} needs {} bytes from {} on, the file ends at {end}",
                tensor.bytes, tensor.offset
            ));
        };
        let place = free.next_multiple_of(alignment);
        match last {
            Some(last) if relative < free => {
                return bad(format!("tensors {:?} and {name:?} share bytes", last.name));
            }
            _ if relative > place => {
                let gap = relative - place;
                return bad(format!("{gap} bytes before tensor {name:?} belong to no tensor"));
            }
            _ if relative < place => {
                return bad(format!("tensor {name:?} is not aligned to {alignment} bytes"));
            }
            _ => {}
        }
        free = tensor_end;
        last = Some(tensor);
    }
    let used = free.next_multiple_of(alignment);
    if data_bytes > used {
        let rest = data_bytes - used;
        return bad(format!("{rest} bytes behind the last tensor belong to no tensor"));
    }
    Ok(())
}
