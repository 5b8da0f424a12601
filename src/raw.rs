//! JavaScript values as they are, without the conversions that a hot call cannot afford.

use std::ptr;

use kvcache_engine::entry::{self, Kind};
use kvcache_engine::key::MAX_KEY_BYTES;
use napi::bindgen_prelude::{FromNapiValue, ToNapiValue, TypeName, ValidateNapiValue};
use napi::{Result, ValueType, sys};

/// A JavaScript value of this call, of whatever type.
#[derive(Clone, Copy)]
pub struct Raw(pub sys::napi_value);

impl TypeName for Raw {
    fn type_name() -> &'static str {
        "unknown"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl ValidateNapiValue for Raw {}

impl FromNapiValue for Raw {
    unsafe fn from_napi_value(_env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        Ok(Self(value))
    }
}

impl ToNapiValue for Raw {
    unsafe fn to_napi_value(_env: sys::napi_env, value: Self) -> Result<sys::napi_value> {
        Ok(value.0)
    }
}

/// `undefined`.
pub fn undefined(env: sys::napi_env) -> Raw {
    let mut value = ptr::null_mut();
    // SAFETY: `env` is the environment of this call. On failure the null that stays is read by Node as undefined.
    unsafe { sys::napi_get_undefined(env, &mut value) };
    Raw(value)
}

/// `null`.
pub fn null(env: sys::napi_env) -> Raw {
    let mut value = ptr::null_mut();
    // SAFETY: as in `undefined`.
    unsafe { sys::napi_get_null(env, &mut value) };
    Raw(value)
}

/// Room for the longest key and for what tells that a key is longer, with the NUL that Node adds.
const KEY_ROOM: usize = MAX_KEY_BYTES + 5;

/// Hands the bytes of a key to `use_key`. None if the value cannot be a key.
pub fn with_key<R>(env: sys::napi_env, key: Raw, use_key: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let mut room = [0u8; KEY_ROOM];
    let mut length = 0;
    // SAFETY: `room` has KEY_ROOM bytes and outlives the call; Node writes at most that many, with the NUL.
    let status =
        unsafe { sys::napi_get_value_string_utf8(env, key.0, room.as_mut_ptr().cast(), KEY_ROOM, &mut length) };
    // Node cuts at a whole character, so a key over the limit shows at least one byte of its excess.
    if status != sys::Status::napi_ok || length == 0 || length > MAX_KEY_BYTES {
        return None;
    }
    let bytes = &room[..length];
    // Node writes U+FFFD for a lone surrogate. It may also stand in the key itself.
    if bytes.windows(3).any(|w| w == [0xEF, 0xBF, 0xBD]) && has_lone_surrogate(env, key) {
        return None;
    }
    Some(use_key(bytes))
}

fn has_lone_surrogate(env: sys::napi_env, key: Raw) -> bool {
    let mut room = [0u16; KEY_ROOM];
    let mut length = 0;
    // SAFETY: `room` has KEY_ROOM units and outlives the call; a key of that many bytes of UTF-8 has no more units.
    let status = unsafe { sys::napi_get_value_string_utf16(env, key.0, room.as_mut_ptr(), KEY_ROOM, &mut length) };
    status != sys::Status::napi_ok || char::decode_utf16(room[..length].iter().copied()).any(|unit| unit.is_err())
}

/// Appends the UTF-8 of a string. False if the value is not a string.
pub fn append_text(env: sys::napi_env, text: Raw, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    // Most values fit what the buffer has already; Node tells the length only by another walk over the string.
    out.reserve(256);
    loop {
        let room = out.capacity() - start;
        let mut length = 0;
        // SAFETY: `room` bytes beyond `start` belong to `out`; Node writes at most that many, with the NUL.
        let status = unsafe {
            sys::napi_get_value_string_utf8(env, text.0, out.as_mut_ptr().add(start).cast(), room, &mut length)
        };
        if status != sys::Status::napi_ok {
            return false;
        }
        // It was cut off if what is left is too little for one more character.
        if length + 4 < room {
            // SAFETY: Node has initialised `length` bytes from `start` on, and they are within the capacity.
            unsafe { out.set_len(start + length) };
            return true;
        }
        let mut whole = 0;
        // SAFETY: with no buffer Node only tells the length.
        if unsafe { sys::napi_get_value_string_utf8(env, text.0, ptr::null_mut(), 0, &mut whole) }
            != sys::Status::napi_ok
        {
            return false;
        }
        out.reserve(whole + 8);
    }
}

/// As [`append_text`], of a text that may be left out: `undefined` adds nothing.
pub fn append_text_if_any(env: sys::napi_env, text: Raw, out: &mut Vec<u8>) -> bool {
    let mut kind = sys::ValueType::napi_undefined;
    // SAFETY: the out parameter outlives the call.
    let status = unsafe { sys::napi_typeof(env, text.0, &mut kind) };
    status == sys::Status::napi_ok && (kind == sys::ValueType::napi_undefined || append_text(env, text, out))
}

/// Appends the bytes of a `Uint8Array`. False if the value is not one.
pub fn append_bytes(env: sys::napi_env, bytes: Raw, out: &mut Vec<u8>) -> bool {
    let mut kind = 0;
    let mut length = 0;
    let mut data = ptr::null_mut();
    // SAFETY: the out parameters outlive the call; those that are null are not asked for.
    let status = unsafe {
        sys::napi_get_typedarray_info(env, bytes.0, &mut kind, &mut length, &mut data, ptr::null_mut(), ptr::null_mut())
    };
    if status != sys::Status::napi_ok || kind != sys::TypedarrayType::uint8_array {
        return false;
    }
    if length > 0 {
        // SAFETY: Node gave the memory of a live array of `length` bytes; no JavaScript runs until they are copied, and
        // the caller made a private copy of bytes that other threads can write.
        out.extend_from_slice(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) });
    }
    true
}

