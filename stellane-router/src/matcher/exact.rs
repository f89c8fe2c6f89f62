//! Templates without parameters, found by what they say: one look instead of a walk.

use super::pattern::{Pattern, Token};
use crate::scan;

/// How many places a template may take up; one for which they are taken is left to the tree.
const PLACES: usize = 4;

type Slot = Option<(Box<[u8]>, u32)>;

/// The templates that have neither parameters nor escapes, by a hash of their length and ends.
///
/// Of all leaves that fit a path, one that says it literally comes first in the tree: so it may be looked for
/// first.
#[derive(Debug, Default)]
pub(crate) struct Exact {
    /// As many as a power of two and [`PLACES`] more; or none.
    slots: Vec<Slot>,
    shift: u32,
}

impl Exact {
    /// Of templates and the numbers of their leaves.
    pub(crate) fn new<'p>(patterns: impl Iterator<Item = (u32, &'p Pattern)>) -> Self {
        let literal = |(leaf, pattern): (u32, &'p Pattern)| match &pattern.tokens[..] {
            [Token::Static(text)] if !text.contains(&b'%') => Some((text, leaf)),
            _ => None,
        };
        let literals: Vec<_> = patterns.filter_map(literal).collect();
        if literals.is_empty() {
            return Self::default();
        }
        let bits = (2 * literals.len()).next_power_of_two().trailing_zeros();
        let mut this = Self {
            slots: vec![None; (1 << bits) + PLACES],
            shift: u64::BITS - bits,
        };
        for (text, leaf) in literals {
            let first = this.first(text);
            let places = &mut this.slots[first..first + PLACES];
            if let Some(free) = places.iter_mut().find(|slot| slot.is_none()) {
                *free = Some((text.clone(), leaf));
            }
        }
        this
    }

    /// The leaf whose template is this path.
    #[inline(always)]
    pub(crate) fn find(&self, path: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let places = self.slots.get(self.first(path)..)?;
        let [first, others @ ..] = places.first_chunk::<PLACES>()?;
        let (text, leaf) = first.as_ref()?;
        if text.len() == path.len() && scan::begins(path, text) {
            return Some(*leaf);
        }
        Self::find_among(others, path)
    }

    /// Apart, so that the first look is small enough to be inlined.
    #[inline(never)]
    fn find_among(places: &[Slot], path: &[u8]) -> Option<u32> {
        for slot in places {
            let (text, leaf) = slot.as_ref()?;
            if **text == *path {
                return Some(*leaf);
            }
        }
        None
    }

    /// What it takes of memory.
    pub(crate) fn heap_bytes(&self) -> usize {
        let texts = self.slots.iter().flatten().map(|(text, _)| text.len());
        size_of_val(&*self.slots) + texts.sum::<usize>()
    }

    #[inline]
    fn first(&self, path: &[u8]) -> usize {
        (scan::digest(path) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn what_is_found_is_the_path_itself() {
        let texts: Vec<String> = (0..300)
            .map(|i| match i % 3 {
                0 => format!("/{}", "x".repeat(i)),
                // Alike at both ends, so that most find their places taken.
                1 => format!("/articles/{i:03}/comments/latest"),
                _ => format!("/a{i}"),
            })
            .collect();
        let patterns: Vec<Pattern> = texts.iter().map(|text| pattern(text)).collect();
        let exact = Exact::new((0..).zip(&patterns));
        let mut found = 0;
        for (leaf, text) in texts.iter().enumerate() {
            if let Some(other) = exact.find(text.as_bytes()) {
                assert_eq!(other as usize, leaf, "{text}");
                found += 1;
            }
            for other in [format!("{text}/"), format!("{text}x"), text[1..].to_owned()] {
                let leaf = exact.find(other.as_bytes());
                assert!(
                    leaf.is_none_or(|leaf| texts[leaf as usize] == other),
                    "{other}"
                );
            }
        }
        assert!(found >= 200, "only {found} of 300 found");
    }

    #[test]
    fn templates_with_parameters_or_escapes_are_left_to_the_tree() {
        let patterns = ["/users/{id}", "/caf%C3%A9", "/{*rest}"].map(pattern);
        let exact = Exact::new((0..).zip(&patterns));
        for path in ["/users/{id}", "/users/7", "/caf%C3%A9", "/", ""] {
            assert_eq!(exact.find(path.as_bytes()), None, "{path}");
        }
    }
}
