//! A map from texts to numbers, made once.

use crate::scan;

/// Every text is found: by a hash of all of it, and what stands next to that place.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// Twice as many as texts, or more, and a power of two; or none.
    slots: Vec<Option<(Box<[u8]>, u32)>>,
    shift: u32,
}

impl Texts {
    /// Of two equal texts the first counts.
    pub(crate) fn new(texts: &[(&[u8], u32)]) -> Self {
        if texts.is_empty() {
            return Self::default();
        }
        let bits = (2 * texts.len()).next_power_of_two().trailing_zeros();
        let mut this = Self {
            slots: vec![None; 1 << bits],
            shift: u64::BITS - bits,
        };
        for &(text, number) in texts {
            if this.find(text).is_none() {
                let mut at = this.first(text);
                while this.slots[at].is_some() {
                    at = (at + 1) & (this.slots.len() - 1);
                }
                this.slots[at] = Some((text.into(), number));
            }
        }
        this
    }

    #[inline]
    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.first(text);
        // At least half of the slots are free, so this ends.
        while let Some((own, number)) = &self.slots[at] {
            if own.len() == text.len() && scan::begins(text, own) {
                return Some(*number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let texts = self.slots.iter().flatten().map(|(text, _)| text.len());
        size_of_val(&*self.slots) + texts.sum::<usize>()
    }

    #[inline]
    fn first(&self, text: &[u8]) -> usize {
        // The highest bits of a product depend on all bits of its factors.
        (scan::hash(text) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_found_and_nothing_else() {
        let texts: Vec<String> = (0..600)
            .map(|i| match i % 3 {
                0 => "x".repeat(i),
                1 => format!("/articles/{i:03}/comments/latest"),
                _ => format!(".{i}"),
            })
            .collect();
        let pairs: Vec<_> = texts
            .iter()
            .zip(0..)
            .map(|(t, i)| (t.as_bytes(), i))
            .collect();
        let map = Texts::new(&pairs);
        for (text, i) in texts.iter().zip(0..) {
            assert_eq!(map.find(text.as_bytes()), Some(i), "{text}");
            let other = format!("{text}~");
            assert_eq!(map.find(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Texts::default().find(b""), None);
    }
}