/// Appends a value's data: a string for text, a `Uint8Array` for everything else.
pub fn append_data(env: sys::napi_env, kind: Kind, data: Raw, out: &mut Vec<u8>) -> bool {
    if kind.is_text() { append_text(env, data, out) } else { append_bytes(env, data, out) }
}

/// A private `Buffer`.
pub fn bytes(env: sys::napi_env, bytes: &[u8]) -> Raw {
    let mut value = ptr::null_mut();
    // SAFETY: `bytes` outlives the call, which copies it; the out parameter outlives the call. On failure as in `value_of`.
    unsafe { sys::napi_create_buffer_copy(env, bytes.len(), bytes.as_ptr().cast(), ptr::null_mut(), &mut value) };
    Raw(value)
}

/// A value: a string for text, a private `Buffer` for everything else.
pub fn value_of(env: sys::napi_env, header: &entry::Header, bytes: &[u8]) -> Raw {
    let mut value = ptr::null_mut();
    // SAFETY: `bytes` outlives the calls, which copy it; ASCII is Latin-1; the out parameter outlives the call. On failure
    // (out of memory) the null that stays leaves the exception that Node has raised to the caller.
    unsafe {
        if !header.kind.is_text() {
            sys::napi_create_buffer_copy(env, bytes.len(), bytes.as_ptr().cast(), ptr::null_mut(), &mut value);
        } else if header.ascii {
            sys::napi_create_string_latin1(env, bytes.as_ptr().cast(), bytes.len() as isize, &mut value);
        } else {
            sys::napi_create_string_utf8(env, bytes.as_ptr().cast(), bytes.len() as isize, &mut value);
        }
    }
    Raw(value)
}

/// Text for JavaScript.
pub fn text(env: sys::napi_env, text: &[u8]) -> Raw {
    let mut value = ptr::null_mut();
    // SAFETY: as in `value_of`.
    unsafe { sys::napi_create_string_utf8(env, text.as_ptr().cast(), text.len() as isize, &mut value) };
    Raw(value)
}
