//! Routes that can never answer: others are preferred for every path they match.
//!
//! Only two kinds of parameters can be taken from a route piece by piece: `one(…)`, option by option,
//! and `{*rest}`, which is `{+rest}` or nothing. Of any other parameter a narrower one leaves something.
//! So templates with neither are not looked at.

use crate::{
    compiled::chain,
    matcher::{
        constraint::Constraint,
        param::{ParamKey, Tail},
        pattern::{Least, Pattern, Token},
        segment::{Part, Segment, contains, sample, segments},
        spans::Spans,
        tree::{Tree, Visit},
    },
    report::{BuildReport, Problem},
    types::Entry,
};

/// The most pieces of a template that are looked at; if it has more, nothing is certain.
const MAX_PIECES: usize = 64;
/// The most routes that may take a piece.
const MAX_BEFORE: usize = 16;

/// Adds the routes for which it is proven, and as warnings those for which it is likely.
pub(crate) fn find(leaves: &[u32], entries: &[Entry], tree: &Tree, report: &mut BuildReport) {
    for &leaf in leaves {
        let pattern = &entries[leaf as usize].pattern;
        if !pattern.tokens.iter().any(is_divisible) {
            continue;
        }
        let ways: Vec<Vec<Segment>> = segments(&pattern.tokens).into_iter().map(ways).collect();
        let count = ways
            .iter()
            .fold(1_usize, |n, ways| n.saturating_mul(ways.len()));
        // The first piece that is left for this route ends it.
        let before: Option<Vec<_>> = (0..count.min(MAX_PIECES))
            .map(|number| taken_before(&piece(&ways, number), leaf, entries, tree))
            .collect();
        let Some(before) = before else { continue };
        for (_, entry) in chain(entries, leaf) {
            let shadow = |(example, routes): &(String, Vec<u32>)| {
                let covered = (0..32)
                    .map(|shift| 1 << shift)
                    .filter(|bit| entry.takes & bit != 0)
                    .all(|bit| {
                        routes
                            .iter()
                            .any(|&route| chain(entries, route).any(|(_, e)| e.takes & bit != 0))
                    });
                let by = routes.iter().flat_map(|&route| chain(entries, route));
                let mut by = by.filter(|(_, other)| other.takes & entry.takes != 0);
                let (_, by) = by.next().filter(|_| covered)?;
                Some((by.template.to_string(), example.clone()))
            };
            let shadows: Option<Vec<_>> = before.iter().map(shadow).collect();
            let Some((shadowed_by, example)) = shadows.and_then(|s| s.into_iter().next()) else {
                continue;
            };
            let problem = Problem::Unreachable {
                template: entry.template.to_string(),
                shadowed_by,
                example,
            };
            match count <= MAX_PIECES {
                true => report.problems.push(problem),
                false => report.warnings.push(problem),
            }
        }
    }
}

const fn is_divisible(token: &Token) -> bool {
    matches!(
        token,
        Token::Rest(Least::Nothing)
            | Token::Param(ParamKey {
                constraint: Constraint::One(_),
                ..
            })
    )
}

/// A segment with an option in place of each `one(…)`, a rest with and without something.
fn ways(segment: Segment) -> Vec<Segment> {
    match segment {
        Segment::Parts(parts) => literal_parts(&parts)
            .into_iter()
            .map(Segment::Parts)
            .collect(),
        Segment::Rest(Least::Nothing) => {
            vec![Segment::Rest(Least::OneByte), Segment::Parts(Vec::new())]
        }
        segment => vec![segment],
    }
}

/// One of each, by the digits of a number.
fn piece(ways: &[Vec<Segment>], mut number: usize) -> Vec<Segment> {
    ways.iter()
        .map(|ways| {
            let digit = number % ways.len();
            number /= ways.len();
            ways[digit].clone()
        })
        .collect()
}

fn literal_parts(parts: &[Part]) -> Vec<Vec<Part>> {
    let mut all = vec![Vec::new()];
    for part in parts {
        let ways: Vec<Part> = match part {
            Part::Param(Constraint::One(options)) => options
                .iter()
                .map(|o| Part::Text(o.as_bytes().into()))
                .collect(),
            part => vec![part.clone()],
        };
        let add = |head: &Vec<Part>, way: &Part| {
            let mut head = head.clone();
            match (head.last_mut(), way) {
                (Some(Part::Text(text)), Part::Text(more)) => {
                    *text = [&**text, &**more].concat().into()
                }
                _ => head.push(way.clone()),
            }
            head
        };
        all = all
            .iter()
            .flat_map(|head| ways.iter().map(move |way| add(head, way)))
            .take(MAX_PIECES + 1)
            .collect();
    }
    all
}

/// A path of a piece, and the routes that take all of the piece and are preferred; `None` if there is none.
fn taken_before(
    piece: &[Segment],
    leaf: u32,
    entries: &[Entry],
    tree: &Tree,
) -> Option<(String, Vec<u32>)> {
    let path = sample(piece)?;
    let mut before = Before {
        leaf,
        routes: Vec::new(),
    };
    tree.walk(path.as_bytes(), &mut before, &mut { Spans::EMPTY })?;
    let own = &entries[leaf as usize].pattern;
    before.routes.retain(|&route| {
        let other = &entries[route as usize].pattern;
        always_preferred(other, own) && contains(&segments(&other.tokens), piece)
    });
    (!before.routes.is_empty()).then_some((path, before.routes))
}

/// Collects the routes that come before one, if they are few.
struct Before {
    leaf: u32,
    routes: Vec<u32>,
}

impl Visit for Before {
    fn leaf(&mut self, leaf: u32) -> bool {
        if leaf == self.leaf || self.routes.len() == MAX_BEFORE {
            return true;
        }
        self.routes.push(leaf);
        false
    }
}

/// Whether the first is preferred for every path that both fit: what they share before they differ takes
/// the same part of the path in both.
fn always_preferred(a: &Pattern, b: &Pattern) -> bool {
    let mut in_segment = false;
    for (x, y) in a.tokens.iter().zip(&b.tokens) {
        match (x, y) {
            (Token::Param(x), Token::Param(y)) if x != y && x.preference(y).is_eq() => {
                return false;
            }
            _ if x != y => break,
            (Token::Wild(_), _) => return false,
            (Token::Param(key), _) => in_segment = matches!(key.tail, Tail::Infix(_)),
            _ => {}
        }
    }
    // Within a segment what follows decides where the parameter before it ends.
    !in_segment
}
