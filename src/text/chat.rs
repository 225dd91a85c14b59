//! Chat templates: Jinja in the dialect that Hugging Face templates are written in.
//!
//! Blocks are trimmed as transformers sets Jinja up, values print as in Python, and `raise_exception`,
//! `strftime_now`, `tojson`, loop controls and Python's string and dict methods exist. `{% generation %}`, which only
//! marks text for training, is ignored. A render is bounded in instructions and in output.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::{clock, dialect, python};
use crate::error::{Error, Result};

const NAME: &str = "chat";
/// Instructions of one render: about a second, and far more than any honest template takes.
const FUEL: u64 = 20_000_000;

/// A compiled chat template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    variables: Vec<(String, String)>,
    max_bytes: usize,
}

impl ChatTemplate {
    /// Compiles `source`. `variables` are set in each render, unless the conversation sets them.
    pub fn new(
        source: &str,
        variables: Vec<(String, String)>,
        max_bytes: usize,
    ) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(|state, value, method, arguments| {
            if method == dialect::REVERSED
                && let Some(reversed) = dialect::reversed(value)
            {
                return Ok(reversed);
            }
            pycompat::unknown_method_callback(state, value, method, arguments)
        });
        environment.set_formatter(|out, _, value| {
            match value.as_str() {
                Some(text) => out.write_str(text)?,
                None => out.write_str(&python::text(value))?,
            }
            Ok(())
        });
        environment.add_filter("string", |value: &Value| python::text(value));
        environment.add_filter("tojson", to_json);
        environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
            let text = python::text(value);
            match characters {
                Some(characters) => text.trim_matches(|c| characters.contains(c)).to_string(),
                None => text.trim().to_string(),
            }
        });
        environment.add_test("iterable", |value: &Value| {
            !value.is_none() && (value.is_undefined() || value.try_iter().is_ok())
        });
        environment.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
        });
        environment.add_function("raise_exception", |message: &Value| {
            Err::<Value, _>(JinjaError::new(ErrorKind::InvalidOperation, python::text(message)))
        });
        environment.add_function("strftime_now", |format: &str| {
            clock::format_now(format).map_err(|m| JinjaError::new(ErrorKind::InvalidOperation, m))
        });
        let source = dialect::translate(source);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| Error::BadModel(describe(&error)))?;
        Ok(ChatTemplate { environment, variables, max_bytes })
    }

    /// Renders a conversation: `input` holds `messages` and any other variables of the template.
    pub fn render(&self, input: serde_json::Map<String, serde_json::Value>) -> Result<String> {
        let mut context = serde_json::Map::new();
        for (name, value) in &self.variables {
            context.insert(name.clone(), value.clone().into());
        }
        context.insert("add_generation_prompt".into(), true.into());
        context.extend(input);
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| Error::Internal(describe(&error)))?;
        let mut out = Bounded { bytes: Vec::new(), max_bytes: self.max_bytes, is_full: false };
        // The interpreter is not ours: should it panic over some message, that message alone fails.
        let render = || template.render_captured_to(context, &mut out).map(|_| ());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(render));
        let result = result
            .map_err(|_| Error::Internal("chat template: the interpreter panicked".to_string()))?;
        if let Err(error) = result {
            if out.is_full {
                return Err(Error::LimitReached(format!(
                    "the rendered chat is longer than {} bytes",
                    self.max_bytes
                )));
            }
            return Err(Error::InvalidArgument(describe(&error)));
        }
        String::from_utf8(out.bytes).map_err(|error| Error::Internal(error.to_string()))
    }
}

/// Where and why, in one line.
fn describe(error: &JinjaError) -> String {
    let mut text = String::from("chat template");
    if let Some(line) = error.line() {
        let _ = write!(text, ", line {line}");
    }
    let _ = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => write!(text, ": gave up after {FUEL} instructions"),
        (_, Some(detail)) => write!(text, ": {detail}"),
        (kind, None) => write!(text, ": {kind}"),
    };
    text
}

/// `tojson` as transformers defines it: `json.dumps` without escaping for HTML.
fn to_json(_: &State, value: &Value, kwargs: Kwargs) -> std::result::Result<String, JinjaError> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(JinjaError::new(ErrorKind::InvalidOperation, "separators: not two")),
        // Python drops the space behind a comma where a new line follows.
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let json = python::Json {
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    json.dump(value)
}

/// Refuses output beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max_bytes - self.bytes.len() {
            self.is_full = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
