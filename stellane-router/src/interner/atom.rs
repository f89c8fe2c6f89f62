//! An interned string.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
    sync::Arc,
};

/// Set in the length of an atom whose text is never freed.
const STATIC: usize = 1 << (usize::BITS - 1);

/// A string that may be shared with others equal to it; 16 bytes.
///
/// An atom of the frozen vocabulary is free to copy; of any other, cloning is one reference count.
/// Two atoms with the same text in the same place are found equal without reading it.
pub struct Atom {
    text: NonNull<u8>,
    /// The length, and [`STATIC`].
    len: usize,
    owns: PhantomData<Arc<str>>,
}

// SAFETY: an atom is either an `Arc<str>` or a `&'static str`.
unsafe impl Send for Atom {}
// SAFETY: as above.
unsafe impl Sync for Atom {}

impl Atom {
    /// An atom of text that is never freed.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        // SAFETY: a reference is not null. `cast_mut` serves `NonNull`; nothing writes.
        let pointer = unsafe { NonNull::new_unchecked(text.as_ptr().cast_mut()) };
        // No string is longer than `isize::MAX`.
        Self {
            text: pointer,
            len: text.len() | STATIC,
            owns: PhantomData,
        }
    }

    pub(crate) fn from_shared(text: Arc<str>) -> Self {
        let len = text.len();
        let pointer = Arc::into_raw(text).cast::<u8>().cast_mut();
        // SAFETY: `Arc::into_raw` is never null.
        let pointer = unsafe { NonNull::new_unchecked(pointer) };
        Self {
            text: pointer,
            len,
            owns: PhantomData,
        }
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        // SAFETY: the pointer and length are those of a `str` that lives at least as long.
        unsafe { &*self.raw() }
    }

    /// The text as it can be kept: one reference count if it has one, else a copy.
    #[must_use]
    pub fn to_shared(&self) -> Arc<str> {
        match self.as_arc() {
            Some(shared) => Arc::clone(&shared),
            None => self.as_str().into(),
        }
    }

    /// The text, if it is never freed.
    #[must_use]
    pub const fn as_static(&self) -> Option<&'static str> {
        if self.is_static() {
            // SAFETY: made from a `&'static str`.
            Some(unsafe { &*self.raw() })
        } else {
            None
        }
    }

    const fn is_static(&self) -> bool {
        self.len & STATIC != 0
    }

    const fn raw(&self) -> *const str {
        ptr::slice_from_raw_parts(self.text.as_ptr().cast_const(), self.len & !STATIC) as *const str
    }

    /// The `Arc` this atom is, not to be dropped.
    fn as_arc(&self) -> Option<ManuallyDrop<Arc<str>>> {
        if self.is_static() {
            return None;
        }
        // SAFETY: it came from `Arc::into_raw`, and `ManuallyDrop` leaves its count to the atom.
        Some(ManuallyDrop::new(unsafe { Arc::from_raw(self.raw()) }))
    }
}

impl Clone for Atom {
    fn clone(&self) -> Self {
        if let Some(shared) = self.as_arc() {
            return Self::from_shared(Arc::clone(&shared));
        }
        Self {
            text: self.text,
            len: self.len,
            owns: PhantomData,
        }
    }
}

impl Drop for Atom {
    fn drop(&mut self) {
        if let Some(shared) = self.as_arc() {
            drop(ManuallyDrop::into_inner(shared));
        }
    }
}

impl Deref for Atom {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Atom {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Atom {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        (self.text == other.text && self.len == other.len) || self.as_str() == other.as_str()
    }
}

impl Eq for Atom {}

impl PartialEq<str> for Atom {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Atom {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other)
    }
}

impl Hash for Atom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

#[cfg(feature = "metrics")]
impl From<Atom> for metrics::SharedString {
    fn from(atom: Atom) -> Self {
        match atom.as_static() {
            Some(text) => Self::const_str(text),
            None => Self::from_shared(atom.to_shared()),
        }
    }
}
