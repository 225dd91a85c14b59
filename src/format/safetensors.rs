//! safetensors: an 8-byte length, a JSON header, the tensors' bytes. One file, or shards with an
//! index.
//!
//! The header is parsed with serde_json and not with the `safetensors` crate, which keeps the last
//! of two equal names silently.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::dtype::DType;
use crate::error::{Error, Result};

use super::config::Object;
use super::source::Source;
use super::{MAX_NAME_BYTES, TensorInfo, layout};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// No model has tensors of more dimensions; bounds what a hostile shape can take.
const MAX_RANK: usize = 8;
/// So many culprits are listed in a message.
const MAX_LISTED: usize = 20;

/// Which files of a folder hold the weights.
pub(super) enum Weights {
    /// One file of this name.
    Single(String),
    /// The shards that the index names.
    Sharded,
}

/// The weights of a folder: `model.safetensors`, else the shards of its index.
pub(super) fn find_weights(folder: &Path) -> Result<Weights> {
    if folder.join(SINGLE).exists() {
        return Ok(Weights::Single(SINGLE.into()));
    }
    if folder.join(INDEX).exists() {
        return Ok(Weights::Sharded);
    }
    Err(Error::Io(format!(
        "{} holds neither {SINGLE} nor {INDEX}; open a GGUF model by its .gguf file",
        folder.display()
    )))
}

/// When `path` is an index or a .safetensors file: which weights that means. A shard stands for all
/// of them.
pub(super) fn weights_of_file(path: &Path) -> Result<Option<Weights>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    if name == INDEX {
        return Ok(Some(Weights::Sharded));
    }
    if !name.ends_with(".safetensors") {
        return Ok(None);
    }
    let is_shard = name.trim_end_matches(".safetensors").rsplit_once("-of-").is_some();
    if is_shard && path.with_file_name(INDEX).exists() {
        return Ok(Some(Weights::Sharded));
    }
    if is_shard {
        return Err(Error::Io(format!("{} is a shard, but {INDEX} is missing", path.display())));
    }
    Ok(Some(Weights::Single(name.into())))
}

/// Opens the files and reads their headers.
pub(super) fn open(folder: &Path, weights: Weights) -> Result<(Vec<Source>, Vec<TensorInfo>)> {
    match weights {
        Weights::Single(name) => {
            let source = Source::open(&folder.join(name))?;
            let tensors = read_header(&source, 0)?;
            Ok((vec![source], tensors))
        }
        Weights::Sharded => open_shards(folder),
    }
}

fn open_shards(folder: &Path) -> Result<(Vec<Source>, Vec<TensorInfo>)> {
    let shards = read_index(folder)?;
    let missing: Vec<&str> =
        shards.keys().map(String::as_str).filter(|name| !folder.join(name).is_file()).collect();
    if !missing.is_empty() {
        let list = listed(&missing);
        return Err(Error::Io(format!("{INDEX} names shards that are missing: {list}")));
    }
    let mut files = Vec::with_capacity(shards.len());
    let mut tensors = Vec::new();
    for (name, expected) in &shards {
        let source = Source::open(&folder.join(name))?;
        let mut found = read_header(&source, files.len())?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let lacks: Vec<&str> = expected
            .iter()
            .map(String::as_str)
            .filter(|name| found.binary_search_by(|t| t.name.as_str().cmp(name)).is_err())
            .collect();
        if !lacks.is_empty() {
            let list = listed(&lacks);
            return Err(Error::BadModel(format!(
                "{name} lacks tensors that {INDEX} names: {list}"
            )));
        }
        files.push(source);
        tensors.append(&mut found);
    }
    Ok((files, tensors))
}

/// Shard names with the tensors that the index expects in each.
fn read_index(folder: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let missing = || Error::Io(format!("{} has no {INDEX}", folder.display()));
    let index = Object::open(folder, INDEX)?.ok_or_else(missing)?;
    let no_map = || Error::BadModel(format!("{INDEX}: weight_map is missing"));
    let weight_map = index.get_object("weight_map")?.ok_or_else(no_map)?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for tensor in weight_map.keys() {
        let null = || Error::BadModel(format!("{INDEX}: weight_map.{tensor} is null"));
        let shard = weight_map.get_str(tensor)?.ok_or_else(null)?;
        let mut parts = Path::new(shard).components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !is_plain || shard.contains(['/', '\\', '\0']) {
            return Err(Error::BadModel(format!(
                "{INDEX}: weight_map.{tensor} is {shard:?}, expected a file name of the folder"
            )));
        }
        shards.entry(shard.to_owned()).or_default().push(tensor.to_owned());
    }
    Ok(shards)
}

