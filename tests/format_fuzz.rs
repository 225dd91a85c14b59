//! Small valid files with bytes changed, cut or doubled: opening them may fail, but never panics,
//! and what it lets through can be read to the last byte.

mod format_support;

use format_support::*;
use larder::format::Checkpoint;

/// A small linear congruential generator: the same files in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// One to four changes of the kinds that break parsers.
fn mutate(random: &mut Random, valid: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => bytes.truncate(at),
            4 => {
                let end = bytes.len().min(at + 8);
                let fill = [0, 0xff][random.below(2)];
                bytes[at..end].fill(fill);
            }
            5 => {
                bytes.remove(at);
            }
            6 => {
                let end = bytes.len().min(at + 1 + random.below(40));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let other = random.below(bytes.len());
                bytes.swap(at, other);
            }
        }
    }
    bytes
}

/// Opens `rounds` mutations; returns how many were accepted.
fn fuzz(rounds: usize, name: &str, folder: &Folder, valid: &[u8]) -> usize {
    let mut random = Random(rounds as u64);
    let mut accepted = 0;
    for _ in 0..rounds {
        let path = folder.write(name, &mutate(&mut random, valid));
        let Ok(checkpoint) = Checkpoint::open(&path) else { continue };
        accepted += 1;
        for tensor in checkpoint.tensors() {
            let mut bytes = vec![0; tensor.bytes as usize];
            checkpoint.read(tensor, 0, &mut bytes).unwrap();
        }
    }
    accepted
}

#[test]
fn gguf() {
    let valid = Gguf::small()
        .pair("tokens", &array(8, 3, &[string("a"), string("bc"), string("")].concat()))
        .pair("kinds", &array(5, 3, &[1, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0]))
        .pair("split.count", &u16_value(1))
        .pair("general.alignment", &u32_value(32))
        .bytes();
    let folder = Folder::empty();
    let accepted = fuzz(2000, "model.gguf", &folder, &valid);
    assert!((1..2000).contains(&accepted), "{accepted} of 2000 files were accepted");
}

#[test]
fn safetensors_header() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},
        "c":{"dtype":"F16","shape":[0],"data_offsets":[22,22]}}"#;
    let folder = Folder::hugging_face();
    let accepted = fuzz(2000, "model.safetensors", &folder, &safetensors(header, 22));
    assert!((1..2000).contains(&accepted), "{accepted} of 2000 files were accepted");
}

#[test]
fn index_and_config() {
    let folder = Folder::hugging_face();
    let entry = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    folder.write("a.safetensors", &safetensors(entry, 4));
    let index = br#"{"metadata":{"total_size":4},"weight_map":{"w":"a.safetensors"}}"#;
    let name = "model.safetensors.index.json";
    let accepted = fuzz(600, name, &folder, index);
    assert!((1..600).contains(&accepted), "{accepted} of 600 files were accepted");

    folder.write("model.safetensors", &safetensors(entry, 4));
    let mut random = Random(7);
    let config =
        br#"{"model_type":"llama","rope_scaling":{"factor":2.0,"list":[1,null,true,"x"]}}"#;
    for _ in 0..600 {
        folder.write("config.json", &mutate(&mut random, config));
        let _ = Checkpoint::open(folder.path());
    }
}
