//! The compiled radix tree: a flat arena, walked without allocating.
//!
//! The way to a node decides where in the path it begins, but for two kinds of parameters: one before
//! text may end at two places of its segment, one for several segments before any `/`. What is below
//! the first is tried twice at most. What is below the second is tried at most once for every segment
//! of the path, however many such parameters follow each other: see [`Tried`]. So a walk is bounded by
//! the tree times the path, and without parameters for several segments linear in the path.

use std::ops::Range;

use super::{
    param::{ParamKey, Tail},
    pattern::{Least, Pattern},
    spans::Spans,
    texts::Texts,
};
use crate::scan;

pub(super) const NONE: u32 = u32::MAX;
/// How long the literal of a node may be: a longer one takes several nodes.
pub(super) const LITERAL_MAX: usize = 8;
/// Further on than any node.
pub(super) const NOWHERE: u32 = 1 << 31;

/// Decides at a leaf whether it is the answer; `false` goes on to the next best.
pub(crate) trait Visit {
    fn leaf(&mut self, leaf: u32) -> bool;
}

#[derive(Debug)]
pub(crate) struct Tree {
    /// The root first; it is always there. The others as [`Places`](super::places::Places) says.
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
    pub(super) rests: Vec<Rest>,
    pub(super) indexes: Vec<Vec<Run>>,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Without the first byte, if it is a literal child: that one led here. Zeros follow.
    pub(super) literal: u64,
    /// Of the bytes that the literal has.
    pub(super) mask: u64,
    pub(super) len: u8,
    pub(super) goes_on: GoesOn,
    /// What a child's first byte is added to for its index; no other node has the same.
    /// [`NOWHERE`] if there are none.
    pub(super) children: u32,
    /// That number of the node whose literal child this is; [`NOWHERE`] if it is none.
    pub(super) parent: u32,
    /// Index into `edges`; into `nodes`, if it goes on by one open parameter.
    pub(super) edges: u32,
    pub(super) edges_len: u32,
    /// Index into `indexes`, of many edges.
    pub(super) index: u32,
    pub(super) leaf: u32,
    /// Index into `rests`.
    pub(super) rest: u32,
}

impl Node {
    /// Where the path goes on if the literal stands there.
    #[inline]
    fn after(&self, path: &[u8], at: usize) -> Option<usize> {
        if self.mask == 0 {
            return Some(at);
        }
        // No literal has a zero, so none fits what has ended.
        let differs = (scan::word_from(path, at) ^ self.literal) & self.mask;
        (differs == 0).then_some(at + usize::from(self.len))
    }
}

/// How a path goes on after a node, besides by literal children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoesOn {
    Not,
    /// By one parameter of any text up to the end of the segment.
    Open,
    Otherwise,
}

/// A parameter within a segment.
#[derive(Debug)]
pub(super) struct Edge {
    /// Any text up to the end of the segment: the common case.
    pub(super) open: bool,
    pub(super) key: ParamKey,
    pub(super) node: u32,
}

/// The parameters for several segments that begin at a node, in order of preference.
#[derive(Debug)]
pub(super) struct Rest {
    /// Those after which something follows: the node, and for those below another the number in
    /// [`Tried`].
    pub(super) wild: [Option<(u32, Option<u32>)>; 2],
    /// The leaves of those that end the template.
    pub(super) leaves: [u32; 2],
}

pub(super) const LEAST: [Least; 2] = [Least::OneByte, Least::Nothing];

/// Edges of a node, in order of preference.
#[derive(Debug)]
pub(super) enum Run {
    /// Each is tried.
    Each(Range<u32>),
    /// Those with suffixes of one length, found by their text.
    Suffixes {
        len: usize,
        by_text: Texts,
        same: Vec<Vec<Self>>,
    },
    /// Those of `one(…)` with one tail, found by the value that stands before it.
    Ones { tail: Tail, by_value: Texts },
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::empty()],
            edges: Vec::new(),
            rests: Vec::new(),
            indexes: Vec::new(),
        }
    }
}

impl Tree {
    /// What it takes of memory.
    pub(crate) fn heap_bytes(&self) -> usize {
        let keys = self.edges.iter().map(|edge| edge.key.heap_bytes());
        let indexes = self.indexes.iter().map(|runs| runs_bytes(runs));
        size_of_val(&*self.nodes)
            + size_of_val(&*self.edges)
            + size_of_val(&*self.rests)
            + size_of_val(&*self.indexes)
            + keys.chain(indexes).sum::<usize>()
    }

