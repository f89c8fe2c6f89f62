//! A sampling heap profiler around any allocator.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    collections::HashMap,
    ffi::c_void,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use super::stacks::Stacks;

/// Deeper stacks are cut.
const MAX_FRAMES: usize = 64;
/// Counters of the filter, each for the addresses that hash to it.
const FILTER: usize = 1 << 14;

/// An allocator that records where a sample of the live memory was allocated: the heap profile.
///
/// It wraps the program's own allocator and is off until [`start`](Self::start). Off, it costs one
/// relaxed load for each call; on, an allocation is sampled each time about `rate` bytes have been
/// allocated on its thread, so that a sample stands for that much memory.
///
/// ```
/// use std::alloc::System;
/// use stellane_core::profiling::{HeapProfiler, ProfileService};
///
/// #[global_allocator]
/// static ALLOCATOR: HeapProfiler<System> = HeapProfiler::new(System);
///
/// # let config = stellane_core::config::RuntimeConfig::default();
/// let mut profiles = ProfileService::builder();
/// if config.dev.profile_mem {
///     ALLOCATOR.start(512 << 10);
///     profiles = profiles.heap(|| Ok(ALLOCATOR.pprof()));
/// }
/// ```
pub struct HeapProfiler<A> {
    inner: A,
    /// Bytes between two samples; zero is off.
    rate: AtomicUsize,
    /// How many live samples hash to each place: most frees look here and nowhere else.
    filter: [AtomicU8; FILTER],
    samples: Mutex<Option<HashMap<usize, Sample>>>,
}

struct Sample {
    stack: Vec<usize>,
    /// How much memory it stands for.
    bytes: usize,
}

