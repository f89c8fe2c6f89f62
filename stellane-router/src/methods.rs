//! Methods as bits.

use http::{HeaderValue, Method};

/// One bit for each standard method, the rest for a table's own.
const STANDARD: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
    Method::TRACE,
];

pub(crate) const GET: u32 = 1;
pub(crate) const HEAD: u32 = 1 << 1;
pub(crate) const OPTIONS: u32 = 1 << 5;
/// A method that no route names.
pub(crate) const UNNAMED: u32 = 1 << 31;

/// One method or several: what a route is registered for.
pub trait IntoMethods {
    /// The methods.
    fn into_methods(self) -> Vec<Method>;
}

impl IntoMethods for Method {
    fn into_methods(self) -> Vec<Method> {
        vec![self]
    }
}

impl<const N: usize> IntoMethods for [Method; N] {
    fn into_methods(self) -> Vec<Method> {
        self.into()
    }
}

impl IntoMethods for Vec<Method> {
    fn into_methods(self) -> Vec<Method> {
        self
    }
}

/// The methods a table knows.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    own: Vec<Method>,
}

impl Methods {
    /// `None` if they are more than there are bits.
    pub(crate) fn new<'m>(methods: impl Iterator<Item = &'m Method>) -> Option<Self> {
        let mut own: Vec<Method> = methods
            .filter(|&m| !STANDARD.contains(m))
            .cloned()
            .collect();
        own.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        own.dedup();
        (own.len() <= 22).then_some(Self { own })
    }

    #[inline]
    pub(crate) fn bit(&self, method: &Method) -> u32 {
        if *method == Method::GET {
            return GET;
        }
        self.other_bit(method)
    }

    fn other_bit(&self, method: &Method) -> u32 {
        let known = STANDARD.iter().chain(&self.own).position(|m| m == method);
        known.map_or(UNNAMED, |at| 1 << at)
    }

    pub(crate) fn is_known(&self, bit: u32) -> bool {
        bit != UNNAMED
    }

    pub(crate) fn list(&self, set: u32) -> Vec<Method> {
        let all = STANDARD.iter().chain(&self.own).enumerate();
        all.filter(|(i, _)| set & (1 << i) != 0)
            .map(|(_, m)| m.clone())
            .collect()
    }

    /// The value of `Allow`: what is registered and what follows from it.
    pub(crate) fn allow(&self, set: u32) -> HeaderValue {
        let names = self.list(implied(set));
        let names: Vec<&str> = names.iter().map(Method::as_str).collect();
        // Method names are tokens, which are header text.
        HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
    }
}

/// `HEAD` follows from `GET`, `OPTIONS` from anything.
pub(crate) const fn implied(set: u32) -> u32 {
    let set = if set & GET != 0 { set | HEAD } else { set };
    if set == 0 { 0 } else { set | OPTIONS }
}
