//! One route template, parsed.

use std::cmp::Ordering;

use super::constraint::Constraint;
use crate::escape;

/// The most parameters one template may have.
pub(crate) const MAX_PARAMS: usize = 12;
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// Literal bytes, slashes included.
    Static(Vec<u8>),
    Param(ParamKey),
    /// `{+name}`: the rest of the path, at least one byte.
    Plus,
    /// `{*name}`: the rest of the path, possibly empty.
    Star,
}

/// All that decides what a parameter matches: two with the same key are the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamKey {
    pub(crate) constraint: Constraint,
    pub(crate) tail: Tail,
}

/// Where a parameter ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With the segment.
    Segment,
    /// Before this text, with which the segment ends.
    Suffix(Vec<u8>),
    /// Before the first occurrence of this text, after which another parameter begins.
    Infix(Vec<u8>),
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
            pattern.literal(&escape::normalise(&literal).unwrap_or(literal));
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
            if matches!(pattern.tokens.last(), Some(Token::Plus | Token::Star)) && !rest.is_empty()
            {
                let end = template.len() - rest.len();
                return Err(fault(
                    end,
                    "nothing can follow a parameter that takes the rest",
                ));
            }
        }
        Ok(pattern)
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
                key.tail = Tail::Suffix(text[..in_segment].to_vec());
                text = &text[in_segment..];
            }
        }
        if !text.is_empty() {
            self.tokens.push(Token::Static(text.to_vec()));
        }
    }

    fn parameter(&mut self, inside: &str, position: usize) -> Result<(), Fault> {
        let fault = |reason: String| Err(Fault { position, reason });
        if self.params.len() == MAX_PARAMS {
            return fault(format!("more than {MAX_PARAMS} parameters"));
        }
        let (kind, inside) = match inside.as_bytes().first() {
            Some(b'*') => (Some(Token::Star), &inside[1..]),
            Some(b'+') => (Some(Token::Plus), &inside[1..]),
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

        if let Some(token) = kind {
            if constraint.is_some_and(|c| c != "atom") {
                return fault("a parameter that takes the rest has no constraint".to_owned());
            }
            let at_segment_start = match self.tokens.last() {
                Some(Token::Static(text)) => text.ends_with(b"/"),
                _ => false,
            };
            if !at_segment_start {
                return fault("a parameter that takes the rest begins after `/`".to_owned());
            }
            self.tokens.push(token);
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

    /// Whether the path fits, looking at this template alone: the slow and obvious way.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let mut rest = path;
        for token in &self.tokens {
            match token {
                Token::Static(text) => match rest.strip_prefix(text.as_slice()) {
                    Some(after) => rest = after,
                    None => return false,
                },
                Token::Param(key) => match key.take(rest) {
                    Some((_, next)) => rest = &rest[next..],
                    None => return false,
                },
                Token::Plus => return !rest.is_empty(),
                Token::Star => return true,
            }
        }
        rest.is_empty()
    }

    /// How far the path fits, and what was expected there.
    pub(crate) fn progress(&self, path: &[u8]) -> (usize, String) {
        let mut at = 0;
        for token in &self.tokens {
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
                Token::Param(key) => match key.take(rest) {
                    Some((_, next)) => at += next,
                    None => {
                        let tail = match &key.tail {
                            Tail::Suffix(text) | Tail::Infix(text) => String::from_utf8_lossy(text),
                            Tail::Segment => "".into(),
                        };
                        return (
                            at,
                            format!("expected a parameter ({}){tail}", key.constraint),
                        );
                    }
                },
                Token::Plus if rest.is_empty() => return (at, "expected more".to_owned()),
                Token::Plus | Token::Star => at = path.len(),
            }
        }
        (at, "expected the end".to_owned())
    }

    /// The template without the names: equal for two that match the same paths at the same place.
    pub(crate) fn shape(&self) -> String {
        format!("{:?}", self.tokens)
    }

    /// Which of two templates that both fit a path is tried first.
    ///
    /// Read from the left, at the first place where they differ: literal text before a
    /// parameter, a parameter before the rest of the path.
    pub(crate) fn specificity(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (self.tokens.iter(), other.tokens.iter());
        loop {
            let (left, right) = match (a.next(), b.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(left), Some(right)) => (left, right),
            };
            if left == right {
                continue;
            }
            return match (left, right) {
                // Texts that both fit one path: one begins with the other, and the longer one
                // still has literal bytes where the shorter has something else.
                (Token::Static(x), Token::Static(y)) => {
                    y.len().cmp(&x.len()).then_with(|| x.cmp(y))
                }
                (Token::Param(x), Token::Param(y)) => x.order(y),
                _ => left.class().cmp(&right.class()),
            };
        }
    }
}

