//! Model files: bytes in, checked views out. Nothing that a file says is trusted.
//!
//! [`Checkpoint::open`] reads every header, checks it, and knows where each tensor lies; the
//! weights themselves are fetched later with [`Checkpoint::read`]. Files are read by position and
//! never mapped, so a file that shrinks or vanishes under us is an error code and not a signal in
//! the host.
#![forbid(unsafe_code)]

pub mod config;
pub mod gguf;
mod json;
mod layout;
mod safetensors;
mod source;

use std::path::Path;

use crate::dtype::DType;
use crate::error::{Error, Result};
use source::Source;

/// Longest key or tensor name: what GGUF allows, and no message gets longer by it.
const MAX_NAME_BYTES: u64 = 65535;

/// A tensor in one of the model's files. Everything is checked: the bytes lie inside the file, are
/// as many as dtype and shape need, and belong to no other tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: DType,
    /// Outermost first, as in PyTorch: a matrix is `[n_out, n_in]`, its rows are contiguous.
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files.
    pub file: usize,
    /// From the begin of the file.
    pub offset: u64,
    pub bytes: u64,
}

/// What the model's files say besides the tensors.
#[derive(Debug)]
pub enum Metadata {
    /// The key-value pairs of a GGUF file (of the first part, when split).
    Gguf(gguf::Metadata),
    /// The JSON files of a Hugging Face folder.
    HuggingFace(Box<config::HuggingFace>),
}

/// An opened model: every header is read and checked, no tensor data is read yet.
#[derive(Debug)]
pub struct Checkpoint {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    files: Vec<Source>,
    /// Of a model that is known by its config.json alone: the type that its weights would have.
    outline: Option<DType>,
}

impl Checkpoint {
    /// Opens a `.gguf` file (the first part, when the model is split), a folder with `config.json`
    /// and safetensors files, a `.safetensors` file in such a folder, or a `.json` file with a
    /// configuration and nothing else: an outline, of which plans can be made.
    ///
    /// # Errors
    /// `Io` when a file cannot be opened or read, `BadModel` when it contradicts itself,
    /// `Unsupported` when it is well formed but of a kind that larder does not know. The message
    /// names file and culprit.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if path.is_dir() {
            return Self::open_folder(path, safetensors::find_weights(path)?);
        }
        if let Some(weights) = safetensors::weights_of_file(path)? {
            let folder = path.parent().unwrap_or(Path::new(""));
            return Self::open_folder(folder, weights);
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_outline(path);
        }
        let (metadata, files, tensors) = gguf::open(path)?;
        Self::new(Metadata::Gguf(metadata), files, tensors)
    }

    fn open_folder(folder: &Path, weights: safetensors::Weights) -> Result<Checkpoint> {
        let metadata = config::HuggingFace::open(folder)?;
        let (files, tensors) = safetensors::open(folder, weights)?;
        Self::new(Metadata::HuggingFace(Box::new(metadata)), files, tensors)
    }

    fn open_outline(config: &Path) -> Result<Checkpoint> {
        let metadata = config::HuggingFace::config_alone(config)?;
        let outline = Some(metadata.weight_type()?);
        let metadata = Metadata::HuggingFace(Box::new(metadata));
        Ok(Checkpoint { metadata, tensors: Vec::new(), files: Vec::new(), outline })
    }

    fn new(
        metadata: Metadata,
        files: Vec<Source>,
        mut tensors: Vec<TensorInfo>,
    ) -> Result<Checkpoint> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in tensors.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let name_of = |tensor: &TensorInfo| files.get(tensor.file).map_or("", Source::name);
                return Err(Error::BadModel(format!(
                    "duplicate tensor name {:?}, in {} and in {}",
                    a.name,
                    name_of(a),
                    name_of(b)
                )));
            }
        }
        Ok(Checkpoint { metadata, tensors, files, outline: None })
    }

    /// What the files say besides the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The type of all weights where only a configuration was opened: there are no tensors then.
    pub fn outline(&self) -> Option<DType> {
        self.outline
    }

    /// Lets go of what only a tokenizer and a chat template are made from, which may be many MB.
    pub fn forget_texts(&mut self) {
        match &mut self.metadata {
            Metadata::Gguf(metadata) => metadata.forget_texts(),
            Metadata::HuggingFace(files) => files.forget_texts(),
        }
    }

    /// About the heap bytes of the list of tensors.
    pub fn tensor_list_bytes(&self) -> u64 {
        let name_and_shape = |tensor: &TensorInfo| tensor.name.len() + 8 * tensor.shape.len();
        let entries = self.tensors.len() * size_of::<TensorInfo>();
        (entries + self.tensors.iter().map(name_and_shape).sum::<usize>()) as u64
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let index = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(index)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// Fills `into` with the tensor's bytes from its `first_byte` on. Any number of threads may
    /// read at once.
    ///
    /// # Errors
    /// `InvalidArgument` when the range leaves the tensor, `Io` when the file cannot be read, or
    /// has become shorter.
    pub fn read(&self, tensor: &TensorInfo, first_byte: u64, into: &mut [u8]) -> Result<()> {
        let end = first_byte.checked_add(into.len() as u64);
        let begin = tensor.offset.checked_add(first_byte);
        let file = self.files.get(tensor.file);
        match (end, begin, file) {
            (Some(end), Some(begin), Some(file)) if end <= tensor.bytes => {
                file.read_at(begin, into)
            }
            _ => Err(Error::InvalidArgument(format!(
                "bytes {first_byte} to {first_byte} + {} were asked of tensor {:?}, which has {}",
                into.len(),
                tensor.name,
                tensor.bytes
            ))),
        }
    }
}
