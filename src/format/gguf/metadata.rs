//! The key-value pairs of a GGUF file, with typed access.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// A value as larder keeps it: widths are gone, since writers choose them freely.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    /// Integers of any width, and booleans as 0 and 1.
    Integers(Vec<i32>),
    /// Integers of which some need more than 32 bits; nothing reads those, so they are not kept.
    WideIntegers,
}

/// The key-value pairs of a GGUF file. A missing key gives `None`; a value of another type than the
/// getter's, or outside its range, is `BadModel`, naming file and key.
#[derive(Debug)]
pub struct Metadata {
    file: String,
    pairs: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(file: &str, pairs: BTreeMap<String, Value>) -> Metadata {
        Metadata { file: file.to_owned(), pairs }
    }

    pub(in crate::format) fn forget_texts(&mut self) {
        self.pairs.retain(|_, value| !matches!(value, Value::Text(_) | Value::Texts(_)));
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// `general.architecture`, which every model has.
    pub fn architecture(&self) -> Result<&str> {
        const KEY: &str = "general.architecture";
        let missing = || Error::BadModel(format!("{}: {KEY} is missing", self.file));
        self.get_str(KEY)?.ok_or_else(missing)
    }

    /// An integer of any width, of 0 to 2^32 - 1.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "an integer of 0 to 4294967295", |value| unsigned(value)?.try_into().ok())
    }

    /// An integer of any width, of 0 to 2^64 - 1.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "an integer of 0 or more", unsigned)
    }

    /// A floating-point number of either width.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a floating-point number", |value| match value {
            Value::Float(wide) => Some(*wide as f32),
            _ => None,
        })
    }

    /// A boolean.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn get_strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.get(key, "an array of strings", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of floating-point numbers.
    pub fn get_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.get(key, "an array of floating-point numbers", |value| match value {
            Value::Floats(floats) => Some(floats.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any width that fit 32 bits with sign; booleans count as 0 and 1.
    pub fn get_i32s(&self, key: &str) -> Result<Option<&[i32]>> {
        self.get(key, "an array of integers of 32 bits", |value| match value {
            Value::Integers(integers) => Some(integers.as_slice()),
            _ => None,
        })
    }

    /// Like [`get_i32s`](Self::get_i32s), and none is negative.
    pub fn get_u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.get(key, "an array of integers of 0 to 2147483647", |value| match value {
            Value::Integers(integers) => integers.iter().map(|n| (*n).try_into().ok()).collect(),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.pairs.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let found = describe(value);
            Error::BadModel(format!("{}: {key} is {found}, expected {expected}", self.file))
        })
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(value) => Some(*value),
        Value::Signed(value) => u64::try_from(*value).ok(),
        _ => None,
    }
}

/// The value in a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Unsigned(value) => format!("the integer {value}"),
        Value::Signed(value) => format!("the integer {value}"),
        Value::Float(value) => format!("the floating-point number {value}"),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Text(text) if text.len() > 60 => "a long string".into(),
        Value::Text(text) => format!("the string {text:?}"),
        Value::Texts(_) => "an array of strings".into(),
        Value::Floats(_) => "an array of floating-point numbers".into(),
        Value::Integers(_) => "an array of integers".into(),
        Value::WideIntegers => "an array of integers beyond 32 bits".into(),
    }
}
