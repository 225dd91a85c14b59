//! One GGUF file's header: magic, version, key-value pairs, tensor table.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::format::source::Source;
use crate::format::{TensorInfo, layout};

use super::metadata::{Metadata, Value};
use super::reader::Reader;
use super::types::{TensorType, tensor_type};

const MAX_RANK: u32 = 4;
/// A key, a type and a value of one byte.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;
/// A name, a rank, no dimension, a type and an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// Reads and checks the header. The tensors get `file` as their file.
pub(super) fn read(source: &Source, file: usize) -> Result<(Metadata, Vec<TensorInfo>)> {
    let mut reader = Reader::new(source);
    check_version(&mut reader)?;
    let n_tensors = reader.count("the number of tensors", MIN_TENSOR_BYTES)?;
    let n_pairs = reader.count("the number of key-value pairs", MIN_PAIR_BYTES)?;
    let mut pairs = BTreeMap::new();
    for index in 0..n_pairs {
        let key = reader.name(&format!("key {index}"))?;
        let value = read_value(&mut reader, &key)?;
        if pairs.contains_key(&key) {
            return Err(reader.bad(&format!("duplicate key {key:?}")));
        }
        pairs.insert(key, value);
    }
    let metadata = Metadata::new(source.name(), pairs);
    let alignment = alignment(&metadata, &reader)?;
    let mut tensors = Vec::new();
    for index in 0..n_tensors {
        tensors.push(read_tensor(&mut reader, index, file)?);
    }
    place(source, &mut tensors, reader.position().next_multiple_of(alignment), alignment)?;
    Ok((metadata, tensors))
}

fn check_version(reader: &mut Reader) -> Result<()> {
    let magic: [u8; 4] = reader.bytes("the magic number")?;
    let swapped = "written in big-endian byte order; little-endian is supported";
    match &magic {
        b"GGUF" => {}
        b"FUGG" => return Err(Error::Unsupported(reader.message(swapped))),
        _ => {
            return Err(reader
                .bad(&format!("not a GGUF file: it begins with {magic:02x?}, expected \"GGUF\"")));
        }
    }
    let version = reader.u32("the version")?;
    match version {
        2 | 3 => Ok(()),
        0 => Err(reader.bad("GGUF version 0, expected 2 or 3")),
        _ if version & 0xffff == 0 => Err(Error::Unsupported(reader.message(swapped))),
        _ => Err(Error::Unsupported(
            reader.message(&format!("GGUF version {version}; 2 and 3 are supported")),
        )),
    }
}

fn alignment(metadata: &Metadata, reader: &Reader) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.get_u32(KEY)?.unwrap_or(32);
    if alignment == 0 || !alignment.is_multiple_of(8) {
        return Err(reader.bad(&format!("{KEY} is {alignment}, expected a multiple of 8")));
    }
    Ok(alignment.into())
}

/// The scalar types by their numbers in the file: 8 is a string, 9 an array.
fn read_scalar(reader: &mut Reader, kind: u32, what: &str) -> Result<Value> {
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(reader.bytes(what)?).into()),
        1 => Value::Signed(i8::from_le_bytes(reader.bytes(what)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(reader.bytes(what)?).into()),
        3 => Value::Signed(i16::from_le_bytes(reader.bytes(what)?).into()),
        4 => Value::Unsigned(reader.u32(what)?.into()),
        5 => Value::Signed(i32::from_le_bytes(reader.bytes(what)?).into()),
        6 => Value::Float(f32::from_le_bytes(reader.bytes(what)?).into()),
        7 => match reader.bytes(what)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(reader.bad(&format!("{what} is a boolean of value {other}"))),
        },
        10 => Value::Unsigned(reader.u64(what)?),
        11 => Value::Signed(i64::from_le_bytes(reader.bytes(what)?)),
        12 => Value::Float(f64::from_le_bytes(reader.bytes(what)?)),
        _ => return Err(reader.bad(&format!("{what} has the unknown value type {kind}"))),
    })
}

/// Bytes of a scalar, of a string's length, or 1 for what [`read_scalar`] refuses.
fn min_bytes(kind: u32) -> u64 {
    match kind {
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        _ => 1,
    }
}

fn read_value(reader: &mut Reader, key: &str) -> Result<Value> {
    let what = format!("the value of {key:?}");
    match reader.u32(&what)? {
        8 => reader.string(&what).map(Value::Text),
        9 => read_array(reader, key),
        kind => read_scalar(reader, kind, &what),
    }
}

