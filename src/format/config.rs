//! The JSON files beside the weights in a Hugging Face folder, with typed access.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::dtype::DType;
use crate::error::{Error, Result};

use super::json;
use super::source::Source;

/// The largest text file that is read: the biggest tokenizer.json files in use have some 40 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// What a Hugging Face folder says besides the weights.
#[derive(Debug, Clone)]
pub struct HuggingFace {
    /// config.json
    pub config: Object,
    /// generation_config.json
    pub generation_config: Option<Object>,
    /// tokenizer.json, as it is.
    pub tokenizer_json: Option<Vec<u8>>,
    /// tokenizer_config.json
    pub tokenizer_config: Option<Object>,
    /// chat_template.jinja, else the template inside tokenizer_config.json.
    pub chat_template: Option<String>,
}

impl HuggingFace {
    pub(super) fn open(folder: &Path) -> Result<HuggingFace> {
        let config = Object::open(folder, "config.json")?
            .ok_or_else(|| Error::Io(format!("{} has no config.json", folder.display())))?;
        let tokenizer_config = Object::open(folder, "tokenizer_config.json")?;
        Ok(HuggingFace {
            chat_template: chat_template(folder, tokenizer_config.as_ref())?,
            generation_config: Object::open(folder, "generation_config.json")?,
            tokenizer_json: read_text(folder, "tokenizer.json")?,
            tokenizer_config,
            config,
        })
    }

    /// A configuration and nothing beside it.
    pub(super) fn config_alone(path: &Path) -> Result<HuggingFace> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().unwrap_or(Path::new(""));
        let config = Object::open(folder, &name)?
            .ok_or_else(|| Error::Io(format!("cannot open {}: no such file", path.display())))?;
        Ok(HuggingFace {
            config,
            generation_config: None,
            tokenizer_json: None,
            tokenizer_config: None,
            chat_template: None,
        })
    }

    /// The type that config.json names for the weights; bfloat16 where it does not.
    pub(super) fn weight_type(&self) -> Result<DType> {
        let name = match self.config.get_str("dtype")? {
            None => self.config.get_str("torch_dtype")?,
            name => name,
        };
        match name {
            None | Some("bfloat16") => Ok(DType::BF16),
            Some("float16") => Ok(DType::F16),
            Some("float32") => Ok(DType::F32),
            Some(other) => Err(Error::Unsupported(format!(
                "torch_dtype is {other:?}, expected bfloat16, float16 or float32"
            ))),
        }
    }

    pub(super) fn forget_texts(&mut self) {
        self.tokenizer_json = None;
        self.tokenizer_config = None;
        self.chat_template = None;
    }
}

/// The file of its own wins; inside tokenizer_config.json it is a string, or a list in which one is
/// named "default".
fn chat_template(folder: &Path, tokenizer_config: Option<&Object>) -> Result<Option<String>> {
    const FILE: &str = "chat_template.jinja";
    if let Some(bytes) = read_text(folder, FILE)? {
        return match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::BadModel(format!("{FILE} is not UTF-8"))),
        };
    }
    let Some(config) = tokenizer_config else { return Ok(None) };
    match config.value("chat_template") {
        Some(Value::Array(list)) => {
            let default = list.iter().find(|entry| entry["name"] == "default");
            Ok(default.and_then(|entry| entry["template"].as_str()).map(str::to_owned))
        }
        _ => Ok(config.get_str("chat_template")?.map(str::to_owned)),
    }
}

/// The file's bytes, `None` when there is none.
fn read_text(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    if !fs::exists(&path).map_err(|error| Error::Io(format!("cannot open {name}: {error}")))? {
        return Ok(None);
    }
    let source = Source::open(&path)?;
    if source.len() > MAX_TEXT_BYTES {
        return Err(Error::BadModel(format!(
            "{} has {} bytes, at most {MAX_TEXT_BYTES} are read",
            source.name(),
            source.len()
        )));
    }
    source.read_vec(0, source.len()).map(Some)
}

/// A JSON object of a named file. A key that is missing or null gives `None`; a value of another
/// type than the getter's is `BadModel`, naming file and key.
#[derive(Debug, Clone)]
pub struct Object {
    file: String,
    /// In front of every key in messages: `rope_scaling.` and the like.
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Parses the text of a JSON file; `file` names it in messages.
    ///
    /// # Errors
    /// `BadModel` when it is no JSON object, or has one key twice.
    pub fn parse(file: &str, text: &[u8]) -> Result<Object> {
        let map = json::parse_object(file, text)?;
        Ok(Object { file: file.to_owned(), prefix: String::new(), map })
    }

    pub(super) fn open(folder: &Path, name: &str) -> Result<Option<Object>> {
        read_text(folder, name)?.map(|text| Object::parse(name, &text)).transpose()
    }

    /// The keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The value as it is; `None` when missing or null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An integer of 0 to 2^32 - 1.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "an integer of 0 to 4294967295", as_u32)
    }

    /// An integer of 0 to 2^64 - 1.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "an integer of 0 or more", Value::as_u64)
    }

    /// A number; integers count too.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", as_f32)
    }

    /// true or false.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", Value::as_str)
    }

    /// A list of strings.
    pub fn get_strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.get(key, "a list of strings", |value| list(value, Value::as_str))
    }

    /// A list of numbers.
    pub fn get_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.get(key, "a list of numbers", |value| list(value, as_f32))
    }

    /// A list of integers; one integer alone counts as a list of one, as `eos_token_id` has it.
    pub fn get_u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.get(key, "an integer of 0 to 4294967295, or a list of them", |value| {
            as_u32(value).map(|one| vec![one]).or_else(|| list(value, as_u32))
        })
    }

    /// A token's text: a string, or an object whose `content` is one.
    pub fn get_token_text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string, or an object with a string `content`", |value| {
            value.as_str().or_else(|| value.get("content")?.as_str())
        })
    }

    /// A nested object (a copy: configurations are small).
    pub fn get_object(&self, key: &str) -> Result<Option<Object>> {
        let map = self.get(key, "an object", |value| value.as_object().cloned())?;
        Ok(map.map(|map| Object {
            file: self.file.clone(),
            prefix: format!("{}{key}.", self.prefix),
            map,
        }))
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let Object { file, prefix, .. } = self;
            let found = excerpt(value);
            Error::BadModel(format!("{file}: {prefix}{key} is {found}, expected {expected}"))
        })
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|wide| u32::try_from(wide).ok())
}

fn as_f32(value: &Value) -> Option<f32> {
    value.as_f64().map(|wide| wide as f32).filter(|narrow| narrow.is_finite())
}

fn list<'a, T>(value: &'a Value, convert: impl Fn(&'a Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(convert).collect()
}

/// The value in a message: short ones as they are, others by their kind.
fn excerpt(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.len() > 60 => "a long string".into(),
        short => short.to_string(),
    }
}
