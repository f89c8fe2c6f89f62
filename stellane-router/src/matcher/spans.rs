use crate::scan;

/// The most parameters one template may have.
pub(super) const MAX_PARAMS: usize = 12;

/// Where the parameters of a match stand in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spans {
    pub(super) len: u8,
    spans: [(u16, u16); MAX_PARAMS + 1],
}

impl Spans {
    pub(crate) const EMPTY: Self = Self {
        len: 0,
        spans: [(0, 0); MAX_PARAMS + 1],
    };

    #[inline]
    pub(crate) fn as_slice(&self) -> &[(u16, u16)] {
        &self.spans[..usize::from(self.len)]
    }

    /// Whether no value has an escape or is other than ASCII. Then the path is in canonical form: what
    /// is literal in it is what a template says.
    #[inline]
    pub(crate) fn are_plain(&self, path: &[u8]) -> bool {
        let mut values = self.as_slice().iter();
        values.all(|&(start, end)| scan::is_plain(path, start.into(), end.into()))
    }

    #[inline]
    pub(super) fn push(&mut self, start: usize, end: usize) {
        // Paths are at most `u16::MAX` long and templates have at most `MAX_PARAMS`, and one more
        // where they stand for all that is below a scope.
        self.spans[usize::from(self.len)] = (start as u16, end as u16);
        self.len += 1;
    }
}
