//! Paths made from templates: the way back.

use std::{
    error::Error,
    fmt::{self, Display},
    marker::PhantomData,
};

use percent_encoding::percent_decode;

use crate::{
    escape::{self, is_unreserved},
    matcher::{pattern::Token, tree::read},
    types::{Entry, RouteId, RouteTable},
};

/// Values for the parameters of a template, in its order: a tuple of up to 12 that can be displayed.
pub trait UrlValues {
    /// How many there are.
    const COUNT: usize;

    /// Each as text, not escaped.
    fn texts(self) -> Vec<String>;
}

macro_rules! values {
    ($($name:ident)*) => {
        impl<$($name: Display),*> UrlValues for ($($name,)*) {
            const COUNT: usize = 0 $(+ { let _ = stringify!($name); 1 })*;

            #[allow(non_snake_case, reason = "one name is both the type and the value")]
            fn texts(self) -> Vec<String> {
                let ($($name,)*) = self;
                vec![$($name.to_string()),*]
            }
        }
    };
}

macro_rules! for_each_arity {
    ($($name:ident)*) => { for_each_arity!(@ [] $($name)*); };
    (@ [$($done:ident)*]) => { values!($($done)*); };
    (@ [$($done:ident)*] $next:ident $($rest:ident)*) => {
        values!($($done)*);
        for_each_arity!(@ [$($done)* $next] $($rest)*);
    };
}

for_each_arity!(T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12);

impl RouteTable {
    /// The path of the route of this name with these values, escaped where needed: what the template reads
    /// back as the same values.
    ///
    /// ```
    /// use stellane_router::Router;
    ///
    /// let router = Router::builder()
    ///     .get("/users/{id:u64}", async || "").name("user")
    ///     .get("/files/{*path}", async || "").name("file")
    ///     .build()?;
    /// let routes = router.table();
    /// assert_eq!(routes.url("user", (7,))?, "/users/7");
    /// assert_eq!(routes.url("file", ("a b/ü",))?, "/files/a%20b/%C3%BC");
    /// assert!(routes.url("user", ("seven",)).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// An unknown name, another number of values than the template has parameters, a value that it cannot
    /// hold. See [`link`](Self::link) for how to meet the first two once, and at the start.
    pub fn url<V: UrlValues>(&self, name: &str, values: V) -> Result<String, UrlError> {
        self.link(name)?.url(values)
    }

    /// The route of this name, for making its paths: name and number of values are checked here, so a program
    /// that asks for its links where it builds its routes fails there.
    ///
    /// ```
    /// use stellane_router::{Link, Router};
    ///
    /// let router = Router::builder().get("/users/{id}/posts/{post}", async || "").name("post").build()?;
    /// let post: Link<(u64, &str)> = router.table().link("post")?;
    /// assert_eq!(post.url((7, "hello"))?, "/users/7/posts/hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// An unknown name, another number of values than the template has parameters.
    pub fn link<V: UrlValues>(&self, name: &str) -> Result<Link<V>, UrlError> {
        let Some(&route) = self.0.names.get(name) else {
            return Err(UrlError::UnknownName { name: name.into() });
        };
        let entry = self.0.entry(RouteId(route));
        let parameters = entry.pattern.params.len();
        if parameters != V::COUNT {
            return Err(UrlError::Count {
                template: entry.template.clone(),
                parameters,
                values: V::COUNT,
            });
        }
        Ok(Link {
            table: self.clone(),
            route: RouteId(route),
            values: PhantomData,
        })
    }
}

/// A named route, for making its paths: see [`RouteTable::link`].
pub struct Link<V> {
    table: RouteTable,
    route: RouteId,
    values: PhantomData<fn(V)>,
}

impl<V: UrlValues> Link<V> {
    /// The path with these values.
    ///
    /// # Errors
    ///
    /// A value that the template cannot hold.
    pub fn url(&self, values: V) -> Result<String, UrlError> {
        url(self.table.0.entry(self.route), &values.texts())
    }
}

impl<V> Clone for Link<V> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            route: self.route,
            values: PhantomData,
        }
    }
}

