//! What C hands over is checked before it is believed: NULL, alignment, lengths, struct sizes. Every message
//! names the argument or the field.

use std::ffi::{CStr, OsStr, c_char};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;

use crate::error::{Error, Result};

/// A struct of the header: integers, floats and pointers, for which all-zero bytes are a value.
///
/// # Safety
/// `#[repr(C)]`, every bit pattern valid, no padding at the end (a later field would hide in it), and the first
/// field is `struct_size: u32`.
pub(super) unsafe trait Versioned: Sized {
    /// The struct's C name.
    const NAME: &'static str;
    /// Bytes up to the end of the last field that no call can do without.
    const MIN_BYTES: usize;
}

/// A struct_size above this is a field that nobody set, not a later version.
const MAX_BYTES: usize = 4096;

pub(super) fn invalid(message: String) -> Error {
    Error::InvalidArgument(message)
}

/// Refuses NULL and misaligned addresses.
pub(super) fn check<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(invalid(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        let alignment = align_of::<T>();
        return Err(invalid(format!("{name} is {pointer:p}, not a multiple of {alignment}")));
    }
    Ok(())
}

/// An output argument.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned is valid for writes during `'a`, and nobody else's meanwhile.
pub(super) unsafe fn output<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut MaybeUninit<T>> {
    check(pointer, name)?;
    // SAFETY: not NULL, aligned, and writable by this function's contract; MaybeUninit reads nothing.
    Ok(unsafe { &mut *pointer.cast() })
}

/// Checks an array's address and size; `None` for an empty one, whose pointer may be anything.
fn array<T>(pointer: *const T, length: usize, name: &str) -> Result<Option<*const T>> {
    if length == 0 {
        return Ok(None);
    }
    check(pointer, name)?;
    match length.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(Some(pointer)),
        _ => Err(invalid(format!(
            "{name} cannot have {length} elements: more than an address space"
        ))),
    }
}

/// An input array; length 0 allows any pointer.
///
/// # Safety
/// `length` elements at `pointer` are readable and do not change during `'a`.
pub(super) unsafe fn input_slice<'a, T>(
    pointer: *const T,
    length: usize,
    name: &str,
) -> Result<&'a [T]> {
    match array(pointer, length, name)? {
        None => Ok(&[]),
        // SAFETY: not NULL, aligned, of a possible size, and readable by this function's contract.
        Some(pointer) => Ok(unsafe { slice::from_raw_parts(pointer, length) }),
    }
}

/// An output array; length 0 allows any pointer.
///
/// # Safety
/// `length` elements at `pointer` are writable and nobody else's during `'a`.
pub(super) unsafe fn output_slice<'a, T>(
    pointer: *mut T,
    length: usize,
    name: &str,
) -> Result<&'a mut [MaybeUninit<T>]> {
    match array(pointer, length, name)? {
        None => Ok(&mut []),
        // SAFETY: as above; MaybeUninit reads nothing.
        Some(pointer) => {
            Ok(unsafe { slice::from_raw_parts_mut(pointer.cast_mut().cast(), length) })
        }
    }
}

/// Copies a result into the host's array. `*needed` is set always; nothing is copied when it does not fit.
///
/// # Safety
/// As [`output`] for `needed` and as [`output_slice`] for `target`.
pub(super) unsafe fn copy_out<T: Copy>(
    source: &[T],
    target: *mut T,
    capacity: usize,
    needed: *mut usize,
    name: &str,
) -> Result<()> {
    // SAFETY: handed on.
    let (needed, target) =
        unsafe { (output(needed, "needed")?, output_slice(target, capacity, name)?) };
    needed.write(source.len());
    if source.len() > capacity {
        return Err(Error::BufferTooSmall { needed: source.len(), capacity });
    }
    for (to, from) in target.iter_mut().zip(source) {
        to.write(*from);
    }
    Ok(())
}

/// UTF-8 text; length 0 allows any pointer.
///
/// # Safety
/// As [`input_slice`].
pub(super) unsafe fn text<'a>(
    pointer: *const c_char,
    length: usize,
    name: &str,
) -> Result<&'a str> {
    // SAFETY: handed on.
    let bytes = unsafe { input_slice(pointer.cast::<u8>(), length, name)? };
    std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("{name} is not UTF-8 at byte {}", error.valid_up_to())))
}

