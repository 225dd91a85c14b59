//! A layer uses the layers below it, never one above, and the pure ones do not know each other.

mod source;

use source::{Source, line_of, sources, words};

/// From the highest to the lowest. The compute area is below the backends, which ask it for their temporaries.
const LAYERS: [&str; 9] =
    ["ffi", "engine", "serve", "model", "text", "kv", "backend", "area", "format"];

/// Everyone may use these; they use each other only.
const BASE: [&str; 4] = ["error", "ids", "dtype", "options"];

/// These do not know each other.
const PURE: [&str; 4] = ["text", "kv", "area", "format"];

fn rank(layer: &str) -> Option<usize> {
    let base = BASE.contains(&layer).then_some(LAYERS.len());
    LAYERS.iter().position(|&known| known == layer).or(base)
}

fn may_use(user: &str, used: &str) -> bool {
    if user == used {
        return true;
    }
    let (Some(user_rank), Some(used_rank)) = (rank(user), rank(used)) else { return false };
    let are_pure = PURE.contains(&user) && PURE.contains(&used);
    let are_base = BASE.contains(&user) && BASE.contains(&used);
    (user_rank < used_rank && !are_pure) || are_base
}

/// The name that begins a path.
fn first_name(path: &str) -> &str {
    let path = path.trim_start();
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    &path[..end]
}

/// The names right behind `crate::`: one, or the first of each path of a group in braces.
fn heads(path: &str) -> Vec<&str> {
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![first_name(path)] };
    let (mut depth, mut names) = (0, vec![first_name(group)]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The layer and the depth of a file's module: `src/kv/slots.rs` is `kv`, 2.
fn place(source: &Source) -> (String, usize) {
    let path = source.path.with_extension("");
    let mut names: Vec<_> =
        path.iter().skip(1).map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    (names.first().cloned().unwrap_or_default(), names.len())
}

/// Every use that the order forbids, as `file:line: text`.
fn violations(source: &Source) -> Vec<String> {
    let (layer, depth) = place(source);
    let mut found = Vec::new();
    let mut check = |at: usize, used: &str| {
        if !may_use(&layer, used) {
            let line = line_of(&source.code, at);
            let path = source.path.display();
            found.push(format!("{path}:{line}: {layer} must not use {used}"));
        }
    };
    for at in words(&source.code, "crate") {
        let Some(path) = source.code[at + 5..].strip_prefix("::") else { continue };
        heads(path).into_iter().for_each(|used| check(at, used));
    }
    for at in words(&source.code, "super").filter(|&at| !source.code[..at].ends_with("super::")) {
        // So many that they leave the layer, and are a path from the crate's root.
        let n_supers = source.code[at..].split("::").take_while(|part| *part == "super").count();
        let path = source.code.get(at + n_supers * "super::".len()..).unwrap_or_default();
        if n_supers >= depth {
            heads(path)
                .into_iter()
                .filter(|used| rank(used).is_some())
                .for_each(|used| check(at, used));
        }
    }
    found
}

#[test]
fn layers_call_downwards() {
    let all = sources(&["src"], &["rs"]);
    assert!(all.len() > 10);
    let in_a_layer = |source: &&Source| {
        !source.is_under("src/bin") && source.path != std::path::Path::new("src/lib.rs")
    };
    let found: Vec<String> = all.iter().filter(in_a_layer).flat_map(violations).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_is_a_known_layer() {
    let root = sources(&["src"], &["rs"]).into_iter().find(|s| s.path.ends_with("lib.rs")).unwrap();
    for at in words(&root.code, "mod") {
        let name = heads(&root.code[at + 3..])[0];
        assert!(rank(name).is_some(), "src/lib.rs:{}: {name}", line_of(&root.code, at));
    }
}

#[test]
fn forbidden_uses_are_found() {
    let violations_of = |path: &str, text: &str| {
        let code = source::without_comments_and_literals(text);
        violations(&Source { path: path.into(), text: text.into(), code })
    };
    let clean = "//! See [crate::engine].\nuse crate::error::Result;\nuse super::Plan;\n\
                 const A: &str = \"crate::engine\"; // crate::ffi\nfn f<'a>(x: crate::ids::Slot) {}\n";
    assert_eq!(violations_of("src/kv/slots.rs", clean), [""; 0]);
    for (path, text, line) in [
        ("src/kv/mod.rs", "\nuse crate::engine::Engine;", 2),
        ("src/kv/mod.rs", "use crate::area::Area;", 1),
        ("src/format/gguf.rs", "fn f() {\n    crate::text::g()\n}", 2),
        ("src/backend/cpu/mod.rs", "use crate::{\n    area::{Area, Plan},\n    model,\n};", 1),
        ("src/area/plan.rs", "use super::super::backend::Backend;", 1),
        ("src/options.rs", "use super::kv::KvRepo;", 1),
        ("src/error.rs", "use crate::{ids::{A, B}, format::C};", 1),
        ("src/area/mod.rs", "use crate::unknown::X;", 1),
    ] {
        let found = violations_of(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].starts_with(&format!("{path}:{line}: ")), "{found:?}");
    }
    let allowed = "use crate::{area::{Area, Plan}, dtype::DType};\nuse super::super::ops::X;";
    assert_eq!(violations_of("src/backend/cpu/mod.rs", allowed), [""; 0]);
}
