//! `RecycledBox`: a box whose memory comes from a small per-thread stock.
//!
//! Handler futures have as many types as there are handlers, so they live behind a pointer. Taking
//! that memory from the allocator for every request is what this avoids: blocks of four sizes are
//! kept by the thread that freed them, a bounded number of each.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::Cell,
    fmt,
    future::Future,
    mem::ManuallyDrop,
    ops::Deref,
    pin::Pin,
    ptr::{self, NonNull},
    task::{Context, Poll},
};

const ALIGN: usize = 16;
/// Block sizes, and how many of each a thread keeps: at most 224 KiB in all.
const CLASSES: [(usize, u16); 4] = [(512, 64), (1024, 64), (2048, 32), (4096, 16)];

pub(crate) struct RecycledBox<T: ?Sized>(NonNull<T>);

/// A future in a slot.
pub(crate) type RecycledFuture<'a, T> = RecycledBox<dyn Future<Output = T> + Send + 'a>;

// SAFETY: a slot owns its value like a box does; its memory may be freed on any thread.
unsafe impl<T: ?Sized + Send> Send for RecycledBox<T> {}
// SAFETY: as above; a shared slot gives only shared access.
unsafe impl<T: ?Sized + Sync> Sync for RecycledBox<T> {}

impl<T> RecycledBox<T> {
    pub(crate) fn new(value: T) -> Self {
        let memory = take(Layout::new::<T>()).cast::<T>();
        // SAFETY: `take` returns memory of this layout, owned by nobody else.
        unsafe { memory.write(value) };
        Self(memory)
    }

    pub(crate) fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the slot is not used again, so the value is moved out exactly once.
        let value = unsafe { this.0.read() };
        give_back(this.0.cast(), Layout::new::<T>());
        value
    }
}

impl<'a, T> RecycledBox<dyn Future<Output = T> + Send + 'a> {
    pub(crate) fn future(future: impl Future<Output = T> + Send + 'a) -> Self {
        let slot = ManuallyDrop::new(RecycledBox::new(future));
        Self(slot.0)
    }

    /// Claims that what the future borrows lives as long as the future is used.
    ///
    /// # Safety
    ///
    /// The caller keeps everything borrowed for `'a` alive and in place until the result is dropped.
    pub(crate) unsafe fn forget_lifetime(self) -> RecycledFuture<'static, T> {
        let slot = ManuallyDrop::new(self);
        // SAFETY: only the lifetime changes; the caller vouches for it.
        let pointer = unsafe {
            std::mem::transmute::<
                NonNull<dyn Future<Output = T> + Send + 'a>,
                NonNull<dyn Future<Output = T> + Send + 'static>,
            >(slot.0)
        };
        RecycledBox(pointer)
    }
}

impl<T: ?Sized + Future> Future for RecycledBox<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the value stays where it is until the slot drops it. `into_inner` needs `T: Sized`
        // and is never called on a future.
        unsafe { Pin::new_unchecked(self.0.as_mut()) }.poll(cx)
    }
}

impl<T: ?Sized> Deref for RecycledBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot owns an initialised value.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ?Sized> Drop for RecycledBox<T> {
    fn drop(&mut self) {
        struct GiveBack(NonNull<u8>, Layout);
        impl Drop for GiveBack {
            fn drop(&mut self) {
                give_back(self.0, self.1);
            }
        }
        // SAFETY: the slot owns an initialised value.
        let layout = Layout::for_value(unsafe { self.0.as_ref() });
        // The memory goes back even if dropping the value panics.
        let _memory = GiveBack(self.0.cast(), layout);
        // SAFETY: the value is dropped once, here, and its memory is freed after it.
        unsafe { ptr::drop_in_place(self.0.as_ptr()) };
    }
}

impl<T: ?Sized> fmt::Debug for RecycledBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecycledBox").finish_non_exhaustive()
    }
}

/// The blocks a thread keeps, one list per size, linked through the blocks themselves.
struct Stock {
    heads: [Cell<*mut u8>; CLASSES.len()],
    counts: [Cell<u16>; CLASSES.len()],
}

thread_local! {
    static STOCK: Stock = const {
        Stock {
            heads: [const { Cell::new(ptr::null_mut()) }; CLASSES.len()],
            counts: [const { Cell::new(0) }; CLASSES.len()],
        }
    };
}

impl Drop for Stock {
    fn drop(&mut self) {
        for (class, head) in self.heads.iter().enumerate() {
            let mut block = head.replace(ptr::null_mut());
            while !block.is_null() {
                // SAFETY: a kept block holds the pointer to the next one and has the class's layout.
                unsafe {
                    let next = block.cast::<*mut u8>().read();
                    dealloc(block, block_layout(class));
                    block = next;
                }
            }
        }
    }
}

fn class_of(layout: Layout) -> Option<usize> {
    if layout.align() > ALIGN {
        return None;
    }
    CLASSES.iter().position(|&(size, _)| layout.size() <= size)
}

const fn block_layout(class: usize) -> Layout {
    match Layout::from_size_align(CLASSES[class].0, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("sizes and alignment are constants"),
    }
}

fn take(layout: Layout) -> NonNull<u8> {
    let Some(class) = class_of(layout) else {
        return fresh(layout);
    };
    let kept = STOCK.try_with(|stock| {
        let block = NonNull::new(stock.heads[class].get())?;
        // SAFETY: a kept block holds the pointer to the next one.
        stock.heads[class].set(unsafe { block.cast::<*mut u8>().read() });
        stock.counts[class].set(stock.counts[class].get() - 1);
        Some(block)
    });
    match kept {
        Ok(Some(block)) => block,
        _ => fresh(block_layout(class)),
    }
}

fn fresh(layout: Layout) -> NonNull<u8> {
    let layout = at_least_one_byte(layout);
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Of values without a size only over-aligned ones come here: an empty allocation is no allocation.
const fn at_least_one_byte(layout: Layout) -> Layout {
    match Layout::from_size_align(layout.align(), layout.align()) {
        Ok(one) if layout.size() == 0 => one,
        _ => layout,
    }
}

fn give_back(memory: NonNull<u8>, layout: Layout) {
    let Some(class) = class_of(layout) else {
        // SAFETY: `fresh` allocated it with this layout.
        return unsafe { dealloc(memory.as_ptr(), at_least_one_byte(layout)) };
    };
    // The stock is gone while the thread ends.
    let kept = STOCK.try_with(|stock| {
        let count = stock.counts[class].get();
        if count == CLASSES[class].1 {
            return false;
        }
        // SAFETY: the block is at least 512 bytes, aligned to 16, and owned by us.
        unsafe { memory.cast::<*mut u8>().write(stock.heads[class].get()) };
        stock.heads[class].set(memory.as_ptr());
        stock.counts[class].set(count + 1);
        true
    });
    if !kept.unwrap_or(false) {
        // SAFETY: `take` allocated it with the layout of its class.
        unsafe { dealloc(memory.as_ptr(), block_layout(class)) };
    }
}
