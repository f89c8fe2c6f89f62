//! Random sets of routes, and requests that are likely to meet them.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use stellane_router::{BuildReport, Router, RouterBuilder};

use super::reader;

pub(crate) fn cases() -> u64 {
    std::env::var("STELLANE_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000)
}

pub(crate) fn random() -> fastrand::Rng {
    let seed = std::env::var("STELLANE_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(7);
    println!("STELLANE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Segments of templates; `@` is the number of the segment, so that names are those of the place.
pub(crate) const KINDS: [&str; 31] = [
    "a",
    "b",
    "ab",
    "aab",
    "x",
    "a|b",
    "\u{e9}",
    "x y",
    "articles-of-today",
    "{p@}",
    "{p@}",
    "{p@:u64}",
    "{p@:u32}",
    "{p@:i64}",
    "{p@:hex}",
    "{p@:alpha}",
    "{p@:alnum}",
    "{p@:len(1..2)}",
    "{p@:len(3..9)}",
    "{p@:one(a|b)}",
    "{p@:one(x y|7)}",
    "{p@:date}",
    "{p@:uuid}",
    "a{p@}",
    "{p@}.b",
    "{p@}-{q@}",
    "{p@}.{q@}",
    "{p@:u64}-{q@}",
    "{p@}.{q@:one(b|c)}",
    "a{p@:alpha}-{q@}.b",
    "{*w@}",
];
/// What matchit has too.
pub(crate) const NARROW: [&str; 8] = ["a", "b", "ab", "aab", "x", "7", "articles-of-today", "{p@}"];

const VALUES: [&str; 34] = [
    "a",
    "b",
    "ab",
    "aab",
    "x",
    "a-b",
    "a-a-b",
    "7",
    "-7",
    "a7",
    "7.b",
    "a.b.b",
    "a.c.b",
    "",
    "-",
    "..",
    "a|b",
    "a%7Cb",
    "a%7cb",
    "\u{e9}",
    "%C3%A9",
    "%c3%a9",
    "x%20y",
    "%61",
    "a%2Fb",
    "2026-08-21",
    "2024-02-30",
    "67e55044-10b1-426f-9247-bb680e5fe0c8",
    "7-x-b",
    "aa-b.b",
    "4294967296",
    "a%2Eb",
    "articles-of-today",
    "articles-of-tod",
];

pub(crate) struct Grammar {
    rng: fastrand::Rng,
    kinds: &'static [&'static str],
    /// The set made last.
    templates: Vec<String>,
}

impl Grammar {
    pub(crate) fn new(kinds: &'static [&'static str]) -> Self {
        Self {
            rng: random(),
            kinds,
            templates: Vec::new(),
        }
    }

    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        self.rng.choice(texts).expect("some")
    }

    fn template(&mut self) -> String {
        let mut text = String::new();
        for at in 0..self.rng.usize(0..4) {
            text.push('/');
            text.push_str(&self.pick(self.kinds).replace('@', &at.to_string()));
        }
        // A parameter for several segments at the end is one of the two below.
        if text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.starts_with("{*"))
        {
            text.push_str("/a");
        }
        match self.rng.u8(0..8) {
            0 => text.push('/'),
            1 if self.kinds.len() == NARROW.len() => text.push_str("/{+rest}"),
            1 => text.push_str(self.pick(&["/{*rest}", "/{+more}"])),
            _ => {}
        }
        if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }
    }

    pub(crate) fn templates(&mut self) -> Vec<String> {
        let mut all: Vec<String> = (0..self.rng.usize(1..9)).map(|_| self.template()).collect();
        all.sort();
        all.dedup();
        self.templates.clone_from(&all);
        all
    }

    fn value(&mut self) -> &'static str {
        let value = self.pick(&VALUES);
        // What is not in canonical form matchit reads in another way.
        match self.kinds.len() == NARROW.len() && reader::canonical(value).as_deref() != Some(value)
        {
            true => "a",
            false => value,
        }
    }

    /// Any, or one made after a template of the last set.
    pub(crate) fn path(&mut self) -> String {
        if self.rng.bool() && !self.templates.is_empty() {
            let template = self.rng.choice(&self.templates).expect("some").clone();
            let mut text = String::new();
            for part in template.split('{') {
                let text_of = |text: &str| text.replace(' ', "%20");
                match part.split_once('}') {
                    Some((_, literal)) => text.extend([self.value(), &text_of(literal)]),
                    None => text.push_str(&text_of(part)),
                }
            }
            return text;
        }
        let mut text: String = (0..self.rng.usize(0..5))
            .map(|_| format!("/{}", self.value()))
            .collect();
        if text.is_empty() || self.rng.u8(0..6) == 0 {
            text.push('/');
        }
        text
    }

    /// Paths that fit a template, with other values in place of each parameter.
    pub(crate) fn paths_near(&mut self, template: &str) -> Vec<String> {
        let count = template.matches('/').count();
        let paths = (0..200).map(|_| {
            let segments = (0..count + self.rng.usize(0..2)).map(|_| self.pick(&VALUES));
            let segments: Vec<&str> = segments.collect();
            format!("/{}", segments.join("/"))
        });
        let paths: Vec<String> = paths.collect();
        paths
            .into_iter()
            .filter(|path| reader::fits(template, path))
            .collect()
    }

    pub(crate) fn request(&mut self) -> (String, Option<&'static str>, Method) {
        let prefix = self.pick(&["", "", "/n", "/a"]);
        let path = format!("{prefix}{}", self.path());
        let hosts = [
            None,
            Some("a.example"),
            Some("b.c.example:80"),
            Some("A.Example."),
        ];
        let host = self.rng.choice(hosts).expect("some");
        let methods = [
            Method::GET,
            Method::POST,
            Method::HEAD,
            Method::PUT,
            Method::OPTIONS,
        ];
        (path, host, self.rng.choice(methods).expect("some"))
    }

    pub(crate) fn routes(&mut self) -> Routes {
        let mut routes = BTreeMap::new();
        for _ in 0..self.rng.usize(1..12) {
            let host = self.pick(&["", "", "a.example", "*.example"]);
            let template = self.template();
            // Nested, `/` is the prefix itself.
            let prefix = self.pick(&["", "", "/n", "/{prefix}"]);
            let method = self.pick(&["GET", "GET", "POST", "HEAD", ""]);
            routes.insert((host, prefix, template, method), ());
        }
        self.templates = routes
            .keys()
            .map(|(_, _, template, _)| template.clone())
            .collect();
        Routes(routes.into_keys().collect())
    }
}

