//! Turns what minijinja does not have into what it has, inside the tags of a template only.
//!
//! * `{% generation %}` blocks, which mark text for training, become `{% if true %}`, white-space control and all.
//! * `x[::-1]` becomes `x.__reversed__()`, a method that [`reversed`] gives: minijinja's own panics on empty strings.
#![forbid(unsafe_code)]

use minijinja::value::{Value, ValueKind};

const BACKWARDS: &str = "[::-1]";
/// The method that stands for `[::-1]`.
pub(super) const REVERSED: &str = "__reversed__";

/// The template in minijinja's terms; lines stay as they are.
pub(super) fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let end = match tag.as_bytes().get(1) {
            Some(b'%') => tag_end(tag, "%}"),
            Some(b'{') => tag_end(tag, "}}"),
            Some(b'#') => tag.find("#}").map(|at| at + 2),
            _ => None,
        };
        let end = end.unwrap_or(1);
        match &tag[..end] {
            tag if tag.starts_with("{#") || end == 1 => out.push_str(tag),
            tag => out.push_str(&translate_tag(tag)),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// Length of the tag that `source` begins with, its end mark included; marks in string literals do not count.
fn tag_end(source: &str, mark: &str) -> Option<usize> {
    let mut at = 2;
    while at < source.len() {
        let rest = source.get(at..)?;
        if rest.starts_with(mark) {
            return Some(at + mark.len());
        }
        at += literal_length(rest).unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8));
    }
    None
}

/// Length of the string literal that `source` begins with.
fn literal_length(source: &str) -> Option<usize> {
    let quote = source.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut is_escaped = false;
    for (at, character) in source.char_indices().skip(1) {
        if character == quote && !is_escaped {
            return Some(at + 1);
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    None
}

fn translate_tag(tag: &str) -> String {
    let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
    match inner.trim_matches(['-', '+']).trim() {
        "generation" => return tag.replacen("generation", "if true", 1),
        "endgeneration" => return tag.replacen("endgeneration", "endif", 1),
        _ => {}
    }
    let mut out = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with(BACKWARDS) {
            out.push('.');
            out.push_str(REVERSED);
            out.push_str("()");
            rest = &rest[BACKWARDS.len()..];
            continue;
        }
        let length = literal_length(rest).unwrap_or(first.len_utf8());
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// A string or sequence from its end to its begin; `None` for other kinds.
pub(super) fn reversed(value: &Value) -> Option<Value> {
    match value.kind() {
        ValueKind::String => Some(value.as_str()?.chars().rev().collect::<String>().into()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items: Vec<Value> = value.try_iter().ok()?.collect();
            items.reverse();
            Some(items.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_change() {
        for (source, expected) in [
            ("", ""),
            ("a[::-1] {", "a[::-1] {"),
            ("{{ a[::-1][0] }}[::-1]", "{{ a.__reversed__()[0] }}[::-1]"),
            ("{{ '[::-1] }}' ~ b[::-1] }}", "{{ '[::-1] }}' ~ b.__reversed__() }}"),
            (r#"{{ "\"[::-1]" }}"#, r#"{{ "\"[::-1]" }}"#),
            ("{# b[::-1] {% generation %} #}", "{# b[::-1] {% generation %} #}"),
            ("{%- generation -%}x{% endgeneration +%}", "{%- if true -%}x{% endif +%}"),
            ("{% set generation = 1 %}", "{% set generation = 1 %}"),
            ("{% for m in é[::-1] %}", "{% for m in é.__reversed__() %}"),
            ("{{ unfinished[::-1]", "{{ unfinished[::-1]"),
            ("{{ 'unfinished }}", "{{ 'unfinished }}"),
        ] {
            assert_eq!(translate(source), expected);
        }
    }
}
