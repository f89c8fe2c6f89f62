//! The compiled radix tree: a flat arena, walked without allocating.
//!
//! A node is visited at most once for a path, since the way to it decides where in the path it
//! begins. So a walk is linear in the path and bounded by the tree, backtracking included.

use super::constraint::Constraint;
use super::pattern::{MAX_PARAMS, ParamKey, Pattern, Tail, Token};
use crate::scan;

const NONE: u32 = u32::MAX;
/// Nodes with more literal children than this have a table instead of a scan.
const SCAN_MAX: usize = 4;

/// Where the parameters of a match stand in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spans {
    len: u8,
    spans: [(u16, u16); MAX_PARAMS],
}

impl Spans {
    pub(crate) const EMPTY: Self = Self {
        len: 0,
        spans: [(0, 0); MAX_PARAMS],
    };

    pub(crate) fn as_slice(&self) -> &[(u16, u16)] {
        &self.spans[..usize::from(self.len)]
    }

    #[inline]
    fn push(&mut self, start: usize, end: usize) {
        // Paths are at most `u16::MAX` long and templates have at most `MAX_PARAMS`.
        self.spans[usize::from(self.len)] = (start as u16, end as u16);
        self.len += 1;
    }
}

/// Decides at a leaf whether it is the answer; `false` goes on to the next best.
pub(crate) trait Visit {
    fn leaf(&mut self, leaf: u32) -> bool;
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    params: Vec<ParamEdge>,
    bytes: Vec<u8>,
    jumps: Vec<[u8; 256]>,
    /// Sets of leaves between which nothing but the spelling decides.
    rivals: Vec<(Vec<u32>, Vec<u32>)>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    literal: u32,
    literal_len: u16,
    /// How many literal children; they are contiguous, and so are their first bytes.
    children_len: u8,
    /// Nothing but literals goes on from here: the common case.
    only_literals: bool,
    children: u32,
    /// Index into `bytes` of the children's first bytes, or into `jumps`.
    keys: u32,
    params: u32,
    params_len: u32,
    leaf: u32,
    plus: u32,
    star: u32,
}

#[derive(Debug)]
struct ParamEdge {
    /// Any text up to the end of the segment: the common case.
    open: bool,
    key: ParamKey,
    node: u32,
}

impl Tree {
    /// Compiles templates; `patterns[i]` becomes leaf `i`. No two may be equal.
    pub(crate) fn compile<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let mut root = Draft::default();
        for (leaf, pattern) in patterns.enumerate() {
            root.insert(&pattern.tokens, leaf as u32);
        }
        let mut tree = Self::default();
        tree.nodes.push(Node::EMPTY);
        tree.freeze(0, root);
        tree
    }

    /// What it takes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.nodes.len() * size_of::<Node>()
            + self.params.len() * size_of::<ParamEdge>()
            + self.bytes.len()
            + size_of_val(&*self.jumps)
    }

    /// Pairs of leaf sets whose templates may both fit a path, with nothing to prefer one by.
    pub(crate) fn take_rivals(&mut self) -> Vec<(Vec<u32>, Vec<u32>)> {
        std::mem::take(&mut self.rivals)
    }

    /// Finds the most specific leaf that `visit` takes.
    #[inline]
    pub(crate) fn walk(&self, path: &[u8], visit: &mut impl Visit) -> Option<(u32, Spans)> {
        if self.nodes.is_empty() || path.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut spans = Spans::EMPTY;
        let leaf = self.descend(0, path, 0, &mut spans, visit)?;
        Some((leaf, spans))
    }

    fn descend(
        &self,
        mut index: u32,
        path: &[u8],
        mut at: usize,
        spans: &mut Spans,
        visit: &mut impl Visit,
    ) -> Option<u32> {
        loop {
            let node = &self.nodes[index as usize];
            let start = node.literal as usize;
            let literal = &self.bytes[start..start + usize::from(node.literal_len)];
            if !scan::begins(&path[at..], literal) {
                return None;
            }
            at += literal.len();
            let rest = &path[at..];

            let Some(&first) = rest.first() else {
                if node.leaf != NONE && visit.leaf(node.leaf) {
                    return Some(node.leaf);
                }
                if node.star != NONE && visit.leaf(node.star) {
                    spans.push(at, at);
                    return Some(node.star);
                }
                return None;
            };
            let child = self.child(node, first);
            if node.only_literals {
                index = child?;
                continue;
            }
            let last_resort = node.plus & node.star == NONE;
            let before = spans.len;
            if let Some(child) = child {
                if let Some(leaf) = self.descend(child, path, at, spans, visit) {
                    return Some(leaf);
                }
                spans.len = before;
            }
            if node.params_len > 0 && first != b'/' {
                let segment = &rest[..scan::find(b'/', rest)];
                let edges = node.params as usize;
                let edges = &self.params[edges..edges + node.params_len as usize];
                for (i, edge) in edges.iter().enumerate() {
                    let (end, next) = if edge.open {
                        (segment.len(), segment.len())
                    } else {
                        match edge.key.take_from_segment(segment) {
                            Some(taken) => taken,
                            None => continue,
                        }
                    };
                    spans.push(at, at + end);
                    if i + 1 == edges.len() && last_resort {
                        index = edge.node;
                        at += next;
                        break;
                    }
                    if let Some(leaf) = self.descend(edge.node, path, at + next, spans, visit) {
                        return Some(leaf);
                    }
                    spans.len = before;
                }
                if spans.len > before {
                    continue;
                }
            }
            for leaf in [node.plus, node.star] {
                if leaf != NONE && visit.leaf(leaf) {
                    spans.push(at, path.len());
                    return Some(leaf);
                }
            }
            return None;
        }
    }

    #[inline]
    fn child(&self, node: &Node, first: u8) -> Option<u32> {
        let len = usize::from(node.children_len);
        if len == 0 {
            return None;
        }
        let offset = if len <= SCAN_MAX {
            let keys = node.keys as usize;
            self.bytes[keys..keys + len]
                .iter()
                .position(|&b| b == first)? as u32
        } else {
            match self.jumps[node.keys as usize][usize::from(first)] {
                0 => return None,
                slot => u32::from(slot) - 1,
            }
        };
        Some(node.children + offset)
    }

    /// Writes a draft to its place in the arena, its children next to each other behind it.
    fn freeze(&mut self, index: usize, mut draft: Draft) {
        // A node that only leads on to one literal takes that literal over.
        while draft.literal.is_empty() && draft.only_child() {
            draft = draft.children.remove(0);
        }
        draft.children.sort_by_key(|c| c.literal[0]);
        draft.params.sort_by(|(a, _), (b, _)| a.order(b));
        for (i, (key, target)) in draft.params.iter().enumerate() {
            for (other, rival) in &draft.params[i + 1..] {
                if key.preference(other).is_eq() {
                    self.rivals.push((target.leaves(), rival.leaves()));
                }
            }
        }

        let mut node = Node {
            literal: self.bytes.len() as u32,
            literal_len: draft.literal.len() as u16,
            // Literals are URI text, ASCII: at most 127 children, so slot + 1 fits below too.
            children_len: draft.children.len() as u8,
            only_literals: draft.params.is_empty() && draft.plus & draft.star == NONE,
            children: self.nodes.len() as u32,
            keys: 0,
            params: self.params.len() as u32,
            params_len: draft.params.len() as u32,
            leaf: draft.leaf,
            plus: draft.plus,
            star: draft.star,
        };
        self.bytes.extend_from_slice(&draft.literal);
        if draft.children.len() <= SCAN_MAX {
            node.keys = self.bytes.len() as u32;
            self.bytes
                .extend(draft.children.iter().map(|c| c.literal[0]));
        } else {
            node.keys = self.jumps.len() as u32;
            let mut jump = [0; 256];
            for (slot, child) in draft.children.iter().enumerate() {
                jump[usize::from(child.literal[0])] = slot as u8 + 1;
            }
            self.jumps.push(jump);
        }
        self.nodes[index] = node;

        let children = self.nodes.len();
        self.nodes
            .resize(children + draft.children.len(), Node::EMPTY);
        let mut targets = Vec::with_capacity(draft.params.len());
        for (key, target) in draft.params {
            let open = key.tail == Tail::Segment && key.constraint == Constraint::Any;
            let node = self.nodes.len();
            self.nodes.push(Node::EMPTY);
            self.params.push(ParamEdge {
                open,
                key,
                node: node as u32,
            });
            targets.push((node, target));
        }
        for (i, child) in draft.children.into_iter().enumerate() {
            self.freeze(children + i, child);
        }
        for (index, target) in targets {
            self.freeze(index, target);
        }
    }
}

