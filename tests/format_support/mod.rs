//! Writes model files byte by byte, so that tests can put anything into them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use larder::error::Error;
use larder::format::Checkpoint;

/// A GGUF file to be. The counts in the header are those of the lists unless they are set.
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_pairs: Option<u64>,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

impl Gguf {
    /// Without keys and tensors.
    pub fn empty() -> Gguf {
        Gguf {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_pairs: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }

    /// Two tensors of f32, `a` of shape [2, 4] and `b` of shape [8], that hold 0 to 15.
    pub fn small() -> Gguf {
        Gguf::empty()
            .pair("general.architecture", &text("llama"))
            .pair("llama.block_count", &u32_value(2))
            .tensor("a", &[4, 2], 0, 0)
            .tensor("b", &[8], 0, 32)
            .data((0..16).flat_map(|n| (n as f32).to_le_bytes()).collect())
    }

    /// Adds a key; `value` begins with its type.
    pub fn pair(mut self, key: &str, value: &[u8]) -> Gguf {
        self.pairs.push([string(key), value.to_vec()].concat());
        self
    }

    /// Adds a tensor with dimensions as in the file, innermost first.
    pub fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Gguf {
        let mut entry = string(name);
        entry.extend((dimensions.len() as u32).to_le_bytes());
        entry.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    pub fn data(mut self, data: Vec<u8>) -> Gguf {
        self.data = data;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        if !self.data.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&self.data);
        }
        bytes
    }
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A value: type number and bytes.
pub fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    value(8, &string(text))
}

pub fn u16_value(n: u16) -> Vec<u8> {
    value(2, &n.to_le_bytes())
}

pub fn u32_value(n: u32) -> Vec<u8> {
    value(4, &n.to_le_bytes())
}

/// An array that says to hold `n` elements of type `kind`.
pub fn array(kind: u32, n: u64, bytes: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes(), &n.to_le_bytes()[..], bytes].concat())
}

/// A safetensors file with this header text, and this many bytes of data.
pub fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data_bytes).map(|n| n as u8));
    bytes
}

/// A folder that is gone with the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// With nothing in it.
    pub fn empty() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    /// With a config.json.
    pub fn hugging_face() -> Folder {
        let folder = Folder::empty();
        folder.write("config.json", br#"{"model_type": "llama"}"#);
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("the file is written");
        path
    }
}

/// Opens a file of these bytes, alone in a folder.
pub fn open_gguf(gguf: &Gguf) -> Result<Checkpoint, Error> {
    let folder = Folder::empty();
    Checkpoint::open(&folder.write("model.gguf", &gguf.bytes()))
}

/// Opens a folder with a config.json and these bytes as model.safetensors.
pub fn open_safetensors(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let folder = Folder::hugging_face();
    folder.write("model.safetensors", bytes);
    Checkpoint::open(folder.path())
}

/// The message of a `BadModel`, which must contain all of `culprits`.
#[track_caller]
pub fn assert_bad<T>(result: Result<T, Error>, culprits: &[&str]) {
    match result.err() {
        Some(Error::BadModel(message)) => assert_contains(&message, culprits),
        other => panic!("expected BadModel about {culprits:?}, got {other:?}"),
    }
}

/// The message of an `Unsupported`, which must contain all of `culprits`.
#[track_caller]
pub fn assert_unsupported<T>(result: Result<T, Error>, culprits: &[&str]) {
    match result.err() {
        Some(Error::Unsupported(message)) => assert_contains(&message, culprits),
        other => panic!("expected Unsupported about {culprits:?}, got {other:?}"),
    }
}

/// The message of an `Io`, which must contain all of `culprits`.
#[track_caller]
pub fn assert_io<T>(result: Result<T, Error>, culprits: &[&str]) {
    match result.err() {
        Some(Error::Io(message)) => assert_contains(&message, culprits),
        other => panic!("expected Io about {culprits:?}, got {other:?}"),
    }
}

#[track_caller]
fn assert_contains(message: &str, culprits: &[&str]) {
    for culprit in culprits {
        assert!(message.contains(culprit), "{message:?} does not name {culprit:?}");
    }
}
