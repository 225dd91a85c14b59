//! Hostile GGUF files: each gets an error that names the culprit, and none costs memory.

mod format_support;

use format_support::*;
use larder::format::{Checkpoint, Metadata};

#[test]
fn small_file_reads_back() {
    for version in [2, 3] {
        let gguf = Gguf { version, ..Gguf::small() };
        let checkpoint = open_gguf(&gguf).unwrap();
        let a = checkpoint.tensor("a").unwrap();
        assert_eq!(a.shape, [2, 4]);
        let mut bytes = [0; 8];
        checkpoint.read(a, 24, &mut bytes).unwrap();
        assert_eq!(bytes[..4], 6f32.to_le_bytes());
        assert_eq!(bytes[4..], 7f32.to_le_bytes());
        checkpoint.read(checkpoint.tensor("b").unwrap(), 0, &mut bytes).unwrap();
        assert_eq!(bytes[..4], 8f32.to_le_bytes());
        assert!(checkpoint.tensor("c").is_none());
        assert!(checkpoint.read(a, 25, &mut bytes).is_err());
        assert!(checkpoint.read(a, u64::MAX, &mut bytes).is_err());
        assert!(checkpoint.read(a, 32, &mut []).is_ok());
    }
}

#[test]
fn magic_and_version() {
    let with = |magic: &[u8; 4], version| Gguf { magic: *magic, version, ..Gguf::small() };
    assert_bad(open_gguf(&with(b"GGML", 3)), &["model.gguf", "not a GGUF file"]);
    assert_unsupported(open_gguf(&with(b"FUGG", 3)), &["big-endian"]);
    assert_unsupported(open_gguf(&with(b"GGUF", 3u32.swap_bytes())), &["big-endian"]);
    assert_unsupported(open_gguf(&with(b"GGUF", 1)), &["version 1"]);
    assert_unsupported(open_gguf(&with(b"GGUF", 4)), &["version 4"]);
    assert_bad(open_gguf(&with(b"GGUF", 0)), &["version 0"]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = Gguf::small().bytes();
    let folder = Folder::empty();
    for len in 0..bytes.len() {
        let path = folder.write("model.gguf", &bytes[..len]);
        assert_bad(Checkpoint::open(&path), &["model.gguf"]);
    }
}

#[test]
fn dimensions() {
    let with = |dimensions: &[u64]| open_gguf(&Gguf::empty().tensor("w", dimensions, 0, 0));
    assert_bad(with(&[4, 0]), &["\"w\"", "dimension of 0"]);
    assert_bad(with(&[u64::MAX, 2]), &["\"w\""]);
    assert_bad(with(&[1 << 32, 1 << 32]), &["\"w\""]);
    assert_bad(with(&[1 << 62]), &["\"w\""]);
    assert_bad(with(&[1 << 61]), &["\"w\"", "beyond the end"]);
    assert_bad(with(&[1, 1, 1, 1, 1]), &["\"w\"", "5 dimensions"]);
    assert_bad(
        open_gguf(&Gguf::empty().tensor("q", &[48, 2], 2, 0)),
        &["\"q\"", "blocks of 32", "Q4_0"],
    );
    let four = Gguf::empty().tensor("w", &[1, 2, 1, 4], 0, 0).data(vec![0; 32]);
    assert_eq!(open_gguf(&four).unwrap().tensor("w").unwrap().shape, [4, 1, 2, 1]);
    let scalar = Gguf::empty().tensor("w", &[], 0, 0).data(vec![0; 4]);
    assert_eq!(open_gguf(&scalar).unwrap().tensor("w").unwrap().bytes, 4);
}

#[test]
fn alignment() {
    let with = |n| Gguf::empty().pair("general.alignment", &u32_value(n)).tensor("w", &[2], 0, 0);
    assert_bad(open_gguf(&with(0)), &["general.alignment is 0"]);
    assert_bad(open_gguf(&with(3)), &["general.alignment is 3"]);
    assert_bad(open_gguf(&with(1 << 30)), &["\"w\"", "beyond the end"]);
    assert_bad(open_gguf(&with(u32::MAX - 7)), &["\"w\"", "beyond the end"]);
    let of_text = Gguf::empty().pair("general.alignment", &text("32"));
    assert_bad(open_gguf(&of_text), &["general.alignment", "string", "integer"]);
    for alignment in [8, 24, 64, 4096] {
        let gguf =
            Gguf { alignment, ..with(alignment as u32).tensor("v", &[2], 0, alignment as u64) };
        let gguf = gguf.data(vec![1; alignment + 8]);
        let checkpoint = open_gguf(&gguf).unwrap();
        assert_eq!(checkpoint.tensor("v").unwrap().offset % alignment as u64, 0);
    }
}

#[test]
fn offsets_and_coverage() {
    let two = |offset, data: usize| {
        let first = Gguf::empty().tensor("a", &[10], 0, 0);
        open_gguf(&first.tensor("b", &[8], 0, offset).data(vec![0; data]))
    };
    assert!(two(64, 96).is_ok());
    assert_bad(two(65, 128), &["\"b\"", "offset 65", "32"]);
    assert_bad(two(32, 96), &["\"a\"", "\"b\"", "share bytes"]);
    assert_bad(two(0, 96), &["\"a\"", "\"b\"", "share bytes"]);
    assert_bad(two(96, 128), &["\"b\"", "32 bytes", "no tensor"]);
    assert_bad(two(64, 95), &["\"b\"", "beyond the end"]);
    assert_bad(two(64, 97), &["1 bytes behind the last tensor"]);
    assert_bad(two(1 << 40, 96), &["\"b\"", "beyond the end"]);
    assert_bad(two(u64::MAX - 31, 96), &["\"b\"", "beyond the end"]);
    // The last tensor's padding may be there or not.
    let one = |data: usize| open_gguf(&Gguf::empty().tensor("a", &[10], 0, 0).data(vec![0; data]));
    assert!(one(40).is_ok());
    assert!(one(64).is_ok());
    assert_bad(one(39), &["\"a\"", "beyond the end"]);
    assert_bad(one(65), &["behind the last tensor"]);
}

#[test]
fn unknown_and_unsupported_types() {
    let names = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (22, "IQ2_S"),
        (24, "I8"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (40, "NVFP4"),
        (99, "99"),
        (u32::MAX, "4294967295"),
    ];
    for (number, name) in names {
        let gguf = Gguf::empty().tensor("blk.0.attn_q.weight", &[256], number, 0);
        assert_unsupported(open_gguf(&gguf), &["blk.0.attn_q.weight", name]);
    }
}

#[test]
fn duplicates() {
    let tensors = Gguf::empty().tensor("w", &[8], 0, 0).tensor("w", &[8], 0, 32);
    assert_bad(open_gguf(&tensors.data(vec![0; 64])), &["duplicate tensor name \"w\""]);
    let keys = Gguf::small().pair("llama.block_count", &u32_value(2));
    assert_bad(open_gguf(&keys), &["duplicate key \"llama.block_count\""]);
}

#[test]
fn counts_are_bounded_by_what_remains() {
    let huge = [1 << 40, 1 << 60, 1 << 63, u64::MAX];
    for n in huge {
        let tensors = Gguf { n_tensors: Some(n), ..Gguf::small() };
        assert_bad(open_gguf(&tensors), &["number of tensors", &n.to_string()]);
        let pairs = Gguf { n_pairs: Some(n), ..Gguf::small() };
        assert_bad(open_gguf(&pairs), &["number of key-value pairs", &n.to_string()]);
        let long = Gguf::empty().pair("long", &value(8, &n.to_le_bytes()));
        assert_bad(open_gguf(&long), &["\"long\"", &n.to_string()]);
        for kind in [0, 4, 6, 7, 8, 10, 12] {
            let array = Gguf::empty().pair("many", &array(kind, n, &[0; 16]));
            assert_bad(open_gguf(&array), &["\"many\"", &n.to_string()]);
        }
        let key = Gguf { n_pairs: Some(1), pairs: vec![n.to_le_bytes().to_vec()], ..Gguf::empty() };
        let padded = Gguf { alignment: 1, ..key }.data(vec![0; 64]);
        assert_bad(open_gguf(&padded), &["key 0", &n.to_string()]);
    }
    // One more than there are: the bytes end within an entry.
    let tensors = Gguf { n_tensors: Some(3), ..Gguf::small() };
    assert_bad(open_gguf(&tensors), &["model.gguf"]);
    let long_key = Gguf::empty().pair(&"k".repeat(65536), &u32_value(1));
    assert_bad(open_gguf(&long_key), &["key 0", "65536", "65535"]);
}

#[test]
fn values() {
    let with = |value: &[u8]| open_gguf(&Gguf::empty().pair("key", value));
    assert_bad(with(&value(13, &[0; 8])), &["\"key\"", "unknown value type 13"]);
    assert_bad(with(&array(13, 1, &[0; 8])), &["\"key\"", "unknown value type 13"]);
    assert_bad(with(&value(7, &[2])), &["\"key\"", "boolean of value 2"]);
    assert_bad(
        with(&value(8, &[&2u64.to_le_bytes()[..], b"\xff\xfe"].concat())),
        &["\"key\"", "UTF-8"],
    );
    assert_unsupported(
        with(&array(9, 1, &array(9, 1, &[0; 32])[4..])),
        &["\"key\"", "array of arrays"],
    );
    let key = Gguf {
        pairs: vec![[&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), vec![]],
        ..Gguf::empty()
    };
    assert_bad(open_gguf(&Gguf { alignment: 1, ..key }.data(vec![0; 64])), &["key 0", "UTF-8"]);
}

#[test]
fn getters_check_type_and_range() {
    let gguf = Gguf::small()
        .pair("u8", &value(0, &[200]))
        .pair("i8", &value(1, &[0xff]))
        .pair("i64", &value(11, &7i64.to_le_bytes()))
        .pair("u64", &value(10, &u64::MAX.to_le_bytes()))
        .pair("f32", &value(6, &0.1f32.to_le_bytes()))
        .pair("f64", &value(12, &0.5f64.to_le_bytes()))
        .pair("yes", &value(7, &[1]))
        .pair("strings", &array(8, 2, &[string("a"), string("é")].concat()))
        .pair("f64s", &array(12, 2, &[1f64.to_le_bytes(), 2f64.to_le_bytes()].concat()))
        .pair("i16s", &array(3, 2, &[0xff, 0xff, 5, 0]))
        .pair("bools", &array(7, 2, &[1, 0]))
        .pair("wide", &array(10, 1, &(1u64 << 40).to_le_bytes()))
        .pair("none", &array(4, 0, &[]));
    let checkpoint = open_gguf(&gguf).unwrap();
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("a GGUF file") };
    assert_eq!(metadata.architecture(), Ok("llama"));
    assert_eq!(metadata.get_u32("u8"), Ok(Some(200)));
    assert_eq!(metadata.get_u32("i64"), Ok(Some(7)));
    assert_eq!(metadata.get_u64("u64"), Ok(Some(u64::MAX)));
    assert_eq!(metadata.get_u32("absent"), Ok(None));
    assert_bad(metadata.get_u32("u64"), &["model.gguf", "u64 is the integer 18446744073709551615"]);
    assert_bad(metadata.get_u32("i8"), &["i8 is the integer -1", "0 to 4294967295"]);
    assert_bad(metadata.get_u32("f32"), &["f32", "floating-point", "integer"]);
    assert_eq!(metadata.get_f32("f32"), Ok(Some(0.1)));
    assert_eq!(metadata.get_f32("f64"), Ok(Some(0.5)));
    assert_bad(metadata.get_f32("yes"), &["yes is the boolean true"]);
    assert_eq!(metadata.get_bool("yes"), Ok(Some(true)));
    assert_bad(metadata.get_bool("u8"), &["u8", "a boolean"]);
    assert_bad(metadata.get_str("strings"), &["strings is an array of strings"]);
    assert_eq!(metadata.get_strings("strings").unwrap().unwrap(), ["a", "é"]);
    assert_eq!(metadata.get_f32s("f64s").unwrap().unwrap(), [1.0, 2.0]);
    assert_eq!(metadata.get_i32s("i16s").unwrap().unwrap(), [-1, 5]);
    assert_bad(metadata.get_u32s("i16s"), &["i16s"]);
    assert_eq!(metadata.get_u32s("bools").unwrap().unwrap(), [1, 0]);
    assert_bad(metadata.get_i32s("wide"), &["wide", "beyond 32 bits"]);
    assert!(metadata.get_i32s("none").unwrap().unwrap().is_empty());
    let no_architecture = open_gguf(&Gguf::empty()).unwrap();
    let Metadata::Gguf(metadata) = no_architecture.metadata() else { panic!("a GGUF file") };
    assert_bad(metadata.architecture(), &["general.architecture is missing"]);
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = Folder::empty();
    let path = folder.write("model.gguf", &Gguf::small().bytes());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(checkpoint.tensor("b").unwrap().offset + 4).unwrap();
    let mut bytes = [0; 32];
    assert!(checkpoint.read(checkpoint.tensor("a").unwrap(), 0, &mut bytes).is_ok());
    let b = checkpoint.tensor("b").unwrap();
    assert_io(checkpoint.read(b, 0, &mut bytes), &["model.gguf", "shorter"]);
}