impl<V> fmt::Debug for Link<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = &self.table.0.entry(self.route).template;
        f.debug_tuple("Link").field(template).finish()
    }
}

/// Why a path could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// No route has this name.
    UnknownName {
        /// The name asked for.
        name: Box<str>,
    },
    /// The template has another number of parameters.
    Count {
        /// The template.
        template: Box<str>,
        /// How many parameters it has.
        parameters: usize,
        /// How many values were given.
        values: usize,
    },
    /// The template does not read this value back.
    Value {
        /// The template.
        template: Box<str>,
        /// The parameter.
        parameter: Box<str>,
        /// The value given.
        value: Box<str>,
    },
    /// The template does not match what it would have been, as where several values do not fit together.
    Unreadable {
        /// The path that would have been.
        path: Box<str>,
    },
    /// A client would take a segment of the path for a step within it.
    Dots {
        /// The path that would have been.
        path: Box<str>,
    },
}

impl Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName { name } => {
                write!(f, "no route is named `{name}`: name it where it is added")
            }
            Self::Count {
                template,
                parameters,
                values,
            } => write!(
                f,
                "`{template}` has {parameters} parameters, got {values} values"
            ),
            Self::Value {
                template,
                parameter,
                value,
            } => write!(
                f,
                "`{template}` does not read `{}` back as `{parameter}`: it is empty, not what the \
                 constraint wants, or holds the text after the parameter",
                value.escape_debug()
            ),
            Self::Unreadable { path } => {
                write!(
                    f,
                    "`{path}` does not match the template it is made from: give other values"
                )
            }
            Self::Dots { path } => write!(
                f,
                "clients take `.` and `..` in `{path}` for steps within the path: give another value"
            ),
        }
    }
}

impl Error for UrlError {}

fn url(entry: &Entry, values: &[String]) -> Result<String, UrlError> {
    let mut path = String::new();
    let mut left = values.iter();
    for token in &entry.pattern.tokens {
        let slashes = match token {
            Token::Static(text) => {
                push_literal(&mut path, text);
                continue;
            }
            Token::Param(_) => false,
            Token::Wild(_) | Token::Rest(_) => true,
        };
        for byte in left.next().map_or("", |value| value).bytes() {
            match is_unreserved(byte) || (slashes && byte == b'/') {
                true => path.push(byte.into()),
                false => escape::push_escape(&mut path, byte),
            }
        }
        if let Token::Param(key) = token {
            push_literal(&mut path, key.tail.text().0);
        }
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(UrlError::Dots { path: path.into() });
    }
    // What is not read back as it was given would be another page, or none.
    let canonical = escape::canonical(&path).unwrap_or_default();
    let spans = read(&entry.pattern, canonical.as_bytes());
    let mut tokens = entry.pattern.tokens.iter();
    for (i, (param, value)) in entry.pattern.params.iter().zip(values).enumerate() {
        let token = tokens.find(|token| !matches!(token, Token::Static(_)));
        let same = match (&spans, token) {
            (Some(spans), _) => {
                let (start, end) = spans.as_slice().get(i).copied().unwrap_or_default();
                let read = canonical.get(start.into()..end.into()).unwrap_or_default();
                percent_decode(read.as_bytes()).eq(value.bytes())
            }
            // Without a reading, the first that cannot be.
            (None, Some(Token::Param(key))) => {
                let text = escape::literal(value.replace('%', "%25").as_bytes());
                !value.is_empty() && key.constraint.accepts(text.as_bytes())
            }
            (None, _) => true,
        };
        if !same {
            return Err(UrlError::Value {
                template: entry.template.clone(),
                parameter: param.name.clone(),
                value: value.as_str().into(),
            });
        }
    }
    match spans {
        Some(_) => Ok(path),
        None => Err(UrlError::Unreadable { path: path.into() }),
    }
}

/// Text of a template is in canonical form; what no URI may hold is escaped.
fn push_literal(path: &mut String, text: &[u8]) {
    for &byte in text {
        match byte {
            b'|' | b'^' | b'"' | b'{' | b'}' | b'[' | b']' | b'\\' => {
                escape::push_escape(path, byte);
            }
            byte => path.push(byte.into()),
        }
    }
}
