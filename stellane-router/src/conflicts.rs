//! Pairs of routes that answer one request with nothing to prefer one by.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    compiled::chain,
    matcher::{
        constraint::Constraint,
        pattern::{Pattern, Token},
        rivals::Rivals,
        segment::{Part, Segment, common_path, sample, segments},
        tree::read,
    },
    report::{BuildReport, Problem},
    types::Entry,
};

/// More than anyone reads.
const MAX_CONFLICTS: usize = 100;

/// Adds the conflicts among templates that differ first in rival parameters.
pub(crate) fn find(rivals: &[Rivals], entries: &[Entry], report: &mut BuildReport) {
    let limit = report.problems.len() + MAX_CONFLICTS;
    for Rivals { param, sets } in rivals {
        let items: Vec<Item<'_>> = sets
            .iter()
            .enumerate()
            .flat_map(|(set, leaves)| leaves.iter().map(move |&leaf| (set, leaf)))
            .filter_map(|(set, leaf)| Item::new(set, leaf, *param, &entries[leaf as usize].pattern))
            .collect();
        let mut emit = |a: &Item<'_>, b: &Item<'_>| {
            report.problems.extend(conflict(a, b, entries));
            report.problems.len() < limit
        };
        let items: Vec<&Item<'_>> = items.iter().collect();
        if !join(&items, None, 1, &mut emit) {
            return;
        }
    }
}

/// A template that goes on with one of several rival parameters.
struct Item<'t> {
    /// Which of them.
    set: usize,
    leaf: u32,
    /// What stands before the rival.
    before: &'t [Token],
    /// The segment from the rival on, and those after it.
    segments: Vec<Segment>,
}

impl<'t> Item<'t> {
    fn new(set: usize, leaf: u32, param: usize, pattern: &'t Pattern) -> Option<Self> {
        let params = pattern.tokens.iter().enumerate();
        let mut params = params.filter(|(_, token)| !matches!(token, Token::Static(_)));
        let (at, _) = params.nth(param)?;
        let (before, from) = pattern.tokens.split_at(at);
        Some(Self {
            set,
            leaf,
            before,
            segments: segments(from),
        })
    }
}

type Emit<'e, 't> = &'e mut dyn FnMut(&Item<'t>, &Item<'t>) -> bool;

/// Emits the pairs of `a` and `b`, or within `a`, whose segments from `depth` on may fit one path.
/// Segment by segment, so that templates with other literal text never meet. `false` if `emit` said so.
fn join<'t>(a: &[&Item<'t>], b: Option<&[&Item<'t>]>, depth: usize, emit: Emit<'_, 't>) -> bool {
    let set = a.first().map(|item| item.set);
    if a.iter()
        .chain(b.unwrap_or_default())
        .all(|item| Some(item.set) == set)
    {
        return true;
    }
    let (groups, others) = (groups_of(a, depth), b.map(|b| groups_of(b, depth)));
    for (&segment, own) in &groups {
        // Within `a` also with itself.
        let same = match &others {
            None => Some(None),
            Some(others) => others.get(&segment).map(|other| Some(&other[..])),
        };
        let go_on = match (same, segment) {
            (None, _) => true,
            (Some(other), Some(Segment::Parts(_))) => join(own, other, depth + 1, emit),
            (Some(other), _) => each(own, other.unwrap_or(own), depth, emit),
        };
        if !go_on {
            return false;
        }
    }
    let sides = [Some(&groups), others.as_ref()];
    let sides: Vec<_> = sides
        .into_iter()
        .flatten()
        .map(|side| side.iter().collect::<Vec<_>>())
        .collect();
    for ((side, i), (against, j)) in ends_alike(&sides) {
        let (x, own) = sides[side][i];
        let (y, other) = sides[against][j];
        let go_on = match (x, y) {
            // Within `b` is not asked for, and with itself is done.
            _ if x == y || (side == against && sides.len() > 1) => true,
            (Some(x @ Segment::Parts(_)), Some(y @ Segment::Parts(_))) => {
                common_path(std::slice::from_ref(x), std::slice::from_ref(y)).is_none()
                    || join(own, Some(other), depth + 1, emit)
            }
            _ => each(own, other, depth, emit),
        };
        if !go_on {
            return false;
        }
    }
    true
}

