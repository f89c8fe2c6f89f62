//! The tree while templates are still being added, and how it is compiled.

use std::{collections::BTreeMap, ops::Range};

use super::{
    constraint::Constraint,
    param::{ParamKey, Tail},
    pattern::{Pattern, Token},
    places::Places,
    rivals::{self, Rivals},
    texts::Texts,
    tree::{Edge, GoesOn, LEAST, LITERAL_MAX, NONE, NOWHERE, Node, Rest, Run, Tree},
};
use crate::scan;

/// Nodes with more parameters than this find them by what stands in the path.
const EACH_MAX: usize = 8;

impl Tree {
    /// Compiles templates, each with the number of its leaf. No two may be equal.
    ///
    /// Besides, sets of leaves between which nothing but the spelling decides if two fit a path.
    pub(crate) fn compile<'p>(
        patterns: impl Iterator<Item = (u32, &'p Pattern)>,
    ) -> (Self, Vec<Rivals>) {
        let mut root = Draft::default();
        for (leaf, pattern) in patterns {
            root.insert(&pattern.tokens, leaf);
        }
        let mut compiler = Compiler::default();
        let way = Way {
            params: 0,
            in_wild: false,
            parent: NOWHERE,
        };
        let index = compiler.place();
        compiler.freeze(index, root, &way);
        let Compiler {
            mut tree, rivals, ..
        } = compiler;
        tree.nodes.shrink_to_fit();
        tree.edges.shrink_to_fit();
        tree.rests.shrink_to_fit();
        tree.indexes.shrink_to_fit();
        (tree, rivals)
    }
}

impl Node {
    pub(super) fn empty() -> Self {
        Self::new(b"", NOWHERE, NOWHERE)
    }

    fn new(literal: &[u8], parent: u32, children: u32) -> Self {
        Self {
            literal: scan::word_from(literal, 0),
            mask: scan::word_from(&[u8::MAX; LITERAL_MAX][..literal.len()], 0),
            len: literal.len() as u8,
            children,
            parent,
            goes_on: GoesOn::Not,
            edges: 0,
            edges_len: 0,
            index: NONE,
            leaf: NONE,
            rest: NONE,
        }
    }
}

#[derive(Debug)]
struct Draft {
    literal: Vec<u8>,
    children: Vec<Self>,
    params: BTreeMap<ParamKey, Self>,
    wild: [Option<Box<Self>>; 2],
    leaf: u32,
    rest: [u32; 2],
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            literal: Vec::new(),
            children: Vec::new(),
            params: BTreeMap::new(),
            wild: [None, None],
            leaf: NONE,
            rest: [NONE; 2],
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
            Token::Rest(least) => self.rest[*least as usize] = leaf,
            Token::Wild(least) => self.wild[*least as usize]
                .get_or_insert_default()
                .insert(rest, leaf),
            Token::Param(key) => match self.params.get_mut(key) {
                Some(target) => target.insert(rest, leaf),
                None => self
                    .params
                    .entry(key.clone())
                    .or_default()
                    .insert(rest, leaf),
            },
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

    pub(super) fn leaves(&self, into: &mut Vec<u32>) {
        let own = [self.leaf, self.rest[0], self.rest[1]];
        into.extend(own.into_iter().filter(|&leaf| leaf != NONE));
        let wild = self.wild.iter().flatten().map(|target| &**target);
        for below in self.children.iter().chain(self.params.values()).chain(wild) {
            below.leaves(into);
        }
    }

    fn only_literals(&self) -> bool {
        self.params.is_empty() && self.rest == [NONE; 2] && self.wild.iter().all(Option::is_none)
    }

    fn only_child(&self) -> bool {
        self.children.len() == 1 && self.leaf == NONE && self.only_literals()
    }
}

#[derive(Default)]
struct Compiler {
    tree: Tree,
    rivals: Vec<Rivals>,
    places: Places,
    /// How many parameters for several segments stand below another.
    nested: u32,
}

impl Compiler {
    /// A place for a node that is no literal child.
    fn place(&mut self) -> usize {
        let index = self.places.one();
        self.tree.nodes.resize(self.places.len(), Node::empty());
        index
    }

    /// Places for literal children with these first bytes: the node's `children`.
    fn children(&mut self, first_bytes: &[u8]) -> u32 {
        let children = self.places.of_children(first_bytes);
        self.tree.nodes.resize(self.places.len(), Node::empty());
        children
    }