impl Node {
    const EMPTY: Self = Self {
        literal: 0,
        literal_len: 0,
        children_len: 0,
        only_literals: true,
        children: 0,
        keys: 0,
        params: 0,
        params_len: 0,
        leaf: NONE,
        plus: NONE,
        star: NONE,
    };
}

/// The tree while templates are still being added.
#[derive(Debug)]
struct Draft {
    literal: Vec<u8>,
    children: Vec<Self>,
    params: Vec<(ParamKey, Self)>,
    leaf: u32,
    plus: u32,
    star: u32,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            literal: Vec::new(),
            children: Vec::new(),
            params: Vec::new(),
            leaf: NONE,
            plus: NONE,
            star: NONE,
        }
    }
}

impl Draft {
    fn insert(&mut self, tokens: &[Token], leaf: u32) {
        let Some((token, rest)) = tokens.split_first() else {
            self.leaf = leaf;
            return;
        };
        match token {
            Token::Static(text) => self.child(text).insert(rest, leaf),
            Token::Plus => self.plus = leaf,
            Token::Star => self.star = leaf,
            Token::Param(key) => {
                let found = self.params.iter().position(|(k, _)| k == key);
                let at = found.unwrap_or_else(|| {
                    self.params.push((key.clone(), Self::default()));
                    self.params.len() - 1
                });
                self.params[at].1.insert(rest, leaf);
            }
        }
    }

    /// The node at the end of `text` below this one, made by splitting where needed.
    fn child(&mut self, text: &[u8]) -> &mut Self {
        let Some(&first) = text.first() else {
            return self;
        };
        let Some(at) = self.children.iter().position(|c| c.literal[0] == first) else {
            self.children.push(Self {
                literal: text.to_vec(),
                ..Self::default()
            });
            let last = self.children.len() - 1;
            return &mut self.children[last];
        };
        let child = &mut self.children[at];
        let common = child
            .literal
            .iter()
            .zip(text)
            .take_while(|(a, b)| a == b)
            .count();
        if common < child.literal.len() {
            let tail = child.literal.split_off(common);
            let head = std::mem::take(&mut child.literal);
            let mut lower = std::mem::take(child);
            lower.literal = tail;
            child.literal = head;
            child.children.push(lower);
        }
        child.child(&text[common..])
    }

    fn leaves(&self) -> Vec<u32> {
        let own = [self.leaf, self.plus, self.star]
            .into_iter()
            .filter(|&leaf| leaf != NONE);
        let params = self.params.iter().map(|(_, target)| target);
        own.chain(self.children.iter().chain(params).flat_map(Self::leaves))
            .collect()
    }

    fn only_child(&self) -> bool {
        self.children.len() == 1
            && self.params.is_empty()
            && self.leaf & self.plus & self.star == NONE
    }
}
