//! All request headers at once: the only way to see a header that was sent more than once. The SDK's own reading of them
//! ends the whole Wasm VM where a name is no UTF-8.
#![allow(unsafe_code)]

/// Status of a host call that worked.
const OK: u32 = 0;

/// proxy-wasm's number of the map of request headers.
const REQUEST_HEADERS: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Gives a map serialised, in a buffer the gateway allocates in this module.
    fn proxy_get_header_map_pairs(map: u32, return_data: *mut *mut u8, return_bytes: *mut usize) -> u32;
}

/// The request headers of the effective context; empty when there are none.
pub(crate) fn of_request() -> Vec<(String, String)> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut bytes: usize = 0;
    // SAFETY: both pointers are valid for the write of one word each.
    let status = unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, &raw mut data, &raw mut bytes) };
    if status != OK || data.is_null() {
        return Vec::new();
    }
    // SAFETY: the gateway allocated the buffer by this module's `proxy_on_memory_allocate` with exactly this size, and
    // passes ownership.
    let map = unsafe { Vec::from_raw_parts(data, bytes, bytes) };
    crate::host::decode_pairs(&map)
}
