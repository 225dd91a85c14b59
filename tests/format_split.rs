//! GGUF models in several files: whole, with parts missing, mixed up or joined.

mod format_support;

use format_support::*;
use larder::format::{Checkpoint, Metadata};

/// Part `no` of three: one tensor `t<no>` of 8 f32, all of value `no`.
fn part(no: u16) -> Gguf {
    let gguf = Gguf::empty()
        .pair("split.no", &u16_value(no))
        .pair("split.count", &u16_value(3))
        .pair("split.tensors.count", &value(5, &3i32.to_le_bytes()));
    let gguf = if no == 0 { gguf.pair("general.architecture", &text("llama")) } else { gguf };
    gguf.tensor(&format!("t{no}"), &[8], 0, 0).data(f32::from(no).to_le_bytes().repeat(8))
}

fn name(no: u16) -> String {
    format!("tiny-{:05}-of-00003.gguf", no + 1)
}

fn three_parts() -> Folder {
    let folder = Folder::empty();
    for no in 0..3 {
        folder.write(&name(no), &part(no).bytes());
    }
    folder
}

#[test]
fn three_parts_are_one_model() {
    let folder = three_parts();
    let checkpoint = Checkpoint::open(&folder.path().join(name(0))).unwrap();
    let names: Vec<&str> = checkpoint.tensors().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["t0", "t1", "t2"]);
    for (no, tensor) in checkpoint.tensors().enumerate() {
        let mut bytes = [0; 32];
        checkpoint.read(tensor, 0, &mut bytes).unwrap();
        assert_eq!(bytes[..], (no as f32).to_le_bytes().repeat(8));
    }
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("a GGUF file") };
    assert_eq!(metadata.architecture(), Ok("llama"));
}

#[test]
fn missing_parts_are_all_named() {
    let folder = three_parts();
    std::fs::remove_file(folder.path().join(name(1))).unwrap();
    let first = folder.path().join(name(0));
    assert_io(Checkpoint::open(&first), &["missing", &name(1)]);
    std::fs::remove_file(folder.path().join(name(2))).unwrap();
    assert_io(Checkpoint::open(&first), &["missing", &name(1), &name(2)]);
}

#[test]
fn the_first_part_is_asked_for() {
    let folder = three_parts();
    let third = folder.path().join(name(2));
    assert_bad(Checkpoint::open(&third), &["part 3 of 3", "first part", &name(0)]);
    let renamed = folder.write("other.gguf", &part(1).bytes());
    assert_bad(Checkpoint::open(&renamed), &["part 2 of 3", "first part"]);
}

#[test]
fn joined_parts_are_recognised() {
    let joined = [part(0).bytes(), part(1).bytes(), part(2).bytes()].concat();
    let folder = three_parts();
    let path = folder.write(&name(0), &joined);
    assert_bad(Checkpoint::open(&path), &["second GGUF file", "separate files"]);
    // Padding between the parts, and a first part without tensors.
    let mut first = Gguf { tensors: Vec::new(), ..part(0) }.data(Vec::new()).bytes();
    first.resize(first.len().next_multiple_of(32), 0);
    let path = folder.write(&name(0), &[first, part(1).bytes()].concat());
    assert_bad(Checkpoint::open(&path), &["second GGUF file"]);
}

#[test]
fn mixed_up_parts() {
    let folder = three_parts();
    folder.write(&name(1), &part(2).bytes());
    folder.write(&name(2), &part(1).bytes());
    let first = folder.path().join(name(0));
    assert_bad(Checkpoint::open(&first), &[&name(1), "split.no is 2", "expected 1"]);
    let folder = three_parts();
    folder.write(&name(1), &Gguf::empty().bytes());
    let first = folder.path().join(name(0));
    assert_bad(Checkpoint::open(&first), &[&name(1), "split.no is missing"]);
}

#[test]
fn tensors_are_counted_over_all_parts() {
    let folder = three_parts();
    let mut second = part(1);
    second.tensors.clear();
    folder.write(&name(1), &second.data(Vec::new()).bytes());
    let first = folder.path().join(name(0));
    assert_bad(Checkpoint::open(&first), &["split.tensors.count is 3", "hold 2"]);
    let folder = three_parts();
    let second = Gguf { tensors: part(0).tensors, ..part(1) };
    folder.write(&name(1), &second.bytes());
    let first = folder.path().join(name(0));
    assert_bad(Checkpoint::open(&first), &["duplicate tensor name \"t0\"", &name(0), &name(1)]);
}

#[test]
fn the_name_must_say_the_part() {
    let folder = Folder::empty();
    let path = folder.write("tiny.gguf", &part(0).bytes());
    assert_bad(Checkpoint::open(&path), &["-00001-of-00003.gguf"]);
    let endless = Gguf::empty().pair("split.count", &u32_value(u32::MAX));
    let path = folder.write("tiny.gguf", &endless.bytes());
    assert_bad(Checkpoint::open(&path), &["-00001-of-4294967295.gguf"]);
    let path = folder.write("tiny-00001-of-4294967295.gguf", &endless.bytes());
    assert_io(Checkpoint::open(&path), &["missing", "tiny-00002-of-4294967295.gguf"]);
    let of_text = Gguf::empty().pair("split.count", &text("3"));
    let path = folder.write("tiny.gguf", &of_text.bytes());
    assert_bad(Checkpoint::open(&path), &["split.count", "string"]);
}