/// Host, prefix, template and method of each; no method is any.
#[derive(Debug)]
pub(crate) struct Routes(Vec<(&'static str, &'static str, String, &'static str)>);

impl Routes {
    pub(crate) fn router(&self) -> Result<Router, BuildReport> {
        let mut builder = Router::builder();
        for (host, prefix, template, method) in &self.0 {
            let route = add(Router::builder(), template, method);
            let nested = Router::builder().nest(prefix, route);
            builder = match *host {
                "" => builder.merge(nested),
                host => builder.host(host, nested),
            };
        }
        builder.build()
    }

    /// Status and template.
    pub(crate) fn answer(
        &self,
        path: &str,
        host: Option<&str>,
        method: &Method,
    ) -> (StatusCode, Option<String>) {
        let Some(path) = reader::canonical(path) else {
            return (StatusCode::BAD_REQUEST, None);
        };
        let host = host.map(|host| {
            let host = host.split(':').next().expect("one");
            host.trim_end_matches('.').to_ascii_lowercase()
        });
        let mut exists = None;
        for pattern in ["a.example", "*.example", ""] {
            let serves = match (pattern.strip_prefix('*'), &host) {
                (Some(below), Some(host)) => host.ends_with(below),
                (None, host) => pattern.is_empty() || host.as_deref() == Some(pattern),
                (Some(_), None) => false,
            };
            if !serves {
                continue;
            }
            let full = |(_, prefix, template, method): &&(&str, &str, String, &'static str)| {
                let template = match template.as_str() {
                    "/" if !prefix.is_empty() => "",
                    template => template,
                };
                (format!("{prefix}{template}"), *method)
            };
            let own = self.0.iter().filter(|(host, ..)| *host == pattern);
            let mut own: Vec<(String, &str)> = own.map(|route| full(&route)).collect();
            // Where the names of parameters are all that differs, the method itself is before one that it
            // follows from, and that before any.
            own.sort_by_key(|(_, m)| (*m != method.as_str(), m.is_empty()));
            let with = |wanted: &dyn Fn(&str, &str) -> bool| {
                let templates = own
                    .iter()
                    .filter(|(template, method)| wanted(template, method));
                let templates: Vec<String> =
                    templates.map(|(template, _)| template.clone()).collect();
                reader::best(&templates, &path).map(|best| best.template.to_owned())
            };
            let named = |template: &str, method: &str| {
                own.iter().any(|(t, m)| t == template && *m == method)
            };
            let found = with(&|template, m| {
                m == method.as_str()
                    || m.is_empty()
                    || (*method == Method::HEAD && m == "GET" && !named(template, "HEAD"))
            });
            if found.is_some() {
                return (StatusCode::OK, found);
            }
            exists = exists.or_else(|| with(&|_, _| true));
        }
        match (exists, method) {
            (None, _) => (StatusCode::NOT_FOUND, None),
            (exists, &Method::OPTIONS) => (StatusCode::NO_CONTENT, exists),
            (exists, _) => (StatusCode::METHOD_NOT_ALLOWED, exists),
        }
    }
}

fn add(builder: RouterBuilder, template: &str, method: &str) -> RouterBuilder {
    match method {
        "" => builder.any(template, async || ""),
        method => {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            builder.on(method, template, async || "")
        }
    }
}
