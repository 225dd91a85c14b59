//! Hostile pointers, lengths and struct sizes.

use super::*;
use std::ptr;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    struct_size: u32,
    a: u32,
    b: u64,
}

// SAFETY: integers only, 16 bytes without padding.
unsafe impl Versioned for Sample {
    const NAME: &'static str = "larder_sample";
    const MIN_BYTES: usize = 8;
}

/// A sample with room behind it, as a later version would have.
#[repr(C)]
struct Later {
    sample: Sample,
    added: [u8; 16],
}

fn read(struct_size: u32, added: [u8; 16]) -> Result<Sample> {
    let later = Later { sample: Sample { struct_size, a: 7, b: 9 }, added };
    // SAFETY: 32 bytes are readable, and the tests below give no larger size that is accepted.
    unsafe { versioned((&raw const later).cast::<Sample>(), "sample") }
}

#[test]
fn struct_sizes() {
    for too_short in [0, 1, 4, 7] {
        let message = read(too_short, [0; 16]).expect_err("too short").to_string();
        assert!(message.contains("sample.struct_size") && message.contains("larder_sample_init"));
    }
    assert_eq!(read(8, [0; 16]), Ok(Sample { struct_size: 8, a: 7, b: 0 }));
    assert_eq!(read(16, [1; 16]), Ok(Sample { struct_size: 16, a: 7, b: 9 }));
    assert_eq!(read(32, [0; 16]), Ok(Sample { struct_size: 32, a: 7, b: 9 }));
    let mut tail = [0; 16];
    tail[15] = 1;
    assert!(read(32, tail).expect_err("unknown field").to_string().contains("later version"));
    assert_eq!(read(31, tail), Ok(Sample { struct_size: 31, a: 7, b: 9 }));
    assert!(read(u32::MAX, [0; 16]).is_err());
    assert!(read(4097, [0; 16]).is_err());
}

#[test]
fn outputs_keep_what_the_host_lacks() {
    let value = Sample { struct_size: 99, a: 1, b: 2 };
    let mut short = Sample { struct_size: 8, a: 0, b: 77 };
    // SAFETY: a whole Sample is writable.
    unsafe { write_versioned(&mut short, &value, "sample") }.expect("fits");
    assert_eq!(short, Sample { struct_size: 8, a: 1, b: 77 });
    let mut later = Later { sample: Sample { struct_size: 32, a: 0, b: 0 }, added: [5; 16] };
    // SAFETY: 32 bytes are writable.
    unsafe { write_versioned((&raw mut later).cast::<Sample>(), &value, "sample") }.expect("fits");
    assert_eq!(later.sample, Sample { struct_size: 32, a: 1, b: 2 });
    assert_eq!(later.added, [5; 16]);
}

#[test]
fn init_sets_the_size_and_zeroes() {
    let mut sample = Sample { struct_size: 1, a: 2, b: 3 };
    // SAFETY: a whole Sample is writable; NULL is legal.
    unsafe {
        init(&mut sample);
        init(ptr::null_mut::<Sample>());
    }
    assert_eq!(sample, Sample { struct_size: 16, a: 0, b: 0 });
}

#[test]
fn pointers() {
    let numbers = [1_u32, 2, 3];
    let odd = numbers.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
    // SAFETY: what is not refused is an array of three, or empty.
    unsafe {
        assert_eq!(input_slice(numbers.as_ptr(), 3, "n"), Ok(&numbers[..]));
        assert_eq!(input_slice(ptr::null::<u32>(), 0, "n"), Ok(&[][..]));
        assert_eq!(input_slice(odd, 0, "n"), Ok(&[][..]));
        for (pointer, length, word) in [
            (ptr::null(), 1, "NULL"),
            (odd, 1, "multiple of 4"),
            (numbers.as_ptr(), usize::MAX, "address space"),
            (numbers.as_ptr(), isize::MAX as usize / 4 + 1, "address space"),
        ] {
            let message = input_slice(pointer, length, "n").expect_err(word).to_string();
            assert!(message.contains(word) && message.starts_with("n "), "{message}");
        }
        assert!(output::<u32>(ptr::null_mut(), "out").is_err());
        assert!(output_slice::<u32>(ptr::null_mut(), 1, "out").is_err());
    }
}

#[test]
fn texts() {
    let bytes = b"ab\xff";
    // SAFETY: all of the array, or nothing, is read.
    unsafe {
        assert_eq!(text(bytes.as_ptr().cast(), 2, "t"), Ok("ab"));
        assert_eq!(text(ptr::null(), 0, "t"), Ok(""));
        let message = text(bytes.as_ptr().cast(), 3, "t").expect_err("not UTF-8").to_string();
        assert_eq!(message, "t is not UTF-8 at byte 2");
        assert!(path(c"".as_ptr(), "p").is_err());
        assert!(path(ptr::null(), "p").is_err());
        assert_eq!(path(c"x/y".as_ptr(), "p"), Ok(Path::new("x/y")));
    }
}
