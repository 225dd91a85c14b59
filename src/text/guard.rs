//! Keeps control tokens that stand in a message's content from becoming control tokens of the conversation.
//!
//! A rendered chat is one string of template and content, and the template's control tokens must be parsed. So before
//! rendering, each control text inside content is broken by a marker behind its first character; tokenising a
//! chat removes the markers after the control tokens were found. The marker is a noncharacter of Unicode, meant
//! for such internal use; where content has it already, it is doubled. Content without either stays untouched.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::encoder::Encoder;

/// U+FDD0.
pub(super) const MARKER: char = '\u{FDD0}';

/// Guards every string inside `value` but object keys.
pub(super) fn guard(value: &mut Value, encoder: &Encoder) {
    match value {
        Value::String(text) => guard_text(text, encoder),
        Value::Array(items) => items.iter_mut().for_each(|item| guard(item, encoder)),
        Value::Object(fields) => fields.values_mut().for_each(|field| guard(field, encoder)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn guard_text(text: &mut String, encoder: &Encoder) {
    if text.contains(MARKER) {
        *text = text.replace(MARKER, &String::from_iter([MARKER; 2]));
    }
    // Breaking one control text may uncover another that overlapped it.
    loop {
        let found = encoder.find_control(text);
        if found.is_empty() {
            return;
        }
        let mut guarded = String::with_capacity(text.len() + found.len() * MARKER.len_utf8());
        let mut done = 0;
        for range in found {
            let first = text[range.start..].chars().next().map_or(0, char::len_utf8);
            guarded.push_str(&text[done..range.start + first]);
            guarded.push(MARKER);
            done = range.start + first;
        }
        guarded.push_str(&text[done..]);
        *text = guarded;
    }
}