    /// Finds the most specific leaf that `visit` takes.
    #[inline]
    pub(crate) fn walk(
        &self,
        path: &[u8],
        visit: &mut impl Visit,
        spans: &mut Spans,
    ) -> Option<u32> {
        spans.len = 0;
        if path.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut walk = Walk {
            tree: self,
            path,
            spans,
            visit,
            tried: Tried::default(),
        };
        let root = &self.nodes[0];
        walk.descend(root, root.after(path, 0)?)
    }

    #[inline]
    fn child(&self, node: &Node, first: u8) -> Option<&Node> {
        let index = node.children.wrapping_add(first.into());
        let child = self.nodes.get(index as usize)?;
        (child.parent == node.children).then_some(child)
    }
}

fn runs_bytes(runs: &[Run]) -> usize {
    let own = runs.iter().map(|run| match run {
        Run::Each(_) => 0,
        Run::Suffixes { by_text, same, .. } => {
            by_text.heap_bytes()
                + same
                    .iter()
                    .map(|runs| size_of_val(runs) + runs_bytes(runs))
                    .sum::<usize>()
        }
        Run::Ones { tail, by_value } => tail.text().0.len() + by_value.heap_bytes(),
    });
    size_of_val(runs) + own.sum::<usize>()
}

/// Looks at one template alone: the values it takes of a path that it fits.
pub(crate) fn read(pattern: &Pattern, path: &[u8]) -> Option<Spans> {
    struct Any;
    impl Visit for Any {
        fn leaf(&mut self, _: u32) -> bool {
            true
        }
    }
    let (tree, _) = Tree::compile(std::iter::once((0, pattern)));
    let mut spans = Spans::EMPTY;
    tree.walk(path, &mut Any, &mut spans).map(|_| spans)
}

struct Walk<'w, V> {
    tree: &'w Tree,
    path: &'w [u8],
    spans: &'w mut Spans,
    visit: &'w mut V,
    tried: Tried,
}

impl<'w, V: Visit> Walk<'w, V> {
    /// From a node at whose end the path stands.
    fn descend(&mut self, mut node: &'w Node, mut at: usize) -> Option<u32> {
        let (tree, path) = (self.tree, self.path);
        loop {
            let Some(&first) = path.get(at) else {
                return self.end(node);
            };
            let child = tree.child(node, first);
            let child = child.and_then(|child| Some((child, child.after(path, at + 1)?)));
            if node.goes_on == GoesOn::Not {
                (node, at) = child?;
                continue;
            }
            if let Some((child, at)) = child {
                let before = self.spans.len;
                if let Some(leaf) = self.descend(child, at) {
                    return Some(leaf);
                }
                self.spans.len = before;
            }
            if node.goes_on == GoesOn::Otherwise {
                return self.otherwise(node, at);
            }
            // Never empty: the segment, and so the parameter.
            if first == b'/' {
                return None;
            }
            let end = at + scan::find(b'/', &path[at..]);
            self.spans.push(at, end);
            node = &tree.nodes[node.edges as usize];
            at = node.after(path, end)?;
        }
    }

    /// Nothing is left of the path.
    fn end(&mut self, node: &Node) -> Option<u32> {
        if node.leaf != NONE && self.visit.leaf(node.leaf) {
            return Some(node.leaf);
        }
        let leaf = self.tree.rests.get(node.rest as usize)?.leaves[Least::Nothing as usize];
        if leaf == NONE || !self.visit.leaf(leaf) {
            return None;
        }
        self.spans.push(self.path.len(), self.path.len());
        Some(leaf)
    }

    /// Something is left of the path, and goes to one of the node's parameters.
    #[inline(never)]
    fn otherwise(&mut self, node: &'w Node, at: usize) -> Option<u32> {
        let (tree, rest) = (self.tree, &self.path[at..]);
        if node.edges_len > 0 && rest[0] != b'/' {
            let segment = &rest[..scan::find(b'/', rest)];
            let edges = node.edges as usize;
            let edges = &tree.edges[edges..edges + node.edges_len as usize];
            let found = match tree.indexes.get(node.index as usize) {
                Some(runs) => self.runs(runs, at, segment),
                None => edges.iter().find_map(|edge| self.edge(edge, at, segment)),
            };
            if found.is_some() {
                return found;
            }
        }
        if node.rest == NONE {
            return None;
        }
        self.rest(&tree.rests[node.rest as usize], at)
    }