fn read_array(reader: &mut Reader, key: &str) -> Result<Value> {
    let what = format!("an element of {key:?}");
    let kind = reader.u32(&what)?;
    let n = reader.count(&format!("the length of {key:?}"), min_bytes(kind))?;
    match kind {
        8 => (0..n).map(|_| reader.string(&what)).collect::<Result<_>>().map(Value::Texts),
        9 => Err(Error::Unsupported(reader.message(&format!("{key:?} is an array of arrays")))),
        6 | 12 => (0..n)
            .map(|_| match read_scalar(reader, kind, &what)? {
                Value::Float(wide) => Ok(wide as f32),
                _ => Err(Error::Internal("a float was read as another type".into())),
            })
            .collect::<Result<_>>()
            .map(Value::Floats),
        _ => {
            let mut integers = Vec::with_capacity(n);
            for _ in 0..n {
                integers.extend(narrow(&read_scalar(reader, kind, &what)?));
            }
            // One that does not fit is missing.
            let all_fit = integers.len() == n;
            Ok(if all_fit { Value::Integers(integers) } else { Value::WideIntegers })
        }
    }
}

fn narrow(value: &Value) -> Option<i32> {
    match value {
        Value::Unsigned(wide) => (*wide).try_into().ok(),
        Value::Signed(wide) => (*wide).try_into().ok(),
        Value::Bool(bit) => Some((*bit).into()),
        _ => None,
    }
}

/// An entry of the tensor table; its offset still counts from the begin of the data.
fn read_tensor(reader: &mut Reader, index: usize, file: usize) -> Result<TensorInfo> {
    let name = reader.name(&format!("the name of tensor {index}"))?;
    let what = format!("tensor {name:?}");
    let rank = reader.u32(&what)?;
    if rank > MAX_RANK {
        return Err(reader.bad(&format!("{what} has {rank} dimensions, at most {MAX_RANK}")));
    }
    let mut shape = Vec::with_capacity(MAX_RANK as usize);
    for _ in 0..rank {
        shape.push(reader.u64(&what)?);
    }
    // The file has the innermost dimension first.
    shape.reverse();
    let number = reader.u32(&what)?;
    let offset = reader.u64(&what)?;
    let dtype = match tensor_type(number) {
        TensorType::Known(dtype) => dtype,
        TensorType::Other(kind) => {
            let message = format!("{what} has type {kind}, which is not supported");
            return Err(Error::Unsupported(reader.message(&message)));
        }
        TensorType::Unknown => {
            let message = format!("{what} has type number {number}, which is not known");
            return Err(Error::Unsupported(reader.message(&message)));
        }
    };
    if shape.contains(&0) {
        return Err(reader.bad(&format!("{what} of shape {shape:?} has a dimension of 0")));
    }
    let bytes = layout::tensor_bytes(dtype, &shape).ok_or_else(|| {
        reader.bad(&format!(
            "{what} of shape {shape:?} is too big, or its rows are no whole blocks of {} elements, \
             as {dtype:?} has them",
            dtype.block_len()
        ))
    })?;
    Ok(TensorInfo { name, dtype, shape, file, offset, bytes })
}

/// Makes the offsets count from the begin of the file, and checks that the tensors fill the data.
fn place(source: &Source, tensors: &mut [TensorInfo], begin: u64, alignment: u64) -> Result<()> {
    let name = source.name();
    let bad = |message: String| Error::BadModel(format!("{name}: {message}"));
    for tensor in tensors.iter_mut() {
        let TensorInfo { name, offset, bytes, .. } = &tensor;
        if !offset.is_multiple_of(alignment) {
            return Err(bad(format!(
                "tensor {name:?} has offset {offset}, expected a multiple of {alignment}"
            )));
        }
        let end = begin.checked_add(*offset).and_then(|first| first.checked_add(*bytes));
        if end.is_none_or(|end| end > source.len()) {
            let len = source.len();
            return Err(bad(format!(
                "tensor {name:?} lies beyond the end of the file: it needs {bytes} bytes from \
                 offset {offset} of the data, which begins at {begin}; the file has {len} bytes"
            )));
        }
        tensor.offset += begin;
    }
    let data_end = tensors.iter().map(|t| t.offset + t.bytes).max().unwrap_or(begin);
    let mut magic = [0; 4];
    let rest = data_end.next_multiple_of(alignment);
    if source.len().saturating_sub(4) >= rest {
        source.read_at(rest, &mut magic)?;
    }
    if &magic == b"GGUF" {
        return Err(bad(format!(
            "a second GGUF file begins at byte {rest}: parts of a split model that were joined; \
             keep them as separate files"
        )));
    }
    layout::check_coverage(name, tensors, begin, source.len(), alignment)
}
