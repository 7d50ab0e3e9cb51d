//! Writing through the caller's pointers.

use std::ffi::{CStr, c_char, c_uint};

use gridstake_simulated_gpus_state::ReturnCode;

/// What a call's body answers.
pub type Answer<T = ()> = Result<T, ReturnCode>;

/// Writes a value; a NULL pointer is an invalid argument.
///
/// # Safety
/// `out` is NULL or points to a `T` that may be written.
pub unsafe fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return Err(ReturnCode::INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    unsafe { out.write(value) };
    Ok(())
}

/// Reads a value; a NULL pointer is an invalid argument.
///
/// # Safety
/// `from` is NULL or points to an initialised `T`.
pub unsafe fn take<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(ReturnCode::INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    Ok(unsafe { from.read() })
}

/// Writes text with its NUL; a buffer that is too small is left untouched.
///
/// # Safety
/// `buffer` is NULL or points to `length` bytes that may be written.
pub unsafe fn put_text(buffer: *mut c_char, length: c_uint, text: &str) -> Answer {
    if buffer.is_null() {
        return Err(ReturnCode::INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(ReturnCode::INSUFFICIENT_SIZE);
    }
    // SAFETY: `length` bytes may be written, and the text with its NUL is no longer.
    unsafe {
        buffer.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads the caller's text.
///
/// # Safety
/// `text` is NULL or points to a NUL-terminated string.
pub unsafe fn take_text(text: *const c_char) -> Answer<String> {
    if text.is_null() {
        return Err(ReturnCode::INVALID_ARGUMENT);
    }
    // SAFETY: not NULL, and the caller vouches for the NUL.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(text.to_string_lossy().into_owned())
}

/// NVML's two-step lists: the caller says how many fit; where that is too few the number that would is written and
/// the answer is `INSUFFICIENT_SIZE`.
///
/// # Safety
/// `count` is NULL or may be read and written; `buffer` is NULL or points to `*count` items that may be written.
pub unsafe fn put_list<T: Copy>(count: *mut c_uint, buffer: *mut T, items: &[T]) -> Answer {
    // SAFETY: by this function's contract.
    let fits = unsafe { take(count) }? as usize;
    let needed = c_uint::try_from(items.len()).map_err(|_| ReturnCode::UNKNOWN)?;
    // SAFETY: `take` has refused NULL.
    unsafe { count.write(needed) };
    if items.is_empty() {
        return Ok(());
    }
    if items.len() > fits {
        return Err(ReturnCode::INSUFFICIENT_SIZE);
    }
    if buffer.is_null() {
        return Err(ReturnCode::INVALID_ARGUMENT);
    }
    // SAFETY: room for `fits` items, and there are no more than that.
    unsafe { buffer.copy_from_nonoverlapping(items.as_ptr(), items.len()) };
    Ok(())
}

/// A fixed field of characters, cut to fit with its NUL.
pub fn text_field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    field
}