    /// Leaves the spans as they were if nothing is found.
    #[inline]
    fn edge(&mut self, edge: &Edge, at: usize, segment: &[u8]) -> Option<u32> {
        let before = self.spans.len;
        let places = match edge.open {
            true => [Some((segment.len(), segment.len())), None],
            false => edge.key.places(segment),
        };
        let node = &self.tree.nodes[edge.node as usize];
        for (end, next) in places.into_iter().flatten() {
            let Some(after) = node.after(self.path, at + next) else {
                continue;
            };
            self.spans.push(at, at + end);
            if let Some(leaf) = self.descend(node, after) {
                return Some(leaf);
            }
            self.spans.len = before;
        }
        None
    }

    fn runs(&mut self, runs: &[Run], at: usize, segment: &[u8]) -> Option<u32> {
        let tree = self.tree;
        runs.iter().find_map(|run| match run {
            Run::Each(range) => tree.edges[range.start as usize..range.end as usize]
                .iter()
                .find_map(|edge| self.edge(edge, at, segment)),
            Run::Suffixes { len, by_text, same } => {
                let end = segment.len().checked_sub(*len).filter(|&end| end > 0)?;
                let runs = by_text.find(&segment[end..])?;
                self.runs(&same[runs as usize], at, segment)
            }
            Run::Ones { tail, by_value } => {
                let places = tail.places(segment).into_iter().flatten();
                let mut edges = places.filter_map(|(end, _)| by_value.find(&segment[..end]));
                edges.find_map(|edge| self.edge(&tree.edges[edge as usize], at, segment))
            }
        })
    }

    /// Something is left of the path, and goes to a parameter for several segments.
    fn rest(&mut self, ways: &Rest, at: usize) -> Option<u32> {
        for (wild, least) in ways.wild.iter().zip(LEAST) {
            if let Some((node, number)) = *wild
                && let Some(leaf) = self.wild(node, number, least, at)
            {
                return Some(leaf);
            }
        }
        let leaf = ways
            .leaves
            .into_iter()
            .find(|&leaf| leaf != NONE && self.visit.leaf(leaf))?;
        self.spans.push(at, self.path.len());
        Some(leaf)
    }

    fn wild(&mut self, node: u32, number: Option<u32>, least: Least, at: usize) -> Option<u32> {
        if number.is_some_and(|number| self.tried.contains(number)) {
            return None;
        }
        let (node, before) = (&self.tree.nodes[node as usize], self.spans.len);
        // It begins with `/`.
        let literal = node.literal.to_le_bytes();
        let literal = &literal[..usize::from(node.len)];
        let mut end = match least {
            Least::OneByte => at + 1,
            Least::Nothing => at,
        };
        while let Some(left) = self.path.get(end..)
            && let Some(found) = memchr::memmem::find(left, literal)
        {
            end += found;
            self.spans.push(at, end);
            if let Some(leaf) = self.descend(node, end + literal.len()) {
                return Some(leaf);
            }
            self.spans.len = before;
            end += 1;
        }
        if let Some(number) = number {
            self.tried.insert(number);
        }
        None
    }
}

/// The parameters for several segments that were tried in vain. Where one is tried again it begins
/// further on in the path, and what it could take then it could take before: it fails again.
#[derive(Default)]
struct Tried {
    /// Of the numbers below 64.
    bits: u64,
    /// Of those from 64.
    more: Option<Box<Self>>,
}

impl Tried {
    fn contains(&self, number: u32) -> bool {
        match number.checked_sub(64) {
            None => self.bits & 1 << number != 0,
            Some(number) => self.more.as_ref().is_some_and(|more| more.contains(number)),
        }
    }

    fn insert(&mut self, number: u32) {
        match number.checked_sub(64) {
            None => self.bits |= 1 << number,
            Some(number) => self.more.get_or_insert_default().insert(number),
        }
    }
}