/// A file's path, NUL-terminated, in the system's own encoding.
///
/// # Safety
/// A pointer that is not NULL leads to a NUL-terminated string that does not change during `'a`.
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    check(pointer, name)?;
    // SAFETY: not NULL and terminated by this function's contract.
    let bytes = unsafe { CStr::from_ptr(pointer) }.to_bytes();
    if bytes.is_empty() {
        return Err(invalid(format!("{name} is empty")));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// A struct of the host, of whichever version: fields that it lacks are zero, and bytes that we do not know
/// must be zero.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned is readable for the bytes that its struct_size says.
pub(super) unsafe fn versioned<T: Versioned>(pointer: *const T, name: &str) -> Result<T> {
    // SAFETY: handed on.
    let size = unsafe { struct_size(pointer, name)? };
    // SAFETY: `size` bytes are readable by this function's contract.
    let bytes = unsafe { slice::from_raw_parts(pointer.cast::<u8>(), size) };
    let (known, unknown) = bytes.split_at(size.min(size_of::<T>()));
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(invalid(format!(
            "{name}.struct_size is {size} and a field behind the {} bytes that this larder knows of {} is \
             set: the program was built for a later version",
            size_of::<T>(),
            T::NAME
        )));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` is no longer than T and does not overlap a local; all bytes of a Versioned are valid.
    unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(known.as_ptr(), known.len());
        Ok(value.assume_init())
    }
}

/// Checks a struct inside another, whose own size has been checked: 0 stands for the default of every field.
pub(super) fn nested<T: Versioned>(value: &T, name: &str) -> Result<()> {
    // SAFETY: a Versioned is a u32 and more bytes without padding at its end; padding inside is not read.
    let size = unsafe { (&raw const *value).cast::<u32>().read() } as usize;
    if size == size_of::<T>() {
        return Ok(());
    }
    // SAFETY: as above.
    let bytes = unsafe { slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
    if size == 0 && bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let (expected, init) = (size_of::<T>(), T::NAME);
    Err(invalid(format!("{name}.struct_size is {size}, expected {expected}: {init}_init sets it")))
}

/// Fills a struct of the host with as many of the fields of `value` as it has; its struct_size stays.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned is readable and writable for the bytes its struct_size says.
pub(super) unsafe fn write_versioned<T: Versioned>(
    pointer: *mut T,
    value: &T,
    name: &str,
) -> Result<()> {
    // SAFETY: handed on.
    let size = unsafe { struct_size(pointer, name)? };
    let skip = size_of::<u32>();
    let source = (&raw const *value).cast::<u8>();
    // SAFETY: both have `size.min(size_of::<T>())` bytes, and MIN_BYTES is above `skip`.
    unsafe {
        pointer
            .cast::<u8>()
            .add(skip)
            .copy_from_nonoverlapping(source.add(skip), size.min(size_of::<T>()) - skip);
    }
    Ok(())
}

/// Checks a versioned struct's address and size, and returns the size.
///
/// # Safety
/// As [`versioned`].
pub(super) unsafe fn struct_size<T: Versioned>(pointer: *const T, name: &str) -> Result<usize> {
    check(pointer, name)?;
    // SAFETY: a Versioned begins with a u32, and its pointer is aligned at least so.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < T::MIN_BYTES || size > MAX_BYTES {
        return Err(invalid(format!(
            "{name}.struct_size is {size}, expected {} (at least {}): {}_init sets it",
            size_of::<T>(),
            T::MIN_BYTES,
            T::NAME
        )));
    }
    Ok(size)
}

/// Sets every field of a host's struct to its default, and struct_size. It writes the whole struct as this version
/// knows it: when a struct grows, its init function must get a new symbol, or it would write behind an older one.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned is valid for writes of a T.
pub(super) unsafe fn init<T: Versioned>(pointer: *mut T) {
    if pointer.is_null() || !pointer.is_aligned() {
        return;
    }
    // SAFETY: writable by this function's contract, and all-zero bytes are a Versioned's defaults.
    unsafe {
        pointer.write_bytes(0, 1);
        pointer.cast::<u32>().write(size_of::<T>() as u32);
    }
}

#[cfg(test)]
#[path = "pointers_tests.rs"]
mod tests;
