//! Rules of this project's sources that no compiler checks.

mod source;

use source::{Source, line_of, sources, words};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_CODE_COLUMNS: usize = 100;
const MAX_COMMENT_COLUMNS: usize = 120;

fn rust() -> Vec<Source> {
    sources(&["src", "tests", "examples", "bench"], &["rs"])
}

/// The library's own sources, without the command-line tool.
fn library() -> Vec<Source> {
    rust().into_iter().filter(|s| s.is_under("src") && !s.is_under("src/bin")).collect()
}

fn fail(found: Vec<String>) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path.display())
}

#[test]
fn files_are_short() {
    let extensions = ["rs", "c", "h", "cpp", "hpp", "cu", "cuh", "go", "py"];
    let all = sources(&["src", "tests", "kernels", "examples", "bench", "bindings"], &extensions);
    let long = all.iter().filter(|source| source.text.lines().count() > MAX_FILE_LINES);
    fail(long.map(|source| at(source, MAX_FILE_LINES, "the file is too long")).collect());
}

/// Long strings, tables and addresses in comments may be wider.
fn is_wide(line: &str, code: &str) -> bool {
    let comment = line.trim_start();
    if comment.starts_with("//") {
        let is_table = comment.trim_start_matches(['/', '!']).trim_start().starts_with('|');
        return line.chars().count() > MAX_COMMENT_COLUMNS && !is_table && !line.contains("://");
    }
    let n_code = code.split_whitespace().map(|word| word.chars().count() + 1).sum::<usize>();
    let indent = line.len() - comment.len();
    line.chars().count() > MAX_CODE_COLUMNS
        && !(line.contains('"') && indent + n_code <= MAX_CODE_COLUMNS)
}

#[test]
fn lines_are_narrow() {
    let mut found = Vec::new();
    for source in rust() {
        for (index, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
            if is_wide(line, code) {
                found.push(at(&source, index + 1, "the line is too wide"));
            }
        }
    }
    fail(found);
}

#[test]
fn the_library_is_finished_and_quiet() {
    let macros = ["todo", "unimplemented", "dbg", "print", "println", "eprint", "eprintln"];
    let paths = ["process::exit", "process::abort", "env::var", "env::vars", "env::var_os"];
    let mut found = Vec::new();
    for source in library() {
        for name in macros {
            let calls = words(&source.code, name)
                .filter(|i| source.code[i + name.len()..].starts_with('!'));
            found.extend(calls.map(|i| at(&source, line_of(&source.code, i), name)));
        }
        for name in paths {
            found.extend(
                words(&source.code, name).map(|i| at(&source, line_of(&source.code, i), name)),
            );
        }
    }
    fail(found);
}

/// Whether one of the three lines above, or the comment that they end, has a SAFETY line.
fn is_explained(lines: &[&str], line: usize) -> bool {
    let is_comment = |i: usize| lines[i].trim_start().starts_with("//");
    let mut first = line.saturating_sub(3);
    while first > 0 && is_comment(first) && is_comment(first - 1) {
        first -= 1;
    }
    lines[first..=line].iter().any(|line| line.contains("SAFETY"))
}

#[test]
fn unsafe_blocks_say_why() {
    let mut found = Vec::new();
    for source in rust() {
        let lines: Vec<&str> = source.text.lines().collect();
        for i in words(&source.code, "unsafe") {
            let behind = source.code[i + 6..].trim_start();
            let line = line_of(&source.code, i) - 1;
            let must_explain = behind.starts_with('{') || behind.starts_with("impl");
            if must_explain && !is_explained(&lines, line) {
                found.push(at(&source, line + 1, "unsafe without a SAFETY comment above"));
            }
        }
    }
    fail(found);
}

#[test]
fn unsafe_is_forbidden_outside_ffi_and_backend() {
    let mut found = Vec::new();
    for source in sources(&["src"], &["rs"]) {
        if source.is_under("src/ffi") || source.is_under("src/backend") {
            continue;
        }
        for i in words(&source.code, "unsafe") {
            found.push(at(&source, line_of(&source.code, i), "unsafe outside ffi and backend"));
        }
        let is_root = source.path.iter().count() == 2 || source.path.ends_with("mod.rs");
        let is_lib = source.path.ends_with("src/lib.rs");
        if is_root && !is_lib && !source.code.contains("#![forbid(unsafe_code)]") {
            found.push(at(&source, 1, "#![forbid(unsafe_code)] is missing"));
        }
    }
    fail(found);
}

/// Name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    for i in words(code, "fn") {
        let head = code[i + 2..].trim_start();
        let name: String = head.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let begin = code.len() - head.len();
        if let Some(end) = end_of_body(&code[begin..]).filter(|_| !name.is_empty()) {
            let first = line_of(code, i);
            functions.push((name, first, line_of(code, begin + end) - first + 1));
        }
    }
    functions
}

/// Where the first braces outside parentheses and brackets close; `None` when a semicolon comes first.
fn end_of_body(code: &str) -> Option<usize> {
    let (mut outside, mut depth) = (0, 0);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' if depth == 0 => outside += 1,
            b')' | b']' if depth == 0 => outside -= 1,
            b';' if depth == 0 && outside == 0 => return None,
            b'{' if outside == 0 => depth += 1,
            b'}' if outside == 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn functions_are_short() {
    let mut found = Vec::new();
    for source in rust() {
        for (name, line, n_lines) in functions(&source.code) {
            if n_lines > MAX_FUNCTION_LINES {
                found.push(at(&source, line, &format!("{name} has {n_lines} lines")));
            }
        }
    }
    fail(found);
}

#[test]
fn the_rules_see_what_they_look_for() {
    let code =
        "trait T { fn a(&self) -> [u8; 4]; fn b(f: fn(u32)) { if x { y } } }\nfn c()\n{\n}\n";
    let names: Vec<_> = functions(code).into_iter().map(|(name, _, n)| (name, n)).collect();
    assert_eq!(names, [("b".to_string(), 1), ("c".to_string(), 3)]);
    let text = "a(\"// no { comment\", 'x', '\\'', b'\"', r#\"raw \" { \"#); // { [\n/* { /* */ } */ fn<'a>";
    let code = source::without_comments_and_literals(text);
    assert!(!code.contains(['{', '}', '"', '[']) && code.ends_with("fn<'a>"), "{code}");
    assert_eq!(code.len(), text.len());
    assert!(!is_explained(&["// SAFETY: far away", "a", "b", "c", "unsafe { x }"], 4));
    assert!(is_explained(&["// SAFETY: one", "// two", "// three", "a", "b", "unsafe {"], 5));
    let wide = "x".repeat(101);
    assert!(is_wide(&wide, &wide) && !is_wide(&format!("f(\"{wide}\");"), "f( );"));
    assert!(is_wide(&format!("// {}", "x ".repeat(60)), ""));
}
