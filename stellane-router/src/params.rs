//! The parameters of a match.

use std::{
    borrow::Cow,
    fmt,
    str::{FromStr, Utf8Error},
};

use percent_encoding::percent_decode_str;

use crate::matcher::{pattern::Param, spans::Spans};

/// The parameters of a match.
#[derive(Clone, Copy)]
pub struct Params<'a> {
    declared: &'a [Param],
    spans: &'a Spans,
    path: &'a str,
}

impl<'a> Params<'a> {
    pub(crate) const fn new(declared: &'a [Param], spans: &'a Spans, path: &'a str) -> Self {
        Self {
            declared,
            spans,
            path,
        }
    }

    /// The parameter as it stands in the path, percent-escapes and all.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// The parameter, decoded once.
    ///
    /// # Errors
    ///
    /// If what was escaped is not UTF-8.
    pub fn decoded(&self, name: &str) -> Option<Result<Cow<'a, str>, Utf8Error>> {
        self.get(name)
            .map(|value| percent_decode_str(value).decode_utf8())
    }

    /// The parameter, decoded and parsed; `None` if there is none of this name, or not of this form.
    #[must_use]
    pub fn parse<T: FromStr>(&self, name: &str) -> Option<T> {
        self.decoded(name)?.ok()?.parse().ok()
    }

    /// Names and values, in the order of the template.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        let path = self.path;
        self.declared
            .iter()
            .zip(self.spans.as_slice())
            .map(move |(param, &(start, end))| {
                (
                    &*param.name,
                    path.get(start.into()..end.into()).unwrap_or_default(),
                )
            })
    }

    /// The number of parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.declared.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(feature = "intern-layer")]
    pub(crate) fn atoms(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let declared = self.declared;
        self.iter()
            .zip(declared)
            .filter(|(_, param)| param.atom)
            .map(|(pair, _)| pair)
    }
}

impl fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
