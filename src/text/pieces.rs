//! The bytes of every token in one flat table, so that streaming allocates nothing and drops no byte.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// How a vocabulary spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet: one printable character per byte.
    ByteLevel,
    /// SentencePiece: `▁` is a space; with `bytes`, `<0xNN>` is a byte.
    Spaces { bytes: bool },
}

/// `[n]` byte strings, one behind the other, and which of them are special (control) tokens.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// End of piece i in `bytes`; it begins where piece i - 1 ends.
    ends: Vec<u32>,
    /// Bit i: token i is special.
    special: Vec<u64>,
}

impl Pieces {
    /// Lays out `n` pieces; `piece(i)` gives the bytes of token i and whether it is special.
    pub fn new(n: u32, mut piece: impl FnMut(u32) -> (Vec<u8>, bool)) -> Result<Pieces> {
        let mut pieces = Pieces {
            bytes: Vec::new(),
            ends: Vec::with_capacity(n as usize),
            special: vec![0; (n as usize).div_ceil(64)],
        };
        for id in 0..n {
            let (bytes, special) = piece(id);
            pieces.bytes.extend_from_slice(&bytes);
            let end = u32::try_from(pieces.bytes.len())
                .map_err(|_| Error::BadModel("the tokens' texts exceed 4 GiB".into()))?;
            pieces.ends.push(end);
            if special {
                pieces.special[id as usize / 64] |= 1 << (id % 64);
            }
        }
        pieces.bytes.shrink_to_fit();
        Ok(pieces)
    }

    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Bytes of a token; empty for an unknown id.
    pub fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub fn heap_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.ends.capacity() * 4 + self.special.capacity() * 8) as u64
    }
}

impl Spelling {
    /// The bytes that an ordinary token stands for.
    pub fn decode(self, token: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of_character).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Spelling::Spaces { bytes } => match byte_of_token(token) {
                Some(byte) if bytes => vec![byte],
                _ => token.replace('▁', " ").into_bytes(),
            },
        }
    }

    /// The bytes of a token that is found in the text as it stands.
    pub fn decode_added(self, token: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => token.as_bytes().to_vec(),
            Spelling::Spaces { .. } => token.replace('▁', " ").into_bytes(),
        }
    }
}

/// The byte of `<0xNN>` with exactly two hexadecimal digits.
pub(super) fn byte_of_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other 68 bytes follow from U+0100 on.
fn byte_of_character(character: char) -> Option<u8> {
    let code = u32::from(character);
    if is_printable(code) {
        return u8::try_from(code).ok();
    }
    let others = (0u32..256).filter(|&byte| !is_printable(byte));
    let nth = usize::try_from(code.checked_sub(256)?).ok()?;
    others.into_iter().nth(nth).and_then(|byte| u8::try_from(byte).ok())
}

fn is_printable(code: u32) -> bool {
    matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_have_one_form() {
        assert_eq!(byte_of_token("<0x0A>"), Some(10));
        assert_eq!(byte_of_token("<0xff>"), Some(255));
        for token in
            ["<0x-1>", "<0xZZ>", "<0X0a>", "<0x1FF>", "<0x+A>", "<0xA>", "<0x>", "0x0A", ""]
        {
            assert_eq!(byte_of_token(token), None, "{token}");
        }
    }

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [false; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of_character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
            }
        }
        assert!(seen.iter().all(|&byte| byte));
        assert_eq!(Spelling::ByteLevel.decode("ĠHi"), b" Hi");
        assert_eq!(Spelling::ByteLevel.decode("Ċ"), b"\n");
        assert_eq!(Spelling::ByteLevel.decode("<｜end▁x｜>"), "<｜end▁x｜>".as_bytes());
        assert_eq!(Spelling::Spaces { bytes: true }.decode("▁a▁"), b" a ");
        assert_eq!(Spelling::Spaces { bytes: false }.decode("<0x0A>"), b"<0x0A>");
    }

    #[test]
    fn ids_beyond_the_table_are_empty() {
        let pieces = Pieces::new(65, |id| (vec![b'x'; id as usize % 3], id == 64)).unwrap();
        assert_eq!(pieces.get(0), b"");
        assert_eq!(pieces.get(2), b"xx");
        assert!(pieces.is_special(64) && !pieces.is_special(63));
        assert_eq!(pieces.get(65), b"");
        assert!(!pieces.is_special(128) && !pieces.is_special(u32::MAX));
        assert_eq!(Pieces::new(0, |_| unreachable!()).unwrap().len(), 0);
    }
}
