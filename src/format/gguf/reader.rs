//! Reads a header front to back: buffered, and never beyond what the file holds.
#![forbid(unsafe_code)]

use std::io::{BufReader, Read};

use crate::error::{Error, Result};
use crate::format::MAX_NAME_BYTES;
use crate::format::source::{Source, Stream};

/// Some thousand keys or strings for one system call, and far below a mebibyte.
const BUFFER_BYTES: usize = 128 << 10;

/// A cursor over the header. Every count is compared with the bytes that remain before anything is
/// reserved.
pub(super) struct Reader<'a> {
    source: &'a Source,
    stream: BufReader<Stream<'a>>,
    position: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source) -> Reader<'a> {
        let stream = BufReader::with_capacity(BUFFER_BYTES, source.stream());
        Reader { source, stream, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The message with the file's name in front.
    pub(super) fn message(&self, message: &str) -> String {
        format!("{}: {message}", self.source.name())
    }

    /// `BadModel` with the file's name in front.
    pub(super) fn bad(&self, message: &str) -> Error {
        Error::BadModel(self.message(message))
    }

    /// The next `N` bytes; `what` says in messages what they are.
    pub(super) fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each.
    pub(super) fn count(&mut self, what: &str, min_bytes: u64) -> Result<usize> {
        let count = self.u64(what)?;
        let most = self.remaining() / min_bytes;
        match usize::try_from(count) {
            Ok(count_here) if count <= most => Ok(count_here),
            _ => Err(self.bad(&format!(
                "{what} is {count}, but the {} bytes that remain hold at most {most}",
                self.remaining()
            ))),
        }
    }

    /// A string with its length in front, for keys and names: at most [`MAX_NAME_BYTES`].
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        self.string_up_to(MAX_NAME_BYTES, what)
    }

    /// A string with its length in front.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        self.string_up_to(u64::MAX, what)
    }

    fn string_up_to(&mut self, most: u64, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        if len > most {
            return Err(self.bad(&format!("{what} has length {len}, at most {most} is allowed")));
        }
        let remaining = self.remaining();
        let len_here = usize::try_from(len).ok().filter(|_| len <= remaining).ok_or_else(|| {
            self.bad(&format!("{what} has length {len}, but {remaining} bytes remain"))
        })?;
        let mut bytes = vec![0; len_here];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| self.bad(&format!("{what} is not UTF-8")))
    }

    fn remaining(&self) -> u64 {
        self.source.len().saturating_sub(self.position)
    }

    fn fill(&mut self, into: &mut [u8], what: &str) -> Result<()> {
        if into.len() as u64 > self.remaining() {
            return Err(self.bad(&format!("the file ends within {what}")));
        }
        self.stream
            .read_exact(into)
            .map_err(|error| self.source.failed(self.position, into.len(), error))?;
        self.position += into.len() as u64;
        Ok(())
    }
}
