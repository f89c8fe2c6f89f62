//! The explanation of a match.

use std::fmt::Write as _;

use crate::{
    escape,
    host::HostPattern,
    matcher::{pattern::Pattern, spans::Spans, tree::read},
    methods::Methods,
    types::Entry,
};

/// The routes that match a path in order of preference; if none does, those that come closest.
pub(crate) fn explain(entries: &[Entry], methods: &Methods, path: &str) -> String {
    let Some(path) = escape::canonical(path) else {
        return format!("{path}\na `%` begins no escape: 400");
    };
    let path = &*path;
    let mut out = path.to_owned();
    let mut fitting: Vec<(&Entry, Spans)> = entries
        .iter()
        .filter_map(|entry| Some((entry, read(&entry.pattern, path.as_bytes())?)))
        .collect();
    fitting.sort_by(|(a, x), (b, y)| {
        let host = |entry: &Entry| entry.host.as_deref().map(HostPattern::parse);
        let order = Pattern::specificity((&a.pattern, x), (&b.pattern, y));
        a.host
            .is_none()
            .cmp(&b.host.is_none())
            .then_with(|| host(a).cmp(&host(b)))
            .then(order.unwrap_or_else(|spelling| spelling))
    });
    for (i, (entry, _)) in fitting.iter().enumerate() {
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
             constraint before a wide one, a parameter before several segments; the first with the \
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
