//! This thread's last failure, in a fixed buffer: an error path allocates nothing here, and the pointer that a
//! host holds stays good for the life of its thread.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::fmt::{self, Write};

const CAPACITY: usize = 512;

thread_local! {
    static MESSAGE: UnsafeCell<[u8; CAPACITY]> = const { UnsafeCell::new([0; CAPACITY]) };
}

/// Replaces this thread's message; what does not fit is cut at a character's border.
pub(super) fn set(message: fmt::Arguments<'_>) {
    let mut text = Text { bytes: [0; CAPACITY], length: 0 };
    // A failing write means that the message was cut; what fitted is kept.
    let _ = text.write_fmt(message);
    MESSAGE.with(|cell| {
        // SAFETY: only this thread reaches its cell, and no reference to the array outlives this line.
        unsafe { *cell.get() = text.bytes };
    });
}

/// This thread's message, NUL-terminated.
pub(super) fn pointer() -> *const c_char {
    MESSAGE.with(|cell| cell.get().cast())
}

/// Text in a fixed array; the last byte stays 0.
struct Text {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = CAPACITY - 1 - self.length;
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // A NUL inside would hide the rest from a host that reads up to the first one.
        for (target, source) in self.bytes[self.length..].iter_mut().zip(&text.as_bytes()[..end]) {
            *target = if *source == 0 { b'?' } else { *source };
        }
        self.length += end;
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn message() -> String {
        // SAFETY: the buffer is this thread's own and always ends with a 0.
        unsafe { CStr::from_ptr(pointer()) }.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn a_new_message_replaces_the_old_one_at_the_same_address() {
        let before = pointer();
        set(format_args!("a long first message"));
        set(format_args!("short"));
        assert_eq!(message(), "short");
        assert_eq!(pointer(), before);
    }

    #[test]
    fn the_cut_is_at_a_characters_border() {
        for padding in 0..5 {
            let text = "x".repeat(padding) + &"€".repeat(300);
            set(format_args!("{text}"));
            let kept = message();
            assert!(text.starts_with(&kept));
            assert!(kept.len() < CAPACITY && kept.len() + 3 >= CAPACITY - 1, "{}", kept.len());
        }
    }

    #[test]
    fn a_nul_inside_hides_nothing() {
        set(format_args!("a\0b"));
        assert_eq!(message(), "a?b");
    }

    #[test]
    fn threads_do_not_see_each_other() {
        set(format_args!("here"));
        std::thread::spawn(|| assert_eq!(message(), "")).join().expect("joins");
        assert_eq!(message(), "here");
    }
}
