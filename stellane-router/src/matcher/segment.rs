//! Templates segment by segment: which paths two of them share, and whether one takes all of another's.

use std::collections::HashSet;

use super::{
    constraint::Constraint,
    param::infix_places,
    pattern::{Least, Token},
};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Parts(Vec<Part>),
    Wild(Least),
    Rest(Least),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Text(Box<[u8]>),
    Param(Constraint),
}

/// What stands between the slashes.
pub(crate) fn segments(tokens: &[Token]) -> Vec<Segment> {
    let mut segments = Vec::new();
    // `None` after a parameter for several segments, which ends with its segment.
    let mut parts = Some(Vec::new());
    for token in tokens {
        match token {
            Token::Static(text) => {
                let mut pieces = text.split(|&b| b == b'/');
                let first = pieces.next().unwrap_or_default();
                if let Some(parts) = parts.as_mut().filter(|_| !first.is_empty()) {
                    parts.push(Part::Text(first.into()));
                }
                for piece in pieces {
                    let text = (!piece.is_empty()).then(|| Part::Text(piece.into()));
                    let next = Some(text.into_iter().collect());
                    segments.extend(std::mem::replace(&mut parts, next).map(Segment::Parts));
                }
            }
            Token::Param(key) => {
                let parts = parts.get_or_insert_default();
                parts.push(Part::Param(key.constraint.clone()));
                let (text, _) = key.tail.text();
                if !text.is_empty() {
                    parts.push(Part::Text(text.into()));
                }
            }
            Token::Wild(least) => {
                parts = None;
                segments.push(Segment::Wild(*least));
            }
            Token::Rest(least) => {
                parts = None;
                segments.push(Segment::Rest(*least));
            }
        }
    }
    segments.extend(parts.map(Segment::Parts));
    segments
}

/// A path that all of the segments fit.
pub(crate) fn sample(segments: &[Segment]) -> Option<String> {
    let texts: Option<Vec<String>> = segments
        .iter()
        .map(|segment| match segment {
            Segment::Parts(parts) => sample_of(parts),
            Segment::Wild(_) | Segment::Rest(_) => Some("w".to_owned()),
        })
        .collect();
    texts.map(|texts| texts.join("/"))
}

fn sample_of(parts: &[Part]) -> Option<String> {
    match parts {
        [] => Some(String::new()),
        [Part::Param(Constraint::Len(least, _))] => Some("w".repeat((*least).into())),
        _ => common(parts, &[Part::Param(Constraint::Any)]),
    }
}

/// A path that both fit, if one is found; where it is not certain that there is none, many are tried.
pub(crate) fn common_path(a: &[Segment], b: &[Segment]) -> Option<String> {
    let mut path = Vec::new();
    align(a, b, &mut path, &mut HashSet::new()).then(|| path.join("/"))
}

fn align(
    a: &[Segment],
    b: &[Segment],
    path: &mut Vec<String>,
    failed: &mut HashSet<(usize, usize)>,
) -> bool {
    let (Some((x, after_x)), Some((y, after_y))) = (a.split_first(), b.split_first()) else {
        return a.is_empty() && b.is_empty();
    };
    if failed.contains(&(a.len(), b.len())) {
        return false;
    }
    let rests: [(&[Segment], &[Segment]); 3];
    let (text, ways) = match (x, y) {
        (Segment::Rest(least), _) | (_, Segment::Rest(least)) => {
            let other = if matches!(x, Segment::Rest(_)) { b } else { a };
            return match sample(other) {
                Some(text) if !text.is_empty() || *least == Least::Nothing => {
                    path.push(text);
                    true
                }
                _ => false,
            };
        }
        (Segment::Parts(x), Segment::Parts(y)) => {
            rests = [(after_x, after_y); 3];
            (common(x, y), &rests[..1])
        }
        (Segment::Wild(least), Segment::Parts(parts)) => {
            rests = [(after_x, after_y), (a, after_y), (a, after_y)];
            let text = sample_of(parts);
            let enough = *least == Least::Nothing || text.as_ref().is_some_and(|t| !t.is_empty());
            (text, if enough { &rests[..2] } else { &rests[1..2] })
        }
        (Segment::Parts(parts), Segment::Wild(least)) => {
            rests = [(after_x, after_y), (after_x, b), (after_x, b)];
            let text = sample_of(parts);
            let enough = *least == Least::Nothing || text.as_ref().is_some_and(|t| !t.is_empty());
            (text, if enough { &rests[..2] } else { &rests[1..2] })
        }
        (Segment::Wild(_), Segment::Wild(_)) => {
            rests = [(after_x, after_y), (a, after_y), (after_x, b)];
            (Some("w".to_owned()), &rests[..])
        }
    };
    if let Some(text) = text {
        path.push(text);
        if ways.iter().any(|(a, b)| align(a, b, path, failed)) {
            return true;
        }
        path.pop();
    }
    failed.insert((a.len(), b.len()));
    false
}

