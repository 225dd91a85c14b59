//! include/larder.h is what cbindgen makes of src/ffi. `make header` runs this test with LARDER_WRITE_HEADER set.

use std::path::Path;

/// The files of src/ffi with something for the header, in its order.
const SOURCES: [&str; 16] = [
    "version", "status", "hooks", "options", "memory", "engine", "sequence", "forward", "tensors",
    "request", "step", "wait", "stats", "cache", "text", "boundary",
];

fn fresh() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(root.join(format!("src/ffi/{name}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("cbindgen reads src/ffi").write(&mut text);
    shorter(&String::from_utf8(text).expect("UTF-8"))
}

/// Comments of one line in one line, and without the marks that only rustdoc wants.
fn shorter(header: &str) -> String {
    let lines: Vec<&str> = header.lines().collect();
    let mut short = String::new();
    let mut i = 0;
    while i < lines.len() {
        let comment = lines[i..].get(..3).filter(|three| {
            three[0].trim() == "/**" && three[1].trim().starts_with("* ") && three[2].trim() == "*/"
        });
        if let Some(three) = comment {
            let words = three[1].trim().trim_start_matches("* ");
            short += &format!("{} {words} */", three[0]);
            i += 3;
        } else {
            short += lines[i];
            i += 1;
        }
        short.push('\n');
    }
    short.replace('`', "")
}

#[test]
fn the_committed_header_is_the_fresh_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/larder.h");
    let fresh = fresh();
    if std::env::var_os("LARDER_WRITE_HEADER").is_some() {
        std::fs::write(&path, &fresh).expect("writes include/larder.h");
    }
    let committed = std::fs::read_to_string(&path).expect("include/larder.h");
    assert!(committed == fresh, "include/larder.h is stale: run `make header`");
}
