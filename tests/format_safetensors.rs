//! Hostile safetensors files and indices: each gets an error that names the culprit.

mod format_support;

use format_support::*;
use larder::dtype::DType;
use larder::error::Error;
use larder::format::Checkpoint;

/// A header entry of f32.
fn f32_entry(name: &str, shape: &str, first: u64, last: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{first},{last}]}}"#)
}

fn open_header(header: &str, data_bytes: usize) -> Result<Checkpoint, Error> {
    open_safetensors(&safetensors(header, data_bytes))
}

#[test]
fn small_file_reads_back() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},
        "h":{{"data_offsets":[16,20],"dtype":"F16","shape":[2]}},
        "b":{{"dtype":"BF16","shape":[1,1],"data_offsets":[20,22]}}}}   "#,
        f32_entry("w", "[2,2]", 0, 16)
    );
    let checkpoint = open_header(&header, 22).unwrap();
    let dtypes: Vec<DType> = checkpoint.tensors().map(|tensor| tensor.dtype).collect();
    assert_eq!(dtypes, [DType::BF16, DType::F16, DType::F32]);
    let mut bytes = [0; 3];
    checkpoint.read(checkpoint.tensor("h").unwrap(), 1, &mut bytes).unwrap();
    assert_eq!(bytes, [17, 18, 19]);
    assert!(checkpoint.read(checkpoint.tensor("h").unwrap(), 2, &mut bytes).is_err());
}

#[test]
fn header_length() {
    let file = safetensors(&format!("{{{}}}", f32_entry("w", "[1]", 0, 4)), 4);
    let size = file.len() as u64;
    assert!(open_safetensors(&file).is_ok());
    for length in [0, 1, size - 7, size, 1 << 31, 1 << 63, u64::MAX] {
        let mut hostile = file.clone();
        hostile[..8].copy_from_slice(&length.to_le_bytes());
        assert_bad(open_safetensors(&hostile), &["header's length", &length.to_string()]);
    }
    for len in 0..file.len() {
        assert_bad(open_safetensors(&file[..len]), &["model.safetensors"]);
    }
}

#[test]
fn header_text() {
    assert!(open_header("{}", 0).is_ok());
    assert!(open_header("{}      ", 0).is_ok());
    for text in ["[]", "{ ", " {}", "{}x", "null", "\"{}\"", "{}\0"] {
        assert_bad(open_header(text, 0), &["model.safetensors", "header"]);
    }
    let not_utf8 = [&6u64.to_le_bytes()[..], b"{\"\xff\xff\"}"].concat();
    assert_bad(open_safetensors(&not_utf8), &["header"]);
    let deep = format!("{{\"w\":{}", "[".repeat(1 << 20));
    assert_bad(open_header(&deep, 0), &["header"]);
    let deep = format!("{{\"__metadata__\":{}", "{\"a\":".repeat(1 << 20));
    assert_bad(open_header(&deep, 0), &["header"]);
}