/// Whether every path that `inner` fits is one that `outer` fits: `false` if that is not certain.
pub(crate) fn contains(outer: &[Segment], inner: &[Segment]) -> bool {
    match (outer.split_first(), inner.split_first()) {
        (None, None) => true,
        (Some((Segment::Rest(least), _)), Some((first, after))) => {
            *least == Least::Nothing
                || !after.is_empty()
                || match first {
                    Segment::Parts(parts) => !parts.is_empty(),
                    Segment::Wild(least) | Segment::Rest(least) => *least == Least::OneByte,
                }
        }
        (Some((x, outer)), Some((y, inner))) => {
            let fits = match (x, y) {
                (Segment::Parts(x), Segment::Parts(y)) => contains_parts(x, y),
                _ => x == y,
            };
            fits && contains(outer, inner)
        }
        _ => false,
    }
}

fn contains_parts(outer: &[Part], inner: &[Part]) -> bool {
    if outer == inner {
        return true;
    }
    match (outer, inner) {
        (_, []) => false,
        (_, [Part::Text(text)]) => accepts(outer, text),
        ([Part::Param(Constraint::Any)], _) => true,
        ([Part::Param(x)], [Part::Param(y)]) => x.contains(y),
        _ => false,
    }
}

/// Whether a segment fits, as the tree reads it.
pub(crate) fn accepts(parts: &[Part], text: &[u8]) -> bool {
    match parts {
        [] => text.is_empty(),
        [Part::Text(own), after @ ..] => text
            .strip_prefix(&**own)
            .is_some_and(|rest| accepts(after, rest)),
        [Part::Param(constraint)] => !text.is_empty() && constraint.accepts(text),
        [Part::Param(constraint), Part::Text(own)] => text
            .strip_suffix(&**own)
            .is_some_and(|value| !value.is_empty() && constraint.accepts(value)),
        [Part::Param(constraint), Part::Text(own), after @ ..] => {
            infix_places(text, own).into_iter().flatten().any(|end| {
                constraint.accepts(&text[..end]) && accepts(after, &text[end + own.len()..])
            })
        }
        // Two parameters never stand next to each other.
        [Part::Param(_), Part::Param(_), ..] => false,
    }
}

/// The most sequences without `one(…)` that two segments are compared by.
const MAX_PLAIN: usize = 64;

/// A segment that both fit.
fn common(a: &[Part], b: &[Part]) -> Option<String> {
    let both = |text: &[u8]| accepts(a, text) && accepts(b, text);
    let literal = |text: &[u8]| both(text).then(|| String::from_utf8_lossy(text).into_owned());
    match (a, b) {
        ([], _) | (_, []) => (a == b).then(String::new),
        ([Part::Text(text)], _) | (_, [Part::Text(text)]) => literal(text),
        ([Part::Param(Constraint::One(options))], _)
        | (_, [Part::Param(Constraint::One(options))]) => {
            options.iter().find_map(|option| literal(option.as_bytes()))
        }
        _ => {
            let plain = [a, b].map(plain);
            plain[0].iter().find_map(|x| {
                plain[1].iter().find_map(|y| {
                    let mut search = Search {
                        units: [x, y],
                        alphabet: alphabet([a, b]),
                        text: Vec::new(),
                        seen: HashSet::new(),
                        accept: &both,
                    };
                    let found = search.go([(0, 0); 2]);
                    found.then(|| String::from_utf8_lossy(&search.text).into_owned())
                })
            })
        }
    }
}

/// A number of characters out of a set of ASCII.
#[derive(Debug, Clone, Copy)]
struct Unit {
    set: u128,
    least: u32,
    most: u32,
}

const ALL: u128 = !(1 << b'/' | 1 << b'%' | 1 << b'?' | 1 << b'#' | ((1 << 0x21) - 1) | 1 << 0x7F);

fn set(test: fn(&u8) -> bool) -> u128 {
    (0..128_u8).filter(test).fold(0, |set, b| set | 1 << b)
}