thread_local! {
    /// Bytes until the next sample of this thread.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// The profiler's own allocations are not looked at.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl<A> HeapProfiler<A> {
    /// Wraps an allocator; off.
    pub const fn new(inner: A) -> Self {
        Self {
            inner,
            rate: AtomicUsize::new(0),
            filter: [const { AtomicU8::new(0) }; FILTER],
            samples: Mutex::new(None),
        }
    }

    /// Samples from now on about every `rate` bytes. Too low slows allocation down (a stack is walked for
    /// each sample), too high sees only large or frequent allocations; 512 KiB is a good start. Memory
    /// allocated before is not seen. `0` stops, and keeps what is live until it is freed.
    pub fn start(&self, rate: usize) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Stops sampling; what was sampled stays until it is freed.
    pub fn stop(&self) {
        self.start(0);
    }

    /// The live memory by the stack that allocated it, for `go tool pprof`.
    #[must_use]
    pub fn pprof(&self) -> Vec<u8> {
        self.stacks().pprof()
    }

    /// The same as `a;b;c BYTES` lines.
    #[must_use]
    pub fn folded(&self) -> String {
        self.stacks().folded()
    }

    /// The same as a flame graph.
    #[must_use]
    pub fn svg(&self) -> String {
        self.stacks().svg("live heap, in bytes")
    }

    fn stacks(&self) -> Stacks {
        let live = inside(|| {
            let mut live = HashMap::<Vec<usize>, u64>::new();
            for sample in self
                .samples()
                .as_ref()
                .into_iter()
                .flat_map(HashMap::values)
            {
                *live.entry(sample.stack.clone()).or_default() += sample.bytes as u64;
            }
            live
        });
        let mut functions = HashMap::new();
        let mut stacks = HashMap::<Vec<String>, u64>::new();
        for (stack, bytes) in live.unwrap_or_default() {
            *stacks.entry(names(&stack, &mut functions)).or_default() += bytes;
        }
        Stacks::bytes(stacks)
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, Option<HashMap<usize, Sample>>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, address: usize) -> &AtomicU8 {
        // Allocations are 16 bytes apart; the multiplication spreads what is left.
        let hash = (address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
        &self.filter[hash >> (usize::BITS - FILTER.trailing_zeros())]
    }

    fn allocated(&self, address: usize, size: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || address == 0 {
            return;
        }
        let left = LEFT.with(|left| {
            let now = left.get().checked_sub(size);
            left.set(now.unwrap_or(rate));
            now
        });
        if left.is_none() {
            inside(|| self.sample(address, size.max(rate)));
        }
    }

    #[cold]
    fn sample(&self, address: usize, bytes: usize) {
        let mut stack = Vec::with_capacity(MAX_FRAMES);
        backtrace::trace(|frame| {
            stack.push(frame.ip() as usize);
            stack.len() < MAX_FRAMES
        });
        let place = self.place(address);
        let mut samples = self.samples();
        // A place that is full would no longer tell when it is empty.
        let counted = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            count.checked_add(1)
        });
        if counted.is_ok() {
            samples
                .get_or_insert_default()
                .insert(address, Sample { stack, bytes });
        }
    }

    /// Before the memory goes: afterwards another thread may own the address.
    fn freed(&self, address: usize) {
        if self.place(address).load(Ordering::Relaxed) != 0 {
            inside(|| self.forget(address));
        }
    }

    #[cold]
    fn forget(&self, address: usize) {
        let mut samples = self.samples();
        if samples
            .as_mut()
            .is_some_and(|samples| samples.remove(&address).is_some())
        {
            self.place(address).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs `work` unless the profiler is at work on this thread already: it must not wait for itself.
fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    if INSIDE.replace(true) {
        return None;
    }
    let result = work();
    INSIDE.set(false);
    Some(result)
}

// SAFETY: every call goes to the inner allocator with the same arguments, and its result is returned
// unchanged; what is done beside it allocates through this allocator, never frees what it does not own,
// and can't recurse (`inside`).
unsafe impl<A: GlobalAlloc> GlobalAlloc for HeapProfiler<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let pointer = unsafe { self.inner.alloc(layout) };
        self.allocated(pointer as usize, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let pointer = unsafe { self.inner.alloc_zeroed(layout) };
        self.allocated(pointer as usize, layout.size());
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.freed(pointer as usize);
        // SAFETY: the caller's promises are passed on.
        unsafe { self.inner.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.freed(pointer as usize);
        // SAFETY: the caller's promises are passed on.
        let pointer = unsafe { self.inner.realloc(pointer, layout, size) };
        self.allocated(pointer as usize, size);
        pointer
    }
}

impl<A> fmt::Debug for HeapProfiler<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapProfiler")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// The functions of a stack, outermost first, without the profiler's own. To look one up takes long, so
/// each is looked up once.
fn names(stack: &[usize], functions: &mut HashMap<usize, Vec<String>>) -> Vec<String> {
    let mut names = Vec::new();
    for &ip in stack {
        let inlined = functions.entry(ip).or_insert_with(|| {
            let mut names = Vec::new();
            backtrace::resolve(ip as *mut c_void, |symbol| {
                names.extend(symbol.name().map(|name| format!("{name:#}")));
            });
            names
        });
        names.extend_from_slice(inlined);
    }
    let own = names.iter().rposition(|name| {
        name.contains("HeapProfiler") || name.contains("__rustc") || name.starts_with("backtrace::")
    });
    names.drain(..own.map_or(0, |own| own + 1));
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    // Also for Miri: `cargo +nightly miri test -p stellane-core --no-default-features --features profiling heap`.
    #[test]
    fn a_sample_lives_as_long_as_its_memory_and_moves_with_it() {
        static PROFILER: HeapProfiler<System> = HeapProfiler::new(System);
        let live = || PROFILER.samples().as_ref().map_or(0, HashMap::len);
        let layout = Layout::from_size_align(1000, 8).expect("valid");
        let grown = Layout::from_size_align(5000, 8).expect("valid");
        // SAFETY: the layouts are not empty; each pointer is used with the layout it has now, and freed once.
        unsafe {
            let unseen = PROFILER.alloc(layout);
            PROFILER.start(1);
            let a = PROFILER.alloc(layout);
            let b = PROFILER.alloc_zeroed(layout);
            assert_eq!(live(), 2);
            assert_eq!(b.add(999).read(), 0);
            a.write_bytes(7, 1000);
            let a = PROFILER.realloc(a, layout, grown.size());
            assert_eq!((a.add(999).read(), live()), (7, 2));
            PROFILER.dealloc(unseen, layout);
            assert_eq!(live(), 2);
            PROFILER.dealloc(a, grown);
            PROFILER.stop();
            PROFILER.dealloc(b, layout);
        }
        assert_eq!(live(), 0);
        assert!(
            PROFILER
                .filter
                .iter()
                .all(|place| place.load(Ordering::Relaxed) == 0)
        );
    }
}