#[test]
fn entries() {
    let with = |entry: &str| open_header(&format!("{{\"w\":{entry}}}"), 8);
    assert_bad(with("{}"), &["\"w\"", "dtype"]);
    assert_bad(with("7"), &["\"w\""]);
    assert_bad(with(r#"{"dtype":"F32","shape":[2]}"#), &["\"w\"", "data_offsets"]);
    assert_bad(with(r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#), &["\"w\""]);
    assert_bad(with(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}"#), &["\"w\""]);
    assert_bad(with(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#), &["\"w\"", "-2"]);
    assert_bad(with(r#"{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}"#), &["\"w\""]);
    assert_bad(with(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}"#), &["\"w\"", "x"]);
    let twice = r#"{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}"#;
    assert_bad(with(twice), &["\"w\"", "duplicate field `dtype`"]);
    let ranks = r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}"#;
    assert_bad(with(ranks), &["\"w\"", "8 dimensions"]);
    let long = format!("{{{}}}", f32_entry(&"n".repeat(65536), "[2]", 0, 8));
    assert_bad(open_header(&long, 8), &["65536", "65535"]);
}

#[test]
fn other_types_are_named() {
    for kind in ["F8_E4M3", "I8", "I64", "F64", "BOOL", "Q4_0", ""] {
        let entry = format!(r#"{{"w":{{"dtype":"{kind}","shape":[4],"data_offsets":[0,4]}}}}"#);
        assert_unsupported(open_header(&entry, 4), &["\"w\"", &format!("{kind:?}")]);
    }
}

#[test]
fn sizes() {
    let with =
        |shape, first, last| open_header(&format!("{{{}}}", f32_entry("w", shape, first, last)), 8);
    assert!(with("[2]", 0, 8).is_ok());
    assert_bad(with("[3]", 0, 8), &["\"w\"", "needs 12"]);
    assert_bad(with("[]", 0, 8), &["\"w\"", "needs 4"]);
    assert_bad(with("[2]", 0, 12), &["\"w\"", "[0, 12]"]);
    assert_bad(with("[2]", 8, 0), &["\"w\"", "[8, 0]"]);
    assert_bad(with("[18446744073709551615,4]", 0, 8), &["\"w\"", "2^64"]);
    assert_bad(with("[4294967296,4294967296]", 0, 8), &["\"w\"", "2^64"]);
    assert_bad(with("[2]", 18446744073709551608, 18446744073709551615), &["\"w\""]);
}

#[test]
fn coverage() {
    let two = |a: (u64, u64), b: (u64, u64), data| {
        let shape = |(first, last)| format!("[{}]", (last - first) / 4);
        let (a, b) = (f32_entry("a", &shape(a), a.0, a.1), f32_entry("b", &shape(b), b.0, b.1));
        open_header(&format!("{{{a},{b}}}"), data)
    };
    assert!(two((0, 8), (8, 16), 16).is_ok());
    assert!(two((8, 16), (0, 8), 16).is_ok());
    assert_bad(two((0, 8), (0, 8), 8), &["\"a\"", "\"b\"", "share bytes"]);
    assert_bad(two((0, 8), (4, 12), 12), &["\"a\"", "\"b\"", "share bytes"]);
    assert_bad(two((0, 16), (4, 8), 16), &["\"a\"", "\"b\"", "share bytes"]);
    assert_bad(two((0, 8), (16, 24), 24), &["\"b\"", "8 bytes", "no tensor"]);
    assert_bad(two((4, 8), (8, 12), 12), &["\"a\"", "4 bytes", "no tensor"]);
    assert_bad(two((0, 8), (8, 16), 17), &["1 bytes behind the last tensor"]);
    // Tensors without elements hold nothing, wherever they are.
    assert!(two((0, 8), (8, 8), 8).is_ok());
    assert!(two((0, 8), (4, 4), 8).is_ok());
    assert!(two((0, 0), (0, 0), 0).is_ok());
    assert_bad(two((0, 8), (9, 9), 8), &["\"b\"", "[9, 9]"]);
}

#[test]
fn duplicates() {
    let (a, b) = (f32_entry("w", "[2]", 0, 8), f32_entry("w", "[2]", 8, 16));
    assert_bad(open_header(&format!("{{{a},{b}}}"), 16), &["duplicate tensor name \"w\""]);
    let escaped = f32_entry("\\u0077", "[2]", 8, 16);
    assert_bad(open_header(&format!("{{{a},{escaped}}}"), 16), &["duplicate", "\"w\""]);
    let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert_bad(open_header(metadata, 0), &["duplicate", "__metadata__"]);
}

/// Two shards, with `w0` and `w1`, and their index.
fn two_shards() -> Folder {
    let folder = Folder::hugging_face();
    for no in 0..2 {
        let header = format!("{{{}}}", f32_entry(&format!("w{no}"), "[2]", 0, 8));
        folder.write(&shard(no), &safetensors(&header, 8));
    }
    write_index(&folder, &format!(r#"{{"w0":"{}","w1":"{}"}}"#, shard(0), shard(1)));
    folder
}

fn shard(no: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", no + 1)
}

const INDEX: &str = "model.safetensors.index.json";

fn write_index(folder: &Folder, weight_map: &str) {
    let text = format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{weight_map}}}"#);
    folder.write(INDEX, text.as_bytes());
}

#[test]
fn shards_are_one_model() {
    let folder = two_shards();
    for path in ["", INDEX, &shard(0), &shard(1)] {
        let checkpoint = Checkpoint::open(&folder.path().join(path)).unwrap();
        assert_eq!(checkpoint.tensors().count(), 2);
        let w1 = checkpoint.tensor("w1").unwrap();
        let mut bytes = [9; 8];
        checkpoint.read(w1, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
    // One whole file is preferred to an index beside it.
    let whole = format!("{{{}}}", f32_entry("w", "[2]", 0, 8));
    let path = folder.write("model.safetensors", &safetensors(&whole, 8));
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().count(), 1);
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().count(), 1);
}

#[test]
fn shards_that_do_not_fit_their_index() {
    let folder = two_shards();
    write_index(&folder, &format!(r#"{{"w0":"{}","w1":"{}"}}"#, shard(1), shard(1)));
    assert_bad(Checkpoint::open(folder.path()), &[&shard(1), "lacks", "w0"]);
    write_index(
        &folder,
        &format!(r#"{{"w0":"a.safetensors","w1":"b.safetensors","x":"{}"}}"#, shard(0)),
    );
    assert_io(Checkpoint::open(folder.path()), &["missing", "a.safetensors, b.safetensors"]);

    let folder = two_shards();
    let both = format!("{{{},{}}}", f32_entry("w1", "[2]", 0, 8), f32_entry("w0", "[2]", 8, 16));
    folder.write(&shard(1), &safetensors(&both, 16));
    assert_bad(
        Checkpoint::open(folder.path()),
        &["duplicate tensor name \"w0\"", &shard(0), &shard(1)],
    );

    let folder = two_shards();
    let path = folder.path().join(shard(1));
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(70).unwrap();
    assert_bad(Checkpoint::open(folder.path()), &[&shard(1), "w1"]);
}

#[test]
fn no_path_leaves_the_folder() {
    let folder = two_shards();
    let names = [
        "../x.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\\\b",
        "./x",
        "x/",
        "x\\u0000",
    ];
    for name in names {
        write_index(&folder, &format!(r#"{{"w0":"{name}"}}"#));
        assert_bad(Checkpoint::open(folder.path()), &["weight_map.w0", "file name"]);
    }
}

#[test]
fn the_index_itself() {
    let folder = two_shards();
    for text in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"w":1}}"#,
        r#"{"weight_map":{"w":null}}"#,
    ] {
        folder.write(INDEX, text.as_bytes());
        assert_bad(Checkpoint::open(folder.path()), &[INDEX]);
    }
    write_index(&folder, &format!(r#"{{"w0":"{}","w0":"{}"}}"#, shard(0), shard(1)));
    assert_bad(Checkpoint::open(folder.path()), &["duplicate key \"w0\""]);
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    assert_io(Checkpoint::open(folder.path()), &["neither", INDEX]);
    assert_io(Checkpoint::open(&folder.path().join(shard(0))), &[&shard(0), INDEX, "missing"]);
}