impl Token {
    const fn class(&self) -> u8 {
        match self {
            Self::Static(_) => 0,
            Self::Param(_) => 1,
            Self::Plus => 2,
            Self::Star => 3,
        }
    }
}

impl ParamKey {
    /// Takes the parameter from the front of `rest`: where it ends, and where to go on.
    #[inline]
    pub(crate) fn take(&self, rest: &[u8]) -> Option<(usize, usize)> {
        let segment = memchr::memchr(b'/', rest).unwrap_or(rest.len());
        self.take_from_segment(&rest[..segment])
    }

    /// Like [`take`](Self::take), for the caller that knows the segment already.
    #[inline]
    pub(crate) fn take_from_segment(&self, segment: &[u8]) -> Option<(usize, usize)> {
        let (end, next) = match &self.tail {
            Tail::Segment => (segment.len(), segment.len()),
            Tail::Suffix(text) => {
                let end = segment.strip_suffix(text.as_slice())?.len();
                (end, segment.len())
            }
            Tail::Infix(text) => {
                let end = 1 + memchr::memmem::find(segment.get(1..)?, text)?;
                (end, end + text.len())
            }
        };
        (end > 0 && self.constraint.accepts(&segment[..end])).then_some((end, next))
    }

    /// Longer following text first, then the narrower constraint; equal means ambiguous.
    pub(crate) fn preference(&self, other: &Self) -> Ordering {
        let tail = |key: &Self| match &key.tail {
            Tail::Suffix(text) => (text.len(), 1),
            Tail::Infix(text) => (text.len(), 0),
            Tail::Segment => (0, 1),
        };
        tail(other)
            .cmp(&tail(self))
            .then_with(|| self.constraint.rank().cmp(&other.constraint.rank()))
    }
}

impl ParamKey {
    /// [`preference`](Self::preference), made total.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let text = |key: &Self| match &key.tail {
            Tail::Suffix(text) | Tail::Infix(text) => text.clone(),
            Tail::Segment => Vec::new(),
        };
        self.preference(other)
            .then_with(|| text(self).cmp(&text(other)))
            .then_with(|| self.constraint.cmp(&other.constraint))
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
                push_encoded(&mut literal, byte);
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
            b'%' if !is_escape(&text.as_bytes()[i..]) => {
                let reason = "`%` begins no escape; write `%25`".to_owned();
                return Err(Fault {
                    position: offset + i,
                    reason,
                });
            }
            _ => push_encoded(&mut literal, byte),
        }
    }
    Ok((literal, None))
}

/// Clients send what is not URI text as `%XX`, so that is what the literal must be.
fn push_encoded(literal: &mut Vec<u8>, byte: u8) {
    match byte {
        b'{' | b'}' => literal.push(byte),
        0x21..=0x7E if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'|') => {
            literal.push(byte);
        }
        _ => literal.extend_from_slice(format!("%{byte:02X}").as_bytes()),
    }
}

fn is_escape(text: &[u8]) -> bool {
    text.len() > 2 && text[1].is_ascii_hexdigit() && text[2].is_ascii_hexdigit()
}

/// The brace that closes a parameter; `{` inside cannot be right.
fn closing_brace(text: &str) -> Option<usize> {
    let at = text.find(['{', '}', '/'])?;
    (text.as_bytes()[at] == b'}').then_some(at)
}
