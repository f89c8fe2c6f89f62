use std::collections::{HashMap, HashSet, VecDeque};

/// A value that can be used again.
///
/// [`recycle`](Self::recycle) runs when the value comes back, so what is idle in a pool holds nothing of
/// whoever used it. For a struct of recyclable fields, [`recycle!`](crate::recycle!) writes the
/// implementation and refuses to compile when a field is forgotten.
///
/// ```
/// use stellane_pool::{DropReason, Fate, Recycle, RecycleCx};
///
/// struct Parser {
///     tokens: Vec<u32>,
///     broken: bool,
/// }
///
/// impl Recycle for Parser {
///     fn recycle(&mut self, cx: &RecycleCx) -> Fate {
///         // Name every field: a new one then breaks this line rather than leak.
///         let Self { tokens, broken } = self;
///         if *broken {
///             return Fate::Drop(DropReason::Rejected);
///         }
///         tokens.recycle(cx)
///     }
///
///     fn retained_bytes(&self) -> usize {
///         self.tokens.retained_bytes()
///     }
/// }
/// ```
pub trait Recycle: Send + 'static {
    /// Clears the value for its next user, or gives it up.
    ///
    /// A value whose `recycle` panics is dropped.
    fn recycle(&mut self, cx: &RecycleCx) -> Fate;

    /// The heap memory the value keeps while idle, in bytes: what is charged to the budget. Asked once,
    /// after [`recycle`](Self::recycle) said [`Fate::Keep`].
    fn retained_bytes(&self) -> usize;

    /// Whether the value may be handed out now. For values whose memory can still be read through
    /// handles given away, as a buffer frozen into `Bytes`; any other value is always free.
    fn is_free(&mut self) -> bool {
        true
    }
}

/// What a pool tells a value that comes back.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RecycleCx {
    /// The most bytes one idle value may keep. A value that has grown past it is dropped, so that one
    /// unusual request does not decide how much memory all later ones hold.
    pub max_object_bytes: usize,
}

impl RecycleCx {
    pub(crate) fn new(max_object_bytes: usize) -> Self {
        Self { max_object_bytes }
    }

    /// [`Fate::Keep`] if `bytes` are within [`max_object_bytes`](Self::max_object_bytes).
    pub fn fate_of(&self, bytes: usize) -> Fate {
        if bytes > self.max_object_bytes {
            Fate::Drop(DropReason::TooLarge)
        } else {
            Fate::Keep
        }
    }
}

/// What becomes of a returned value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a vetoed value must not be kept"]
#[non_exhaustive]
pub enum Fate {
    /// It is clean and may be used again.
    Keep,
    /// It must be dropped.
    Drop(DropReason),
}

impl Fate {
    /// The first veto of the two, if any.
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::Keep => other,
            Self::Drop(_) => self,
        }
    }
}

/// Why a pool dropped a value instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// It kept more bytes than one value may.
    TooLarge,
    /// Its [`Recycle::recycle`] refused it.
    Rejected,
    /// It came back while its thread was panicking: its state cannot be trusted.
    Panicking,
    /// The pool held as many idle values as it may.
    Full,
    /// The budget had no room for it.
    Budget,
    /// All places it could go to were in use by other threads at that instant.
    Contended,
    /// The pool was closed or dropped.
    Closed,
    /// It was idle for two ticks, or more was idle than the retain percentage allows.
    Aged,
    /// `Bytes` frozen from it were still alive after two ticks: the memory is left to them.
    Lent,
}

impl DropReason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::TooLarge,
        Self::Rejected,
        Self::Panicking,
        Self::Full,
        Self::Budget,
        Self::Contended,
        Self::Closed,
        Self::Aged,
        Self::Lent,
    ];

    /// The reason as a metric label: `too_large`, `rejected` …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::Panicking => "panicking",
            Self::Full => "full",
            Self::Budget => "budget",
            Self::Contended => "contended",
            Self::Closed => "closed",
            Self::Aged => "aged",
            Self::Lent => "lent",
        }
    }
}

/// Implements [`Recycle`] for a struct, field by field, each being [`Recycle`] itself.
///
/// The field list is matched exhaustively, so a field that is added later and not listed is a compile
/// error, not a leak. A field that holds no memory is reset by giving its clean value.
///
/// ```
/// struct Scratch {
///     spans: Vec<(u16, u16)>,
///     text: String,
///     depth: usize,
/// }
///
/// stellane_pool::recycle!(Scratch { spans, text, depth = 0 });
///
/// let pool = stellane_pool::Pool::builder(|| Scratch { spans: vec![], text: String::new(), depth: 0 }).build()?;
/// pool.take().depth = 7;
/// assert_eq!(pool.take().depth, 0);
/// # Ok::<(), stellane_pool::BuildError>(())
/// ```
///
/// A forgotten field does not compile:
///
/// ```compile_fail,E0027
/// struct Scratch {
///     text: String,
///     forgotten: String,
/// }
///
/// stellane_pool::recycle!(Scratch { text });
/// ```
#[macro_export]
macro_rules! recycle {
    ($type:ty { $($field:ident $(= $clean:expr)?),* $(,)? }) => {
        impl $crate::Recycle for $type {
            fn recycle(&mut self, cx: &$crate::RecycleCx) -> $crate::Fate {
                let Self { $($field),* } = self;
                let fate = $crate::Fate::Keep;
                $(let fate = $crate::__recycle_field!(fate, cx, $field $(= $clean)?);)*
                fate
            }

            fn retained_bytes(&self) -> usize {
                let Self { $($field),* } = self;
                0 $(+ $crate::__retained_field!($field $(= $clean)?))*
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __recycle_field {
    ($fate:ident, $cx:ident, $field:ident) => {
        // Every field is recycled, also after a veto: nothing of the user outlives the request.
        $fate.and($crate::Recycle::recycle($field, $cx))
    };
    ($fate:ident, $cx:ident, $field:ident = $clean:expr) => {{
        let _ = $cx;
        *$field = $clean;
        $fate
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __retained_field {
    ($field:ident) => {
        $crate::Recycle::retained_bytes($field)
    };
    ($field:ident = $clean:expr) => {{
        let _ = $field;
        0
    }};
}

macro_rules! clear_and_keep_capacity {
    ($([$($generics:tt)*] $type:ty, $slot:ty;)*) => {$(
        impl<$($generics)*> Recycle for $type {
            fn recycle(&mut self, cx: &RecycleCx) -> Fate {
                self.clear();
                cx.fate_of(self.retained_bytes())
            }

            fn retained_bytes(&self) -> usize {
                self.capacity().saturating_mul(size_of::<$slot>())
            }
        }
    )*};
}

clear_and_keep_capacity! {
    [] String, u8;
    [T: Send + 'static] Vec<T>, T;
    [T: Send + 'static] VecDeque<T>, T;
    [K: Send + 'static, V: Send + 'static, S: Send + 'static] HashMap<K, V, S>, (K, V, u8);
    [T: Send + 'static, S: Send + 'static] HashSet<T, S>, (T, u8);
}

impl<T: Recycle> Recycle for Box<T> {
    fn recycle(&mut self, cx: &RecycleCx) -> Fate {
        T::recycle(self, cx)
    }

    fn retained_bytes(&self) -> usize {
        size_of::<T>() + T::retained_bytes(self)
    }

    fn is_free(&mut self) -> bool {
        T::is_free(self)
    }
}
