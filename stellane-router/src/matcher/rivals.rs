//! Parameters at one place between which nothing decides.

use std::collections::BTreeMap;

use super::{constraint::Constraint, param::ParamKey};

/// Sets of leaves; where one of each of two sets fit a path, their parameter number `param` is the
/// first at which they differ, and nothing but the spelling decides.
#[derive(Debug)]
pub(crate) struct Rivals {
    pub(crate) param: usize,
    pub(crate) sets: Vec<Vec<u32>>,
}

/// The rivals among the parameters of a node; `leaves` are those of the templates that go on with one.
///
/// Not every pair is looked at: of texts of one length a segment ends with one only, and `one(…)` and
/// `len(…)` are sorted by what they accept.
pub(super) fn among<T>(
    params: &BTreeMap<ParamKey, T>,
    param: usize,
    leaves: impl Fn(&T) -> Vec<u32>,
    into: &mut Vec<Rivals>,
) {
    if params.len() < 2 {
        return;
    }
    let mut rival = |sets: Vec<&T>| {
        into.push(Rivals {
            param,
            sets: sets.into_iter().map(&leaves).collect(),
        });
    };
    let all: Vec<(&ParamKey, &T)> = params.iter().collect();
    for group in all.chunk_by(|(a, _), (b, _)| {
        a.preference(b).is_eq() && (a.tail == b.tail || !a.tail.text().1)
    }) {
        if group.len() < 2 {
            continue;
        }
        match &group[0].0.constraint {
            Constraint::One(_) => {
                for (a, b) in overlapping_options(group) {
                    rival(vec![group[a].1, group[b].1]);
                }
            }
            Constraint::Len(..) if group[0].0.tail.text().1 => {
                for (i, (a, target)) in group.iter().enumerate() {
                    // Sorted by their least length.
                    for (b, other) in &group[i + 1..] {
                        match (&a.constraint, &b.constraint) {
                            (Constraint::Len(_, high), Constraint::Len(low, _)) if low <= high => {
                                rival(vec![*target, *other]);
                            }
                            _ => break,
                        }
                    }
                }
            }
            _ => rival(group.iter().map(|(_, target)| *target).collect()),
        }
    }
}

/// Pairs of `one(…)` of which an option and its text may begin one segment, or be one.
fn overlapping_options<T>(group: &[(&ParamKey, T)]) -> Vec<(usize, usize)> {
    let infix = !group[0].0.tail.text().1;
    let mut texts = Vec::new();
    for (i, (key, _)) in group.iter().enumerate() {
        if let Constraint::One(options) = &key.constraint {
            let tail = key.tail.text().0;
            texts.extend(options.iter().map(|o| ([o.as_bytes(), tail].concat(), i)));
        }
    }
    texts.sort_unstable();
    // Texts that begin another come right before it.
    let mut begun = Vec::<&(Vec<u8>, usize)>::new();
    let mut pairs = Vec::new();
    for text in &texts {
        let fits = |other: &(Vec<u8>, usize)| match infix {
            true => text.0.starts_with(&other.0),
            false => text.0 == other.0,
        };
        while begun.last().is_some_and(|other| !fits(other)) {
            begun.pop();
        }
        let others = begun.iter().filter(|other| other.1 != text.1);
        pairs.extend(others.map(|other| (other.1.min(text.1), other.1.max(text.1))));
        begun.push(text);
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}
