//! A parameter within a segment: what it may hold, and where it ends.

use std::cmp::Ordering;

use super::constraint::Constraint;

/// All that decides what a parameter matches: two with the same key are the same place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ParamKey {
    pub(crate) constraint: Constraint,
    pub(crate) tail: Tail,
}

/// Where a parameter ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Tail {
    /// With the segment.
    Segment,
    /// Before this text, with which the segment ends.
    Suffix(Box<[u8]>),
    /// Before this text, after which another parameter begins: where it stands last or, if what
    /// follows does not fit then, where it stands first.
    Infix(Box<[u8]>),
}

impl ParamKey {
    /// Where the parameter may end in a segment, and where to go on; in the order they are tried.
    #[inline]
    pub(crate) fn places(&self, segment: &[u8]) -> [Option<(usize, usize)>; 2] {
        self.tail
            .places(segment)
            .map(|place| place.filter(|&(end, _)| self.constraint.accepts(&segment[..end])))
    }

    /// Longer following text first, then the narrower constraint; equal means that nothing decides,
    /// unless no segment fits both.
    pub(crate) fn preference(&self, other: &Self) -> Ordering {
        let (text, last) = self.tail.text();
        let (other_text, other_last) = other.tail.text();
        (other_text.len(), other_last)
            .cmp(&(text.len(), last))
            .then_with(|| self.constraint.rank().cmp(&other.constraint.rank()))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let (text, _) = self.tail.text();
        text.len() + self.constraint.heap_bytes()
    }
}

impl Tail {
    /// Where a parameter of any value may end in a segment, and where to go on.
    #[inline]
    pub(crate) fn places(&self, segment: &[u8]) -> [Option<(usize, usize)>; 2] {
        let len = segment.len();
        match self {
            Self::Segment => [(len > 0).then_some((len, len)), None],
            Self::Suffix(text) => match len > text.len() && segment.ends_with(text) {
                true => [Some((len - text.len(), len)), None],
                false => [None, None],
            },
            Self::Infix(text) => {
                infix_places(segment, text).map(|end| end.map(|end| (end, end + text.len())))
            }
        }
    }

    /// The text, and whether the segment ends with it.
    pub(crate) fn text(&self) -> (&[u8], bool) {
        match self {
            Self::Segment => (&[], true),
            Self::Suffix(text) => (text, true),
            Self::Infix(text) => (text, false),
        }
    }
}

/// Where `text` stands in a segment with something before it: last, and first.
pub(crate) fn infix_places(segment: &[u8], text: &[u8]) -> [Option<usize>; 2] {
    let Some(after) = segment.get(1..) else {
        return [None, None];
    };
    let (first, last) = match text {
        [byte] => (memchr::memchr(*byte, after), memchr::memrchr(*byte, after)),
        _ => (
            memchr::memmem::find(after, text),
            memchr::memmem::rfind(after, text),
        ),
    };
    [last, first.filter(|_| first != last)].map(|at| Some(at? + 1))
}

/// [`preference`](ParamKey::preference) made total, keys with one text next to each other where a
/// segment cannot end with two texts of one length.
impl Ord for ParamKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |k: &Self| {
            let (text, last) = k.tail.text();
            std::cmp::Reverse((text.len(), last))
        };
        let (text, last) = self.tail.text();
        let texts = text.cmp(other.tail.text().0);
        let ranks = self.constraint.rank().cmp(&other.constraint.rank());
        let both = match last {
            true => texts.then(ranks),
            false => ranks.then(texts),
        };
        key(self)
            .cmp(&key(other))
            .then(both)
            .then_with(|| self.constraint.cmp(&other.constraint))
    }
}

impl PartialOrd for ParamKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
