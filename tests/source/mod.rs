//! Reads this project's sources for the tests that look at them.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};

/// A source file: its path from the project's root, its text, and its text without comments and literals.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub code: String,
}

impl Source {
    /// Whether the path begins with `prefix`.
    pub fn is_under(&self, prefix: &str) -> bool {
        self.path.starts_with(prefix)
    }

    pub fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }
}

/// All sources below `folders` with one of the `extensions`, sorted by path.
pub fn sources(folders: &[&str], extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut paths);
    }
    paths.retain(|path| {
        path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
    });
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let code = without_comments_and_literals(&text);
        Source { path: path.strip_prefix(root).unwrap().into(), text, code }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect(&path, paths),
            false => paths.push(path),
        }
    }
}

/// Number of the line in which byte `at` lies, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count()
}

/// Byte positions of `word`, where no letter, digit or underscore adjoins.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).map(|i| code.as_bytes()[i]);
        let after = code.as_bytes().get(at + word.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Blanks comments, strings and characters of Rust; every other byte and every line break stays where it is.
pub fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let n = literal_or_comment(&bytes[at..], bytes[..at].last().copied());
        let kept = if n == 0 { 1 } else { n };
        let blank = |&byte: &u8| if n == 0 || byte == b'\n' { byte } else { b' ' };
        code.extend(bytes[at..at + kept].iter().map(blank));
        at += kept;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Length of the comment or literal that begins `rest`, or 0.
fn literal_or_comment(rest: &[u8], before: Option<u8>) -> usize {
    let begins_word = !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if begins_word => raw_string(rest),
        [b'b', b'r', b'"' | b'#', ..] if begins_word => 1 + raw_string(&rest[1..]),
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', ..] => character(rest),
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> usize {
    let n_hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + n_hashes) != Some(&b'"') {
        return 0; // a raw identifier
    }
    let end = [b"\"".as_slice(), &vec![b'#'; n_hashes]].concat();
    let body = 2 + n_hashes;
    match rest[body..].windows(end.len()).position(|window| window == end) {
        Some(at) => body + at + end.len(),
        None => rest.len(),
    }
}

/// A character, unless it is a lifetime.
fn character(rest: &[u8]) -> usize {
    let width = match rest.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}
