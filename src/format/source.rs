//! One file, read by position.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

/// An open regular file, its size when it was opened, and its name for messages.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    name: String,
    len: u64,
}

impl Source {
    /// Opens a regular file; pipes, devices and folders are refused before anything can block on
    /// them.
    pub(super) fn open(path: &Path) -> Result<Source> {
        let name = path.display().to_string();
        let failed = |error: io::Error| Error::Io(format!("cannot open {name}: {error}"));
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::Io(format!("{name} is not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Source { file, name, len })
    }

    /// The path as it was opened, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that the file had when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` from byte `offset` on.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(into, offset)
            .map_err(|error| self.failed(offset, into.len(), error))
    }

    /// The `len` bytes from `offset` on. The caller has bounded `len` by the file's size.
    pub(super) fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let too_big = |_| Error::OutOfMemory(format!("{}: {len} bytes do not fit", self.name));
        let len_here = usize::try_from(len).map_err(|_| too_big(()))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len_here).map_err(|_| too_big(()))?;
        bytes.resize(len_here, 0);
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole file as a stream.
    pub(super) fn stream(&self) -> Stream<'_> {
        Stream { file: &self.file, position: 0 }
    }

    /// The error of a read that failed.
    pub(super) fn failed(&self, offset: u64, len: usize, error: io::Error) -> Error {
        let Source { name, len: file_len, .. } = self;
        Error::Io(match error.kind() {
            ErrorKind::UnexpectedEof => format!(
                "{name} is shorter than the {file_len} bytes it had when it was opened: \
                 {len} bytes from {offset} on are gone"
            ),
            _ => format!("cannot read {len} bytes of {name} from {offset} on: {error}"),
        })
    }
}

/// Reads on and on by position, so that the file's own cursor stays out of it.
pub(super) struct Stream<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(into, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}
