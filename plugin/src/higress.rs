//! Host calls that only Higress has. Other gateways do not load a module that imports these calls.
#![allow(unsafe_code)]

use crate::host::Pairs;

/// Bytes of a request body that Higress buffers while the plugin holds the request. Higress's own plugins that read bodies
/// set the same limit; without it, Higress answers 413 beyond 32 KiB.
pub(crate) const BODY_LIMIT: &[u8] = b"104857600";

/// Status of a successful host call.
const OK: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// Returns the hosts of the routed cluster as a serialized map from address to JSON description. The gateway
    /// allocates the map's buffer in this module's memory.
    fn proxy_get_upstream_hosts(return_data: *mut *mut u8, return_bytes: *mut usize) -> u32;

    fn proxy_set_upstream_override_host(address: *const u8, address_bytes: usize) -> u32;
}

/// Returns the hosts of the routed cluster, each with its description.
pub(crate) fn upstream_hosts() -> Vec<(String, String)> {
    let mut data: *mut u8 = std::ptr::null_mut();
    let mut bytes: usize = 0;
    // SAFETY: both pointers are valid for writing one word each.
    if unsafe { proxy_get_upstream_hosts(&raw mut data, &raw mut bytes) } != OK || data.is_null() {
        return Vec::new();
    }
    // SAFETY: the gateway allocated the buffer with exactly this size through this module's `proxy_on_memory_allocate`,
    // and passes ownership of the buffer to this function.
    let map = Pairs::new(unsafe { Vec::from_raw_parts(data, bytes, bytes) });
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    map.iter().map(|(address, description)| (text(address), text(description))).collect()
}

/// Makes the routed cluster use this host. Returns false if the gateway does not apply the host.
pub(crate) fn override_host(address: &str) -> bool {
    // SAFETY: pointer and length describe a live string, which the gateway only reads.
    unsafe { proxy_set_upstream_override_host(address.as_ptr(), address.len()) == OK }
}
