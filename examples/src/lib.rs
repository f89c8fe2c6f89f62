//! What several examples share.

pub mod measure;

/// Has the system hand out memory in small pages only, from now on. Where the allocator asks for huge ones, as mimalloc
/// does, one small allocation in memory that was given back takes two megabytes again.
pub fn small_pages_only() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Hands memory that is free back to the system; the connection manager calls it when a wave of
/// connections has parked.
pub fn purge() {
    // SAFETY: it may be called from any thread at any time; it frees only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// The programs of the READMEs compile.
#[cfg(doctest)]
mod readmes {
    macro_rules! compiled {
        ($($name:ident: $path:literal,)*) => {
            $(#[doc = include_str!($path)] struct $name;)*
        };
    }

    compiled! {
        Stellane: "../../README.md",
        Core: "../../stellane-core/README.md",
        Pool: "../../stellane-pool/README.md",
        Router: "../../stellane-router/README.md",
        Metrics: "../../stellane-metrics/README.md",
        Autotune: "../../stellane-autotune/README.md",
    }
}
