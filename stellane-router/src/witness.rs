//! Paths that prove something about templates, and the explanation of a match.

use std::fmt::Write as _;

use crate::compiled::Entry;
use crate::matcher::pattern::{Pattern, Tail, Token};
use crate::methods::Methods;

/// The most paths tried for a template.
const MAX_PATHS: usize = 1024;

/// A path that the template matches.
pub(crate) fn any(pattern: &Pattern) -> String {
    let mut paths = paths(pattern);
    paths.truncate(1);
    paths.pop().unwrap_or_default()
}

/// Paths that the template matches, each by other values of its parameters.
pub(crate) fn paths(pattern: &Pattern) -> Vec<String> {
    candidates(pattern, &[])
}

/// A path that both templates match, if one is found.
pub(crate) fn common(a: &Pattern, b: &Pattern) -> Option<String> {
    let tried = |own: &Pattern, other: &Pattern| {
        let paths = candidates(own, &texts_of(other));
        paths
            .into_iter()
            .find(|path| other.matches(path.as_bytes()))
    };
    tried(a, b).or_else(|| tried(b, a))
}

/// Texts a parameter of another template should be tried with.
fn texts_of(pattern: &Pattern) -> Vec<String> {
    let mut texts = Vec::new();
    for token in &pattern.tokens {
        match token {
            Token::Static(text) => {
                let text = String::from_utf8_lossy(text);
                texts.extend(text.split('/').filter(|s| !s.is_empty()).map(str::to_owned));
            }
            Token::Param(key) => {
                texts.extend(key.constraint.samples());
                if let Tail::Suffix(text) | Tail::Infix(text) = &key.tail {
                    let text = String::from_utf8_lossy(text);
                    texts.extend([format!("w{text}w"), format!("w{text}")]);
                }
            }
            Token::Plus | Token::Star => {}
        }
    }
    texts.dedup();
    texts
}

fn candidates(pattern: &Pattern, texts: &[String]) -> Vec<String> {
    let mut paths = vec![String::new()];
    for token in &pattern.tokens {
        let (values, tail) = match token {
            Token::Static(text) => (vec![String::from_utf8_lossy(text).into_owned()], &[][..]),
            Token::Param(key) => {
                let mut values = key.constraint.samples();
                let fit = |t: &&String| key.constraint.accepts(t.as_bytes());
                values.extend(texts.iter().filter(fit).cloned());
                let tail = match &key.tail {
                    Tail::Segment => &[][..],
                    Tail::Suffix(text) | Tail::Infix(text) => text.as_slice(),
                };
                (values, tail)
            }
            Token::Plus => (vec!["witness".to_owned(), "w/x/y".to_owned()], &[][..]),
            Token::Star => (
                vec!["witness".to_owned(), String::new(), "w/x/y".to_owned()],
                &[][..],
            ),
        };
        let room = (MAX_PATHS / paths.len()).max(1);
        let tail = String::from_utf8_lossy(tail).into_owned();
        paths = values
            .iter()
            .take(room)
            .flat_map(|value| paths.iter().map(move |path| (path, value)))
            .map(|(path, value)| format!("{path}{value}{tail}"))
            .collect();
    }
    paths.retain(|path| pattern.matches(path.as_bytes()));
    paths
}

/// The routes that match a path in order of preference; if none does, those that come closest.
pub(crate) fn explain(entries: &[Entry], methods: &Methods, path: &str) -> String {
    let normalised = crate::escape::normalise(path.as_bytes());
    let path = normalised.map_or_else(
        || path.to_owned(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    );
    let path = path.as_str();
    let mut out = path.to_owned();
    let mut fitting: Vec<&Entry> = entries
        .iter()
        .filter(|e| e.pattern.matches(path.as_bytes()))
        .collect();
    fitting.sort_by(|a, b| {
        a.host
            .is_none()
            .cmp(&b.host.is_none())
            .then_with(|| a.pattern.specificity(&b.pattern))
    });
    for (i, entry) in fitting.iter().enumerate() {
        let verbs = methods.list(entry.methods);
        let verbs: Vec<&str> = verbs.iter().map(http::Method::as_str).collect();
        let verbs = if entry.takes_any {
            "any method".to_owned()
        } else {
            verbs.join(", ")
        };
        let _ = write!(out, "\n  {}. {} ({verbs}", i + 1, entry.template);
        if let Some(host) = &entry.host {
            let _ = write!(out, "; host {host}");
        }
        out.push(')');
    }
    match fitting.len() {
        0 => explain_miss(entries, path, &mut out),
        1 => out.push_str("\nthe only route that matches"),
        _ => out.push_str(
            "\nfrom the left, where they first differ: literal text before a parameter, a narrow \
             constraint before a wide one, a parameter before the rest; the first with the \
             method answers",
        ),
    }
    out
}

fn explain_miss(entries: &[Entry], path: &str, out: &mut String) {
    out.push_str("\nno route matches");
    let mut near: Vec<_> = entries
        .iter()
        .map(|e| (e.pattern.progress(path.as_bytes()), e))
        .collect();
    near.sort_by(|(a, x), (b, y)| b.0.cmp(&a.0).then_with(|| x.template.cmp(&y.template)));
    for ((at, why), entry) in near.into_iter().take(3) {
        let _ = write!(out, "\n  {}", entry.template);
        if let Some(host) = &entry.host {
            let _ = write!(out, " (host {host})");
        }
        let _ = write!(out, ": at byte {at}, {why}");
    }
}
