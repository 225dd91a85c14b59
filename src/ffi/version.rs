//! Which larder this is.

use std::ffi::c_char;

/// The version of the binary interface: it changes when a program built with an older header would break.
pub const LARDER_ABI_VERSION: u32 = 1;
/// The version of the library that this header came with: the first number.
pub const LARDER_VERSION_MAJOR: u32 = 0;
/// The version of the library that this header came with: the second number.
pub const LARDER_VERSION_MINOR: u32 = 1;
/// The version of the library that this header came with: the third number.
pub const LARDER_VERSION_PATCH: u32 = 0;

/// The library's version, as "major.minor.patch"; static, NUL-terminated. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn larder_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The library's LARDER_ABI_VERSION: a program works with a library whose number equals its header's. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn larder_abi_version() -> u32 {
    LARDER_ABI_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_the_packages_version() {
        let numbers = [LARDER_VERSION_MAJOR, LARDER_VERSION_MINOR, LARDER_VERSION_PATCH];
        let text = numbers.map(|number| number.to_string()).join(".");
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
    }
}
