//! How much of what was freed the process keeps.

/// Allocations below this many bytes come out of what is kept: a chunk of packs, and each copy that is made of it on its way from
/// the store, is a quarter of a megabyte, one of digests several times that.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BELOW_BYTES: std::ffi::c_int = 4 << 20;
/// So much at the end of each arena is not given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: std::ffi::c_int = 64 << 20;

/// Lets memory that one image was read into serve the next, where glibc gives it out: to SQLite, and to all of a program that has no
/// allocator of its own. By default glibc takes every chunk from the system and gives it back: then the faults of its fresh pages cost
/// several times what is done with them. To be called before there are other threads.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, bytes) in [(libc::M_MMAP_THRESHOLD, KEPT_BELOW_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)] {
        // SAFETY: it takes numbers alone, and what it does not understand it refuses.
        let _ = unsafe { libc::mallopt(parameter, bytes) };
    }
}
