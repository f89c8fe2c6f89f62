//! One route template, parsed.

use std::cmp::Ordering;

use super::{
    constraint::Constraint,
    param::{ParamKey, Tail},
    spans::{MAX_PARAMS, Spans},
};
use crate::{escape, scan};

/// The longest template, in bytes: what an `http::Uri` can hold.
const MAX_LEN: usize = 65_534;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) tokens: Vec<Token>,
    pub(crate) params: Vec<Param>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Param {
    pub(crate) name: Box<str>,
    /// Declared `{name:atom}`: its values are worth interning.
    pub(crate) atom: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Token {
    /// Literal bytes, slashes included.
    Static(Box<[u8]>),
    Param(ParamKey),
    /// `{+name}/…` and `{*name}/…`: as few whole segments as what follows allows.
    Wild(Least),
    /// `{+name}` and `{*name}`: the rest of the path.
    Rest(Least),
}

/// The least that a parameter for several segments takes; the order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Least {
    /// `+`
    OneByte,
    /// `*`
    Nothing,
}

/// A fault in a template: where, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) position: usize,
    pub(crate) reason: String,
}

impl Pattern {
    pub(crate) fn parse(template: &str) -> Result<Self, Fault> {
        let fault = |position, reason: &str| Fault {
            position,
            reason: reason.to_owned(),
        };
        if !template.starts_with('/') {
            return Err(fault(0, "a path begins with `/`"));
        }
        if template.len() > MAX_LEN {
            return Err(fault(
                MAX_LEN,
                "longer than 65534 bytes, more than a URI can hold",
            ));
        }
        let mut pattern = Self {
            tokens: Vec::new(),
            params: Vec::new(),
        };
        let mut rest = template;
        loop {
            let at = template.len() - rest.len();
            let (literal, after) = take_literal(rest, at)?;
            if let Some(&Token::Rest(least)) = pattern.tokens.last()
                && !rest.is_empty()
            {
                if literal.first() != Some(&b'/') {
                    let reason =
                        "a parameter for several segments ends before `/`, or with the path";
                    return Err(fault(at, reason));
                }
                pattern.tokens.pop();
                pattern.tokens.push(Token::Wild(least));
            }
            pattern.literal(escape::literal(&literal).as_bytes());
            let Some(after) = after else { break };
            let start = template.len() - after.len();
            let Some(close) = closing_brace(after) else {
                return Err(fault(
                    start - 1,
                    "`{` is never closed; write `{{` for a brace",
                ));
            };
            pattern.parameter(&after[..close], start)?;
            rest = &after[close + 1..];
        }
        Ok(pattern)
    }

    /// All paths below a prefix, whose parameters they have; the rest has no name.
    pub(crate) fn below(prefix: &str) -> Result<Self, Fault> {
        let mut this = match prefix {
            "" => Self {
                tokens: Vec::new(),
                params: Vec::new(),
            },
            _ => Self::parse(prefix)?,
        };
        if let Some(&Token::Rest(least)) = this.tokens.last() {
            this.tokens.pop();
            this.tokens.push(Token::Wild(least));
        }
        match this.tokens.last_mut() {
            Some(Token::Static(text)) => *text = [text, &b"/"[..]].concat().into(),
            _ => this.tokens.push(Token::Static(b"/"[..].into())),
        }
        this.tokens.push(Token::Rest(Least::Nothing));
        Ok(this)
    }

    /// Adds literal text; what directly follows a parameter in its segment becomes its tail.
    fn literal(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut text = text;
        if let Some(Token::Param(key)) = self.tokens.last_mut() {
            let in_segment = memchr::memchr(b'/', text).unwrap_or(text.len());
            if in_segment > 0 {
                // Becomes an infix if another parameter follows.
                key.tail = Tail::Suffix(text[..in_segment].into());
                text = &text[in_segment..];
            }
        }
        if !text.is_empty() {
            self.tokens.push(Token::Static(text.into()));
        }
    }

