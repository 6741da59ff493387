//! The interface of `libz-ng-sys` on `libz-rs-sys`, a zlib written in Rust.
//!
//! Pingora asks `flate2` for zlib-ng, whose own crate builds with CMake. A fresh machine has a C
//! compiler and Rust and nothing else, so the workspace replaces that crate by this one. Both offer
//! zlib's C interface under the same names; they differ in one type: here the allocation functions
//! of a stream are plain function pointers, there they are optional. The layout is the same, so the
//! functions that `flate2` calls only cast the pointer to the stream.
#![allow(non_camel_case_types, non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

pub use libz_rs_sys::*;

pub type alloc_func = extern "C" fn(*mut c_void, c_uint, c_uint) -> *mut c_void;
pub type free_func = extern "C" fn(*mut c_void, *mut c_void);

/// A stream, as `libz-ng-sys` declares it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct z_stream {
    pub next_in: *mut u8,
    pub avail_in: c_uint,
    pub total_in: c_ulong,
    pub next_out: *mut u8,
    pub avail_out: c_uint,
    pub total_out: c_ulong,
    pub msg: *mut c_char,
    pub state: *mut c_void,
    pub zalloc: alloc_func,
    pub zfree: free_func,
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: c_ulong,
    pub reserved: c_ulong,
}

pub type z_streamp = *mut z_stream;

// The casts below stand on this.
const _: () = {
    assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());
    assert!(align_of::<z_stream>() == align_of::<libz_rs_sys::z_stream>());
};

/// Declares functions that differ from those of `libz-rs-sys` in the type of their stream only.
macro_rules! on_rust_zlib {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        pub unsafe extern "C" fn $name(stream: z_streamp $(, $argument: $kind)*) -> c_int {
            // SAFETY: the caller keeps zlib's contract, and both streams have one layout.
            unsafe { libz_rs_sys::$name(stream.cast() $(, $argument)*) }
        }
    )*};
}

on_rust_zlib! {
    deflate(flush: c_int);
    deflateEnd();
    deflateInit2_(level: c_int, method: c_int, window_bits: c_int, memory_level: c_int, strategy: c_int, version: *const c_char, stream_size: c_int);
    deflateParams(level: c_int, strategy: c_int);
    deflateReset();
    deflateSetDictionary(dictionary: *const u8, length: c_uint);
    inflate(flush: c_int);
    inflateEnd();
    inflateInit2_(window_bits: c_int, version: *const c_char, stream_size: c_int);
    inflateReset2(window_bits: c_int);
    inflateSetDictionary(dictionary: *const u8, length: c_uint);
}
