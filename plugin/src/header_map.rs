//! Reads all request headers at once, the only way to see every value of a repeated header. The SDK's own function
//! aborts the Wasm VM if a header name is not UTF-8.
#![allow(unsafe_code)]

/// Status of a successful host call.
const OK: u32 = 0;

/// proxy-wasm's id of the map of request headers.
const REQUEST_HEADERS: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Returns a serialized map in a buffer that the gateway allocates in this module.
    fn proxy_get_header_map_pairs(map: u32, return_data: *mut *mut u8, return_bytes: *mut usize) -> u32;
}

/// Returns the request headers of the effective context.
pub(crate) fn request_headers() -> Vec<(String, String)> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut bytes: usize = 0;
    // SAFETY: both pointers are valid for writing one word each.
    let status = unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, &raw mut data, &raw mut bytes) };
    if status != OK || data.is_null() {
        return Vec::new();
    }
    // SAFETY: the gateway allocated the buffer with exactly this size through this module's
    // `proxy_on_memory_allocate` and passes its ownership.
    let map = unsafe { Vec::from_raw_parts(data, bytes, bytes) };
    crate::host::decode_pairs(&map)
}