    fn parameter(&mut self, inside: &str, position: usize) -> Result<(), Fault> {
        let fault = |reason: String| Err(Fault { position, reason });
        if self.params.len() == MAX_PARAMS {
            return fault(format!("more than {MAX_PARAMS} parameters"));
        }
        let (kind, inside) = match inside.as_bytes().first() {
            Some(b'*') => (Some(Least::Nothing), &inside[1..]),
            Some(b'+') => (Some(Least::OneByte), &inside[1..]),
            _ => (None, inside),
        };
        let (name, constraint) = match inside.split_once(':') {
            Some((name, constraint)) => (name, Some(constraint)),
            None => (inside, None),
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || !name.bytes().all(word) {
            return fault(format!(
                "`{name}` is no parameter name: letters, digits, `_` and `-`"
            ));
        }
        if self.params.iter().any(|p| &*p.name == name) {
            return fault(format!("`{name}` is named twice"));
        }
        let atom = constraint == Some("atom");
        self.params.push(Param {
            name: name.into(),
            atom,
        });

        if let Some(least) = kind {
            if constraint.is_some_and(|c| c != "atom") {
                return fault("a parameter for several segments has no constraint".to_owned());
            }
            let at_segment_start = match self.tokens.last() {
                Some(Token::Static(text)) => text.ends_with(b"/"),
                _ => false,
            };
            if !at_segment_start {
                return fault("a parameter for several segments begins after `/`".to_owned());
            }
            self.tokens.push(Token::Rest(least));
            return Ok(());
        }
        match self.tokens.last_mut() {
            Some(Token::Param(ParamKey {
                tail: tail @ Tail::Suffix(_),
                ..
            })) => {
                let Tail::Suffix(text) = std::mem::replace(tail, Tail::Segment) else {
                    unreachable!("matched above")
                };
                *tail = Tail::Infix(text);
            }
            Some(Token::Param(_)) => {
                return fault("two parameters in a segment need text between them".to_owned());
            }
            _ => {}
        }
        let constraint = match constraint {
            None | Some("atom") => Constraint::Any,
            Some(text) => match Constraint::parse(text) {
                Ok(constraint) => constraint,
                Err(reason) => return fault(reason),
            },
        };
        self.tokens.push(Token::Param(ParamKey {
            constraint,
            tail: Tail::Segment,
        }));
        Ok(())
    }

    /// How far the path fits, and what was expected there.
    pub(crate) fn progress(&self, path: &[u8]) -> (usize, String) {
        let mut at = 0;
        for (i, token) in self.tokens.iter().enumerate() {
            let rest = &path[at..];
            match token {
                Token::Static(text) => {
                    let fit = text.iter().zip(rest).take_while(|(a, b)| a == b).count();
                    if fit < text.len() {
                        let text = String::from_utf8_lossy(&text[fit..]).into_owned();
                        return (at + fit, format!("expected `{text}`"));
                    }
                    at += fit;
                }
                Token::Param(key) => {
                    let segment = &rest[..scan::find(b'/', rest)];
                    let Some((_, next)) = key.places(segment).into_iter().flatten().next() else {
                        let tail = match &key.tail {
                            Tail::Suffix(text) | Tail::Infix(text) => String::from_utf8_lossy(text),
                            Tail::Segment => "".into(),
                        };
                        return (
                            at,
                            format!("expected a parameter ({}){tail}", key.constraint),
                        );
                    };
                    at += next;
                }
                Token::Wild(_) => {
                    let Some(Token::Static(text)) = self.tokens.get(i + 1) else {
                        continue;
                    };
                    match memchr::memmem::find(rest, text) {
                        Some(end) => at += end,
                        None => {
                            let text = String::from_utf8_lossy(text).into_owned();
                            return (at, format!("expected `{text}` further on"));
                        }
                    }
                }
                Token::Rest(Least::OneByte) if rest.is_empty() => {
                    return (at, "expected more".to_owned());
                }
                Token::Rest(_) => at = path.len(),
            }
        }
        (at, "expected the end".to_owned())
    }

    /// Which of two templates that both fit a path, with these values, is tried first.
    ///
    /// Read from the left, at the first place where they differ: literal text before a parameter, a
    /// parameter before several segments; where they say the same and take different values, the
    /// shorter of several segments, and the longer parameter before text. `Err` if nothing but the spelling decides.
    pub(crate) fn specificity(
        (a, a_spans): (&Self, &Spans),
        (b, b_spans): (&Self, &Spans),
    ) -> Result<Ordering, Ordering> {
        let mut ends = a_spans.as_slice().iter().zip(b_spans.as_slice());
        for (left, right) in a.tokens.iter().zip(&b.tokens) {
            let order = match (left, right) {
                // Texts that both fit one path: one begins with the other, and the longer one
                // still has literal bytes where the shorter has something else.
                (Token::Static(x), Token::Static(y)) => y.len().cmp(&x.len()),
                (left, right) if left == right => {
                    let ends = ends.next().map(|(x, y)| x.1.cmp(&y.1));
                    let order = ends.unwrap_or(Ordering::Equal);
                    if matches!(left, Token::Wild(_)) {
                        order
                    } else {
                        order.reverse()
                    }
                }
                (Token::Param(x), Token::Param(y)) => {
                    return match x.preference(y) {
                        Ordering::Equal => Err(x.cmp(y)),
                        order => Ok(order),
                    };
                }
                _ => left.class().cmp(&right.class()),
            };
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        Ok(a.tokens.len().cmp(&b.tokens.len()))
    }

    /// What it takes of memory besides itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let tokens = self.tokens.iter().map(|token| match token {
            Token::Static(text) => text.len(),
            Token::Param(key) => key.heap_bytes(),
            _ => 0,
        });
        let names = self.params.iter().map(|p| p.name.len());
        self.tokens.capacity() * size_of::<Token>()
            + self.params.capacity() * size_of::<Param>()
            + tokens.chain(names).sum::<usize>()
    }
}