    /// Writes a draft to its place in the arena, and what is below it.
    fn freeze(&mut self, mut index: usize, mut draft: Draft, way: &Way) {
        // A node that only leads on to one literal takes that literal over.
        while draft.literal.is_empty() && draft.only_child() {
            draft = draft.children.remove(0);
        }
        let mut parent = way.parent;
        let mut literal = &draft.literal[usize::from(parent != NOWHERE)..];
        while let Some((head, tail)) = literal.split_at_checked(LITERAL_MAX)
            && let Some((&first, after)) = tail.split_first()
        {
            let children = self.children(&[first]);
            self.tree.nodes[index] = Node::new(head, parent, children);
            index = children.wrapping_add(first.into()) as usize;
            (literal, parent) = (after, children);
        }
        draft.children.sort_by_key(|c| c.literal[0]);
        let leaves = |target: &Draft| {
            let mut leaves = Vec::new();
            target.leaves(&mut leaves);
            leaves
        };
        rivals::among(&draft.params, way.params, leaves, &mut self.rivals);

        let first_bytes: Vec<u8> = draft.children.iter().map(|c| c.literal[0]).collect();
        let children = self.children(&first_bytes);
        let mut node = Node {
            goes_on: match draft.only_literals() {
                true => GoesOn::Not,
                false => GoesOn::Otherwise,
            },
            edges: self.tree.edges.len() as u32,
            edges_len: draft.params.len() as u32,
            leaf: draft.leaf,
            ..Node::new(literal, parent, children)
        };
        let mut targets = Vec::with_capacity(draft.params.len());
        for (key, target) in draft.params {
            let open = key.tail == Tail::Segment && key.constraint == Constraint::Any;
            let node = self.place();
            self.tree.edges.push(Edge {
                open,
                key,
                node: node as u32,
            });
            targets.push((node, target, way.in_wild));
        }
        let tree = &mut self.tree;
        let ends = draft.rest == [NONE; 2] && draft.wild.iter().all(Option::is_none);
        if let ([edge], true) = (&tree.edges[node.edges as usize..], ends)
            && edge.open
        {
            node.goes_on = GoesOn::Open;
            node.edges = edge.node;
            tree.edges.pop();
        }
        if targets.len() > EACH_MAX {
            node.index = tree.indexes.len() as u32;
            let runs = runs(&tree.edges, node.edges..tree.edges.len() as u32);
            tree.indexes.push(runs);
        }
        if draft.wild.iter().any(Option::is_some) || draft.rest != [NONE; 2] {
            node.rest = self.tree.rests.len() as u32;
            let mut rest = Rest {
                wild: [None; 2],
                leaves: draft.rest,
            };
            for (target, least) in draft.wild.into_iter().zip(LEAST) {
                let Some(target) = target else { continue };
                // Only one below another can be tried more often than its place in the tree says.
                let number = way.in_wild.then_some(self.nested);
                self.nested += u32::from(way.in_wild);
                let node = self.place();
                rest.wild[least as usize] = Some((node as u32, number));
                targets.push((node, *target, true));
            }
            self.tree.rests.push(rest);
        }
        self.tree.nodes[index] = node;
        for (first, child) in first_bytes.into_iter().zip(draft.children) {
            let index = children.wrapping_add(first.into());
            let way = Way {
                parent: children,
                ..*way
            };
            self.freeze(index as usize, child, &way);
        }
        for (index, target, in_wild) in targets {
            let way = Way {
                params: way.params + 1,
                in_wild,
                parent: NOWHERE,
            };
            self.freeze(index, target, &way);
        }
    }
}

/// How a node is come to.
struct Way {
    /// How many parameters stand before it.
    params: usize,
    /// One of them is for several segments.
    in_wild: bool,
    /// The node's `parent`. A literal child is come to by its first byte, which needs no second look.
    parent: u32,
}

/// Groups many edges, which are sorted, by what finds them.
fn runs(edges: &[Edge], range: Range<u32>) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let tail = |i: u32| edges[i as usize].key.tail.text();
        let (text, last) = tail(start);
        let len = text.len();
        let same = (start..range.end).take_while(|&i| (tail(i).0.len(), tail(i).1) == (len, last));
        let end = start + same.count() as u32;
        match (last, len) {
            (true, 0) => runs.extend(by_constraint(edges, start..end)),
            (false, _) => {
                // Sorted by constraint first; within `one(…)`, by text.
                let is_one =
                    |i: &u32| matches!(edges[*i as usize].key.constraint, Constraint::One(_));
                let ones = start + (start..end).take_while(is_one).count() as u32;
                let mut from = start;
                while from < ones {
                    let to =
                        from + (from..ones).take_while(|&i| tail(i) == tail(from)).count() as u32;
                    runs.extend(by_constraint(edges, from..to));
                    from = to;
                }
                if ones < end {
                    runs.push(Run::Each(ones..end));
                }
            }
            (true, _) => {
                let (mut texts, mut same) = (Vec::new(), Vec::new());
                let mut from = start;
                while from < end {
                    let to = (from..end).take_while(|&i| tail(i) == tail(from)).count() as u32;
                    texts.push((tail(from).0, same.len() as u32));
                    same.push(by_constraint(edges, from..from + to));
                    from += to;
                }
                same.shrink_to_fit();
                let by_text = Texts::new(&texts);
                runs.push(Run::Suffixes { len, by_text, same });
            }
        }
        start = end;
    }
    runs.shrink_to_fit();
    runs
}

/// Edges whose tails are equal; those of `one(…)` come first.
fn by_constraint(edges: &[Edge], range: Range<u32>) -> Vec<Run> {
    let tail = edges[range.start as usize].key.tail.clone();
    let mut values = Vec::new();
    let mut each = range.clone();
    for i in range {
        let Constraint::One(options) = &edges[i as usize].key.constraint else {
            break;
        };
        values.extend(options.iter().map(|o| (o.as_bytes(), i)));
        each.start = i + 1;
    }
    let mut runs = Vec::with_capacity(2);
    if !values.is_empty() {
        let by_value = Texts::new(&values);
        runs.push(Run::Ones { tail, by_value });
    }
    if !each.is_empty() {
        runs.push(Run::Each(each));
    }
    runs.shrink_to_fit();
    runs
}