/// Pairs of segments of which one may end like the other, whatever stands before. So many segments
/// that differ in their last text, or in the options of `one(…)`, are never compared.
fn ends_alike(
    sides: &[Vec<(&Option<&Segment>, &Vec<&Item<'_>>)>],
) -> BTreeSet<((usize, usize), (usize, usize))> {
    // Reversed, and whether that is all of the segment.
    let mut ends = Vec::new();
    for (side, groups) in sides.iter().enumerate() {
        for (i, (segment, _)) in groups.iter().enumerate() {
            let mut push = |text: &[u8], whole| {
                let text: Vec<u8> = text.iter().rev().copied().collect();
                ends.push((text, whole, (side, i)));
            };
            match segment {
                None => {}
                Some(Segment::Wild(_) | Segment::Rest(_)) => push(b"", false),
                Some(Segment::Parts(parts)) => match &parts[..] {
                    [] => push(b"", true),
                    [Part::Text(text)] => push(text, true),
                    [Part::Param(Constraint::One(options))] => {
                        options
                            .iter()
                            .for_each(|option| push(option.as_bytes(), true));
                    }
                    [.., Part::Text(text)] => push(text, false),
                    _ => push(b"", false),
                },
            }
        }
    }
    ends.sort_unstable();
    let mut pairs = BTreeSet::new();
    // Of a text those with which it ends, shortest first.
    let mut open: Vec<&(Vec<u8>, bool, (usize, usize))> = Vec::new();
    for end in &ends {
        while open
            .last()
            .is_some_and(|other| !end.0.starts_with(&other.0))
        {
            open.pop();
        }
        // What is whole and shorter is another text.
        let fits = |other: &&&(Vec<u8>, bool, (usize, usize))| !other.1 || other.0 == end.0;
        let fitting = open.iter().filter(fits).map(|other| other.2);
        pairs.extend(fitting.map(|other| (other.min(end.2), other.max(end.2))));
        open.push(end);
    }
    pairs
}

type Groups<'g, 't> = BTreeMap<Option<&'g Segment>, Vec<&'g Item<'t>>>;

fn groups_of<'g, 't>(items: &[&'g Item<'t>], depth: usize) -> Groups<'g, 't> {
    let mut groups = Groups::new();
    for item in items {
        let segment = item.segments.get(depth);
        groups.entry(segment).or_default().push(item);
    }
    groups
}

/// Pairs whose segments from `depth` on end, or cannot be looked at one by one.
fn each<'t>(a: &[&Item<'t>], b: &[&Item<'t>], depth: usize, emit: Emit<'_, 't>) -> bool {
    let within = std::ptr::eq(a, b);
    a.iter().enumerate().all(|(i, x)| {
        b.iter().skip(if within { i + 1 } else { 0 }).all(|y| {
            let after = [x, y].map(|item| item.segments.get(depth..).unwrap_or_default());
            x.set == y.set || common_path(after[0], after[1]).is_none() || emit(x, y)
        })
    })
}

fn conflict(a: &Item<'_>, b: &Item<'_>, entries: &[Entry]) -> Option<Problem> {
    let (a, b) = if a.leaf < b.leaf { (a, b) } else { (b, a) };
    let overlap = |x: &Entry, y: &Entry| x.methods & y.methods != 0 || x.takes_any || y.takes_any;
    let (first, second) = chain(entries, a.leaf).find_map(|(_, x)| {
        let (_, y) = chain(entries, b.leaf).find(|(_, y)| overlap(x, y))?;
        Some((x, y))
    })?;
    let start = sample(&segments(a.before))?;
    let example = start + &common_path(&a.segments, &b.segments)?;
    let spans = [first, second].map(|entry| read(&entry.pattern, example.as_bytes()));
    let [Some(x), Some(y)] = &spans else {
        return None;
    };
    Pattern::specificity((&first.pattern, x), (&second.pattern, y))
        .is_err()
        .then(|| Problem::Conflict {
            first: first.template.to_string(),
            second: second.template.to_string(),
            example,
            remedy: "neither is more specific: give one a constraint the other does not meet",
        })
}
