//! Bytes in, whole characters out: what a stream of tokens needs, since a token may end inside a character.
//!
//! The concatenated output equals `String::from_utf8_lossy` of all bytes together, however they are cut.
#![forbid(unsafe_code)]

/// An incremental decoder of UTF-8. Holds at most 3 bytes: the begin of a character that may still become whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8Stream {
    held: [u8; 4],
    n_held: usize,
}

impl Utf8Stream {
    /// A decoder that holds nothing.
    pub fn new() -> Utf8Stream {
        Utf8Stream::default()
    }

    /// Appends the characters that are certain now to `out`; each invalid sequence becomes one U+FFFD.
    ///
    /// `out` grows by at most `3 * (bytes.len() + 3)` bytes; nothing is allocated when it has that much room.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut rest = bytes;
        while self.n_held > 0 {
            let Some((&byte, after)) = rest.split_first() else { return };
            self.held[self.n_held] = byte;
            let n = self.n_held + 1;
            let joined = self.held;
            match std::str::from_utf8(&joined[..n]) {
                Ok(character) => {
                    out.push_str(character);
                    self.n_held = 0;
                    rest = after;
                }
                // Still the begin of a character. Four bytes never are, so `held` does not overflow.
                Err(error) if error.error_len().is_none() => {
                    self.n_held = n;
                    rest = after;
                }
                // The new byte does not continue the held ones: they are invalid, it begins something else.
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.n_held = 0;
                }
            }
        }
        self.push_aligned(rest, out);
    }

    /// Ends the text: an incomplete character becomes one U+FFFD. The decoder is ready for the next text.
    pub fn finish(&mut self, out: &mut String) {
        if self.n_held > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.n_held = 0;
    }

    /// Forgets what is held.
    pub fn reset(&mut self) {
        self.n_held = 0;
    }

    /// Bytes of an incomplete character, at most 3.
    pub fn held(&self) -> &[u8] {
        &self.held[..self.n_held]
    }

    fn push_aligned(&mut self, bytes: &[u8], out: &mut String) {
        for chunk in bytes.utf8_chunks() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the last chunk can be cut short by the end of the input.
            let is_last = invalid.as_ptr_range().end == bytes.as_ptr_range().end;
            let incomplete =
                std::str::from_utf8(invalid).err().is_some_and(|e| e.error_len().is_none());
            if is_last && incomplete {
                self.held[..invalid.len()].copy_from_slice(invalid);
                self.n_held = invalid.len();
            } else {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(parts: &[&[u8]]) -> String {
        let mut decoder = Utf8Stream::new();
        let mut out = String::new();
        for part in parts {
            decoder.push(part, &mut out);
            assert!(decoder.held().len() <= 3);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn every_split_in_two_and_three_of_hostile_bytes() {
        let cases: [&[u8]; 12] = [
            b"",
            b"\xE2\x80",
            b"\xFF",
            b"\xC0\x80",
            b"\xED\xA0\x80",
            b"\xF4\x90\x80\x80",
            b"a\0b",
            "👨‍👩‍👧 日本語 é".as_bytes(),
            b"\xF0\x9F\x98",
            b"\xF0\x9F\x98\xF0\x9F\x98\x80\xE3\x81",
            b"\x80\xBF\xE3\x81\x82\x80",
            b"\xF0\x80\xE1\x80\xC3\xC3\xA9",
        ];
        for bytes in cases {
            let whole = String::from_utf8_lossy(bytes).into_owned();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(stream(&parts), whole, "{bytes:x?} cut at {first}, {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(stream(&single), whole);
        }
    }

    #[test]
    fn characters_come_as_soon_as_they_are_whole() {
        let mut decoder = Utf8Stream::new();
        let mut out = String::new();
        decoder.push(b"a\xF0\x9F", &mut out);
        assert_eq!((out.as_str(), decoder.held().len()), ("a", 2));
        decoder.push(b"\x98\x80", &mut out);
        assert_eq!((out.as_str(), decoder.held().len()), ("a😀", 0));
        decoder.push(b"\xE2\x82", &mut out);
        decoder.reset();
        decoder.push(b"z", &mut out);
        assert_eq!(out, "a😀z");
    }

    proptest! {
        #[test]
        fn equals_from_utf8_lossy(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(b"\xE2\x80\xF0\x9F\xED\xA0a")],
                0..40,
            ),
            cuts in proptest::collection::vec(0usize..40, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(stream(&parts), String::from_utf8_lossy(&bytes));
        }
    }
}
