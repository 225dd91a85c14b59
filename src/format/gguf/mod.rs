//! GGUF, versions 2 and 3: one file, or the parts of a split model.
#![forbid(unsafe_code)]

mod header;
mod metadata;
mod reader;
mod types;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::TensorInfo;
use super::source::Source;

pub use metadata::Metadata;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
/// So many missing parts are listed in a message.
const MAX_LISTED: usize = 20;
const TENSORS: &str = "split.tensors.count";

/// Opens a GGUF file, and the other parts when it is the first of several. The metadata is the
/// first part's.
pub(super) fn open(path: &Path) -> Result<(Metadata, Vec<Source>, Vec<TensorInfo>)> {
    let first = Source::open(path)?;
    let (metadata, tensors) = header::read(&first, 0)?;
    let n_parts = metadata.get_u32(COUNT)?.unwrap_or(1);
    if n_parts <= 1 {
        return Ok((metadata, vec![first], tensors));
    }
    let no = metadata.get_u32(NO)?.unwrap_or(0);
    if no != 0 {
        return Err(Error::BadModel(format!(
            "{} is part {} of {n_parts} of a split model, open its first part{}",
            first.name(),
            u64::from(no) + 1,
            part_path(path, 0, n_parts)
                .map_or(String::new(), |path| format!(": {}", path.display()))
        )));
    }
    let (files, tensors) = open_parts(path, first, tensors, n_parts)?;
    if let Some(expected) = metadata.get_u64(TENSORS)?
        && expected != tensors.len() as u64
    {
        return Err(Error::BadModel(format!(
            "{}: {TENSORS} is {expected}, but the {n_parts} parts hold {}",
            path.display(),
            tensors.len()
        )));
    }
    Ok((metadata, files, tensors))
}

/// Opens parts 2 and on, and adds their tensors to the first's.
fn open_parts(
    first_path: &Path,
    first: Source,
    mut tensors: Vec<TensorInfo>,
    n_parts: u32,
) -> Result<(Vec<Source>, Vec<TensorInfo>)> {
    let bad =
        |path: &Path, message: String| Error::BadModel(format!("{}: {message}", path.display()));
    let unnamed = || {
        let suffix = suffix(0, n_parts);
        bad(first_path, format!("part 1 of {n_parts}, so its name must end with {suffix}"))
    };
    if part_path(first_path, 0, n_parts).is_none() {
        return Err(unnamed());
    }
    let missing: Vec<String> = (1..n_parts)
        .filter_map(|no| part_path(first_path, no, n_parts))
        .filter(|path| !path.exists())
        .map(|path| path.display().to_string())
        .take(MAX_LISTED)
        .collect();
    if !missing.is_empty() {
        let list = missing.join(", ");
        return Err(Error::Io(format!("parts of a split model are missing: {list}")));
    }
    let mut files = vec![first];
    for no in 1..n_parts {
        let path = part_path(first_path, no, n_parts).ok_or_else(unnamed)?;
        let source = Source::open(&path)?;
        let (metadata, mut found) = header::read(&source, files.len())?;
        let (found_no, found_parts) = (metadata.get_u32(NO)?, metadata.get_u32(COUNT)?);
        if (found_no, found_parts) != (Some(no), Some(n_parts)) {
            let shown = |value: Option<u32>| value.map_or("missing".into(), |n| n.to_string());
            return Err(bad(
                &path,
                format!(
                    "{NO} is {} and {COUNT} is {}, expected {no} and {n_parts}: parts are mixed up",
                    shown(found_no),
                    shown(found_parts)
                ),
            ));
        }
        tensors.append(&mut found);
        files.push(source);
    }
    Ok((files, tensors))
}

/// How the name of part `no`, counted from 0, ends.
fn suffix(no: u32, n_parts: u32) -> String {
    format!("-{:05}-of-{n_parts:05}.gguf", u64::from(no) + 1)
}

/// The path of part `no`, given the path of a part; `None` when that has no name of a part.
fn part_path(path: &Path, no: u32, n_parts: u32) -> Option<PathBuf> {
    let end = format!("-of-{n_parts:05}.gguf");
    let stem = path.file_name()?.to_str()?.strip_suffix(end.as_str())?;
    let (prefix, number) = stem.rsplit_once('-')?;
    let is_number = number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| path.with_file_name(format!("{prefix}{}", suffix(no, n_parts))))
}
