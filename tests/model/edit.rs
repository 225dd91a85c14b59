//! Copies of a tiny model with its config.json patched and its tensors changed.

use std::collections::BTreeMap;
use std::path::Path;

use larder::error::{Error, Result};
use larder::format::Checkpoint;
use larder::model::{Description, Model, describe};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::naive_backend::NaiveBackend;

/// A tensor that belongs to nobody yet.
#[derive(Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A model's two files, to be changed and written out.
pub struct Edit {
    pub config: Map<String, Value>,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Edit {
    /// The model in a folder.
    pub fn new(folder: &Path) -> Edit {
        let text = std::fs::read(folder.join("config.json")).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            (name, Tensor { dtype, shape, bytes: view.data().to_vec() })
        };
        Edit {
            config: serde_json::from_slice(&text).unwrap(),
            tensors: file.tensors().into_iter().map(tensor).collect(),
        }
    }

    /// Sets the keys of `patch`, a JSON object; the value `"-"` removes a key.
    pub fn config(mut self, patch: &str) -> Edit {
        let patch: Map<String, Value> = serde_json::from_str(patch).unwrap();
        for (key, value) in patch {
            self.config.remove(&key);
            if value != "-" {
                self.config.insert(key, value);
            }
        }
        self
    }

    /// Renames a tensor.
    pub fn rename(mut self, from: &str, to: &str) -> Edit {
        let tensor = self.tensors.remove(from).unwrap();
        self.tensors.insert(to.into(), tensor);
        self
    }

    /// Removes a tensor.
    pub fn remove(mut self, name: &str) -> Edit {
        self.tensors.remove(name).unwrap();
        self
    }

    /// Adds a tensor of zeros.
    pub fn add(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Edit {
        let n: usize = shape.iter().product();
        let bytes = vec![0; n * dtype.bitsize() / 8];
        self.tensors.insert(name.into(), Tensor { dtype, shape: shape.to_vec(), bytes });
        self
    }

    /// Writes both files.
    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let views = self.tensors.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (name, view.unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        folder
    }

    /// Describes the model.
    pub fn describe(&self) -> Result<Description> {
        let folder = self.write();
        describe(&Checkpoint::open(folder.path())?)
    }

    /// Finds the model's weights.
    pub fn model(&self) -> Result<Model> {
        let folder = self.write();
        model_at(folder.path())
    }
}

/// Finds the weights of the model at `path`.
pub fn model_at(path: &Path) -> Result<Model> {
    let checkpoint = Checkpoint::open(path)?;
    Model::new(describe(&checkpoint)?, &checkpoint, &NaiveBackend::default(), 64)
}

/// What a load must come to.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    Works,
    /// `BadModel` whose message has this in it.
    Bad(&'static str),
    /// `Unsupported` whose message has this in it.
    Unsupported(&'static str),
}

/// Fails unless `result` is what was expected.
pub fn assert_outcome<T>(case: &str, expected: Expect, result: Result<T>) {
    let (is_right, part) = match (&result, expected) {
        (Ok(_), Expect::Works) => (true, ""),
        (Err(Error::BadModel(_)), Expect::Bad(part)) => (true, part),
        (Err(Error::Unsupported(_)), Expect::Unsupported(part)) => (true, part),
        _ => (false, ""),
    };
    let text = match &result {
        Ok(_) => "it works".to_owned(),
        Err(Error::BadModel(text)) => format!("BadModel: {text}"),
        Err(Error::Unsupported(text)) => format!("Unsupported: {text}"),
        Err(other) => format!("{other:?}"),
    };
    assert!(is_right && text.contains(part), "{case}: expected {expected:?}, but {text}");
}