fn listed(names: &[&str]) -> String {
    let shown = names.get(..MAX_LISTED).unwrap_or(names).join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Reads and checks one file's header. Its length is bounded by the file's size before anything is
/// reserved.
fn read_header(source: &Source, file: usize) -> Result<Vec<TensorInfo>> {
    let name = source.name();
    let bad = |message: String| Error::BadModel(format!("{name}: {message}"));
    if source.len() < 8 {
        let len = source.len();
        return Err(bad(format!("{len} bytes, a safetensors file has at least 10")));
    }
    let mut length = [0; 8];
    source.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let rest = source.len() - 8;
    if length < 2 || length > rest {
        return Err(bad(format!(
            "the header's length is {length}, expected 2 to {rest}, the bytes that follow it"
        )));
    }
    let text = source.read_vec(8, length)?;
    if text.first() != Some(&b'{') {
        return Err(bad("the header is no JSON object".into()));
    }
    let Header(entries) =
        serde_json::from_slice(&text).map_err(|error| bad(format!("header: {error}")))?;
    let begin = 8 + length;
    let mut tensors = Vec::with_capacity(entries.len());
    for (tensor, entry) in entries {
        tensors.push(check_entry(name, file, begin, source.len(), tensor, entry)?);
    }
    layout::check_coverage(name, &tensors, begin, source.len(), 1)?;
    Ok(tensors)
}

fn check_entry(
    file_name: &str,
    file: usize,
    begin: u64,
    end: u64,
    name: Cow<'_, str>,
    entry: Entry<'_>,
) -> Result<TensorInfo> {
    let dtype = match &*entry.dtype {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        other => {
            return Err(Error::Unsupported(format!(
                "{file_name}: tensor {name:?} has type {other:?}; F32, F16 and BF16 are supported"
            )));
        }
    };
    let bad = |message: String| Error::BadModel(format!("{file_name}: tensor {name:?} {message}"));
    let Shape(shape) = entry.shape;
    let needed = layout::tensor_bytes(dtype, &shape)
        .ok_or_else(|| bad(format!("has shape {shape:?}, more than 2^64 bytes")))?;
    let [first, last] = entry.data_offsets;
    let data_bytes = end - begin;
    if first > last || last > data_bytes {
        return Err(bad(format!(
            "has data_offsets [{first}, {last}], the file holds {data_bytes} bytes of data"
        )));
    }
    if last - first != needed {
        let bytes = last - first;
        return Err(bad(format!(
            "has {bytes} bytes, but {dtype:?} of shape {shape:?} needs {needed}"
        )));
    }
    Ok(TensorInfo {
        name: name.into_owned(),
        dtype,
        shape,
        file,
        offset: begin + first,
        bytes: needed,
    })
}

/// The header: tensors in the file's order, no name twice.
struct Header<'a>(Vec<(Cow<'a, str>, Entry<'a>)>);

/// One tensor of the header; offsets count from the end of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Dimensions, at most [`MAX_RANK`].
struct Shape(Vec<u64>);

/// Text that is borrowed where the JSON has no escapes in it.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Header<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut entries: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut tensors: Vec<(Cow<'de, str>, Entry<'de>)> = Vec::new();
        let mut has_metadata = false;
        while let Some(Text(name)) = entries.next_key()? {
            if name.len() as u64 > MAX_NAME_BYTES {
                let message = format!("a name has {} bytes, at most {MAX_NAME_BYTES}", name.len());
                return Err(A::Error::custom(message));
            }
            if name != "__metadata__" {
                let entry = entries
                    .next_value()
                    .map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                tensors.push((name, entry));
                continue;
            }
            if std::mem::replace(&mut has_metadata, true) {
                return Err(A::Error::custom("duplicate name \"__metadata__\""));
            }
            // Free text about the file; only its form is checked.
            entries.next_value::<Option<BTreeMap<Text, Text>>>()?;
        }
        let mut names: Vec<&str> = tensors.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(A::Error::custom(format!(
                "duplicate tensor name {:?}",
                pair.first().unwrap_or(&"")
            ))),
            None => Ok(Header(tensors)),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_RANK} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut dimensions: A,
    ) -> std::result::Result<Shape, A::Error> {
        let mut shape = Vec::with_capacity(4);
        while let Some(dimension) = dimensions.next_element()? {
            if shape.len() == MAX_RANK {
                return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
            }
            shape.push(dimension);
        }
        Ok(Shape(shape))
    }
}