/// Sequences of which every one stands for texts that the parts fit; not all of them.
fn plain(parts: &[Part]) -> Vec<Vec<Unit>> {
    let unit = |set, least, most| Unit { set, least, most };
    let text = |text: &[u8]| -> Vec<Unit> { text.iter().map(|b| unit(1 << b, 1, 1)).collect() };
    let digits = |n| unit(set(u8::is_ascii_digit), n, n);
    let mut all = vec![Vec::new()];
    for part in parts {
        let ways: Vec<Vec<Unit>> = match part {
            Part::Text(own) => vec![text(own)],
            Part::Param(constraint) => match constraint {
                Constraint::One(options) => options.iter().map(|o| text(o.as_bytes())).collect(),
                Constraint::Any => vec![vec![unit(ALL, 1, u32::MAX)]],
                Constraint::Len(lo, hi) => vec![vec![unit(ALL, (*lo).into(), (*hi).into())]],
                Constraint::Hex => vec![vec![unit(set(u8::is_ascii_hexdigit), 1, u32::MAX)]],
                Constraint::Alpha => vec![vec![unit(set(u8::is_ascii_alphabetic), 1, u32::MAX)]],
                Constraint::Alnum => vec![vec![unit(set(u8::is_ascii_alphanumeric), 1, u32::MAX)]],
                Constraint::U32 => vec![vec![unit(set(u8::is_ascii_digit), 1, 9)]],
                Constraint::U64 => vec![vec![unit(set(u8::is_ascii_digit), 1, 19)]],
                Constraint::I64 => vec![vec![
                    unit(1 << b'-', 0, 1),
                    unit(set(u8::is_ascii_digit), 1, 18),
                ]],
                Constraint::Date => {
                    let date = |month: Vec<Unit>, day: Vec<Unit>| {
                        [vec![digits(4)], text(b"-"), month, text(b"-"), day].concat()
                    };
                    // Any day of a long month, and a day of any month.
                    let two = || vec![digits(2)];
                    vec![date(text(b"01"), two()), date(two(), text(b"11"))]
                }
                Constraint::Uuid => {
                    let hex = |n| unit(set(u8::is_ascii_hexdigit), n, n);
                    let groups = [4, 4, 4, 12].map(|n| [text(b"-"), vec![hex(n)]].concat());
                    vec![[vec![hex(8)], groups.concat()].concat()]
                }
            },
        };
        all = all
            .iter()
            .flat_map(|head| ways.iter().map(move |way| [&head[..], way].concat()))
            .take(MAX_PLAIN)
            .collect();
    }
    all
}

/// What stands for all characters: those of the texts, and one of each kind.
fn alphabet(both: [&[Part]; 2]) -> Vec<u8> {
    let mut bytes = b"wa10~-".to_vec();
    for part in both.into_iter().flatten() {
        match part {
            Part::Text(text) => bytes.extend(&**text),
            Part::Param(Constraint::One(options)) => {
                bytes.extend(options.iter().flat_map(|o| o.bytes()));
            }
            Part::Param(_) => {}
        }
    }
    bytes.retain(u8::is_ascii);
    // The first ones first: they make the plainest paths.
    let mut seen = HashSet::new();
    bytes.retain(|b| seen.insert(*b));
    bytes
}

/// How far a sequence has come: the unit, and how much of it.
type At = (usize, u32);

/// The states of both sequences side by side, depth first.
struct Search<'s> {
    units: [&'s [Unit]; 2],
    alphabet: Vec<u8>,
    text: Vec<u8>,
    seen: HashSet<[At; 2]>,
    accept: &'s dyn Fn(&[u8]) -> bool,
}

impl Search<'_> {
    /// The most states looked at, and the longest text: recursion is as deep.
    const MAX_STATES: usize = 4096;
    const MAX_LEN: usize = 512;

    fn go(&mut self, at: [At; 2]) -> bool {
        if self.seen.len() == Self::MAX_STATES || !self.seen.insert(at) {
            return false;
        }
        if (0..2).all(|i| at[i].0 == self.units[i].len()) && (self.accept)(&self.text) {
            return true;
        }
        for i in 0..2 {
            let unit = self.units[i].get(at[i].0);
            if unit.is_some_and(|unit| at[i].1 >= unit.least) {
                let mut next = at;
                next[i] = (at[i].0 + 1, 0);
                if self.go(next) {
                    return true;
                }
            }
        }
        if self.text.len() == Self::MAX_LEN {
            return false;
        }
        for byte in self.alphabet.clone() {
            let next = [0, 1].map(|i| self.step(i, at[i], byte));
            if let [Some(a), Some(b)] = next {
                self.text.push(byte);
                if self.go([a, b]) {
                    return true;
                }
                self.text.pop();
            }
        }
        false
    }

    fn step(&self, i: usize, (unit, count): At, byte: u8) -> Option<At> {
        let Unit { set, least, most } = self.units[i].get(unit)?;
        if set & 1 << byte == 0 || count == *most {
            return None;
        }
        // Beyond the least number only an upper bound matters.
        let counted = if *most == u32::MAX {
            count.saturating_add(1).min(*least)
        } else {
            count + 1
        };
        Some((unit, counted))
    }
}