impl Token {
    const fn class(&self) -> (u8, u8) {
        match self {
            Self::Static(_) => (0, 0),
            Self::Param(_) => (1, 0),
            Self::Wild(least) => (2, *least as u8),
            Self::Rest(least) => (3, *least as u8),
        }
    }
}

/// Literal text up to the next parameter, and what follows the `{`.
fn take_literal(text: &str, offset: usize) -> Result<(Vec<u8>, Option<&str>), Fault> {
    let mut literal = Vec::new();
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((i, byte)) = bytes.next() {
        let doubled = bytes.peek().is_some_and(|&(_, next)| next == byte);
        match byte {
            b'{' | b'}' if doubled => {
                bytes.next();
                literal.push(byte);
            }
            b'{' => return Ok((literal, Some(&text[i + 1..]))),
            b'}' => {
                let reason = "`}` without `{`; write `}}` for a brace".to_owned();
                return Err(Fault {
                    position: offset + i,
                    reason,
                });
            }
            b'?' | b'#' => {
                let reason = "`?` and `#` end a path; write `%3F` or `%23`".to_owned();
                return Err(Fault {
                    position: offset + i,
                    reason,
                });
            }
            b'%' if escape::decode(&text.as_bytes()[i..]).is_none() => {
                let reason = "`%` begins no escape; write `%25`".to_owned();
                return Err(Fault {
                    position: offset + i,
                    reason,
                });
            }
            _ => literal.push(byte),
        }
    }
    Ok((literal, None))
}

/// The brace that closes a parameter; `{` inside cannot be right.
fn closing_brace(text: &str) -> Option<usize> {
    let at = text.find(['{', '}', '/'])?;
    (text.as_bytes()[at] == b'}').then_some(at)
}
