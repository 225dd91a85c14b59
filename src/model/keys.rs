//! Reading a model's description key by key, and remembering which keys were read: what is left over at the end was
//! not understood, and is refused by name.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::format::config::Object;
use crate::format::gguf;

/// Where values come from: a JSON object or GGUF's key-value pairs.
pub trait Values {
    fn u32(&self, key: &str) -> Result<Option<u32>>;
    fn f32(&self, key: &str) -> Result<Option<f32>>;
    fn bool(&self, key: &str) -> Result<Option<bool>>;
    fn str(&self, key: &str) -> Result<Option<&str>>;
    /// Every key that has a value.
    fn names(&self) -> Vec<String>;
}

/// A model's description whose keys are ticked off as they are read.
#[derive(Debug)]
pub struct Keys<V> {
    values: V,
    /// In front of every key: `llama.` in GGUF.
    prefix: String,
    /// The file, for messages.
    place: &'static str,
    used: RefCell<BTreeSet<String>>,
}

impl<V: Values> Keys<V> {
    /// Keys of `values` that begin with `prefix`, which is left out in all calls; `place` names the file.
    pub fn new(values: V, prefix: &str, place: &'static str) -> Keys<V> {
        Keys { values, prefix: prefix.to_owned(), place, used: RefCell::default() }
    }

    /// The values themselves, for keys of another form; tick them off with [`ignore`](Self::ignore).
    pub fn values(&self) -> &V {
        &self.values
    }

    /// The key as the file spells it, with the file's name.
    pub fn name(&self, key: &str) -> String {
        format!("{}: {}{key}", self.place, self.prefix)
    }

    /// Ticks `key` off.
    pub fn ignore(&self, key: &str) -> String {
        let key = format!("{}{key}", self.prefix);
        self.used.borrow_mut().insert(key.clone());
        key
    }

    /// The integer, if there is one.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.values.u32(&self.ignore(key))
    }

    /// The number, if there is one.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.values.f32(&self.ignore(key))
    }

    /// The flag, if there is one.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.values.bool(&self.ignore(key))
    }

    /// The string, if there is one.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.values.str(&self.ignore(key))
    }

    /// The integer, which must be there.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// The integer, which must be there and at least 1.
    pub fn positive(&self, key: &str) -> Result<u32> {
        match self.u32(key)? {
            0 => Err(self.bad(key, "is 0, expected at least 1")),
            value => Ok(value),
        }
    }

    /// The number, if there is one; it must be finite and above 0.
    pub fn opt_positive_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.opt_f32(key)? {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.bad(key, &format!("is {value}, expected a number above 0")))
            }
            value => Ok(value),
        }
    }

    /// The number, which must be there, finite and above 0.
    pub fn positive_f32(&self, key: &str) -> Result<f32> {
        self.opt_positive_f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// `Unsupported` when the flag is set: it would change the mathematics.
    pub fn refuse_flag(&self, key: &str) -> Result<()> {
        match self.opt_bool(key)? {
            Some(true) => Err(self.unsupported(key, "true is not supported for this family")),
            _ => Ok(()),
        }
    }

    /// `BadModel` about `key`.
    pub fn bad(&self, key: &str, what: &str) -> Error {
        Error::BadModel(format!("{} {what}", self.name(key)))
    }

    /// `Unsupported` about `key`.
    pub fn unsupported(&self, key: &str, what: &str) -> Error {
        Error::Unsupported(format!("{} = {what}", self.name(key)))
    }

    /// `BadModel`: the key is needed.
    pub fn missing(&self, key: &str) -> Error {
        self.bad(key, "is missing")
    }

    /// Refuses every key that was neither read nor is known to be harmless.
    ///
    /// # Errors
    /// `Unsupported`, naming the keys.
    pub fn finish(&self, is_harmless: impl Fn(&str) -> bool) -> Result<()> {
        let used = self.used.borrow();
        let left: Vec<String> = self
            .values
            .names()
            .into_iter()
            .filter(|key| key.starts_with(&self.prefix) && !used.contains(key))
            .filter(|key| !is_harmless(key.strip_prefix(&self.prefix).unwrap_or(key)))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "{}: not understood, and may change the mathematics: {}",
            self.place,
            left.join(", ")
        )))
    }
}

impl Values for Object {
    fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.get_u32(key)
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.get_f32(key)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get_bool(key)
    }

    fn str(&self, key: &str) -> Result<Option<&str>> {
        self.get_str(key)
    }

    fn names(&self) -> Vec<String> {
        self.keys().filter(|key| self.value(key).is_some()).map(str::to_owned).collect()
    }
}

impl Values for &gguf::Metadata {
    fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.get_u32(key)
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.get_f32(key)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get_bool(key)
    }

    fn str(&self, key: &str) -> Result<Option<&str>> {
        self.get_str(key)
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(str::to_owned).collect()
    }
}
