use super::Atom;

/// What an [`InternLayer`](crate::InternLayer) found in a request, interned: an extension.
///
/// Several layers in one stack fill one; of values with the same name the last one counts.
#[derive(Debug, Clone, Default)]
pub struct Interned {
    values: Vec<(&'static str, Atom)>,
}

impl Interned {
    /// The value under this name, as it was given to the layer.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Atom> {
        let mut values = self.values.iter().rev();
        values.find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All values, in the order in which they were found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'static str, &Atom)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    pub(super) fn push(&mut self, name: &'static str, value: Atom) {
        self.values.push((name, value));
    }
}
