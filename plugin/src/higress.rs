//! Higress's own host calls. A gateway that lacks them refuses a module that imports them, so they are only
//! in the Higress build.
#![allow(unsafe_code)]

/// Status of a host call that worked.
const OK: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Gives the hosts of the routed cluster as a serialised map: address → JSON description. The buffer is
    /// allocated in this module by the gateway.
    fn proxy_get_upstream_hosts(return_data: *mut *mut u8, return_bytes: *mut usize) -> u32;

    /// Makes the routed cluster use this host.
    fn proxy_set_upstream_override_host(address: *const u8, address_bytes: usize) -> u32;
}

/// Hosts of the routed cluster with their descriptions; empty when there are none.
pub(crate) fn upstream_hosts() -> Vec<(String, String)> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut bytes: usize = 0;
    // SAFETY: both pointers are valid for the write of one word each.
    if unsafe { proxy_get_upstream_hosts(&raw mut data, &raw mut bytes) } != OK || data.is_null() {
        return Vec::new();
    }
    // SAFETY: the gateway allocated the buffer by this module's `proxy_on_memory_allocate` with exactly this
    // size, and passes ownership.
    let map = unsafe { Vec::from_raw_parts(data, bytes, bytes) };
    crate::host::decode_pairs(&map)
}

/// Makes the routed cluster use this host; false if the gateway refuses.
pub(crate) fn override_host(address: &str) -> bool {
    // SAFETY: pointer and length are those of a live string; the gateway only reads it.
    unsafe { proxy_set_upstream_override_host(address.as_ptr(), address.len()) == OK }
}
