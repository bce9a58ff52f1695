//! Reads all request headers in one host call. One call costs less than two calls for single headers, and it is the only
//! way to read every value of a repeated header. The SDK's function for this call aborts the Wasm VM if a header name is
//! not UTF-8.
#![allow(unsafe_code)]

use crate::host::Pairs;

/// Status of a successful host call.
const OK: u32 = 0;

/// Number of the request header map in proxy-wasm.
const REQUEST_HEADERS: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Returns a serialized map. The gateway allocates the map's buffer in this module's memory.
    fn proxy_get_header_map_pairs(map: u32, return_data: *mut *mut u8, return_bytes: *mut usize) -> u32;
}

/// Returns the request headers of the effective context.
pub(crate) fn request_headers() -> Pairs {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut bytes: usize = 0;
    // SAFETY: both pointers are valid for writing one word each.
    let status = unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, &raw mut data, &raw mut bytes) };
    if status != OK || data.is_null() {
        return Pairs::default();
    }
    // SAFETY: the gateway allocated the buffer with exactly this size through this module's `proxy_on_memory_allocate`,
    // and passes ownership of the buffer to this function.
    Pairs::new(unsafe { Vec::from_raw_parts(data, bytes, bytes) })
}
