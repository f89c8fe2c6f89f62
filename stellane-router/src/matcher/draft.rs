//! The tree while templates are still being added, and how it is compiled.

use std::collections::BTreeMap;
use std::ops::Range;

use super::constraint::Constraint;
use super::param::{ParamKey, Tail};
use super::pattern::{Pattern, Token};
use super::rivals::{self, Rivals};
use super::texts::Texts;
use super::tree::{Edge, GoesOn, LEAST, NONE, Node, Rest, Run, SCAN_MAX, Tree};

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
        compiler.freeze(0, root, &Way::default());
        let Compiler {
            mut tree, rivals, ..
        } = compiler;
        tree.nodes.shrink_to_fit();
        tree.edges.shrink_to_fit();
        tree.rests.shrink_to_fit();
        tree.jumps.shrink_to_fit();
        tree.indexes.shrink_to_fit();
        (tree, rivals)
    }
}

impl Node {
    pub(super) fn empty() -> Self {
        Self {
            literal: Box::default(),
            children_len: 0,
            goes_on: GoesOn::Not,
            keys: [0; SCAN_MAX],
            children: 0,
            jump: NONE,
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
    /// How many parameters for several segments stand below another.
    nested: u32,
}

impl Compiler {
    /// Writes a draft to its place in the arena, its children next to each other behind it.
    fn freeze(&mut self, index: usize, mut draft: Draft, way: &Way) {
        // A node that only leads on to one literal takes that literal over.
        while draft.literal.is_empty() && draft.only_child() {
            draft = draft.children.remove(0);
        }
        draft.children.sort_by_key(|c| c.literal[0]);
        let leaves = |target: &Draft| {
            let mut leaves = Vec::new();
            target.leaves(&mut leaves);
            leaves
        };
        rivals::among(&draft.params, way.params, leaves, &mut self.rivals);

        let tree = &mut self.tree;
        let mut node = Node {
            literal: draft.literal[usize::from(way.first)..].into(),
            // Literals are URI text, ASCII: at most 127 children, so slot + 1 fits below too.
            children_len: draft.children.len() as u8,
            goes_on: match draft.only_literals() {
                true => GoesOn::Not,
                false => GoesOn::Otherwise,
            },
            children: tree.nodes.len() as u32,
            edges: tree.edges.len() as u32,
            edges_len: draft.params.len() as u32,
            leaf: draft.leaf,
            ..Node::empty()
        };
        let first_bytes = draft.children.iter().map(|c| c.literal[0]);
        if draft.children.len() <= SCAN_MAX {
            node.keys = [first_bytes.clone().next().unwrap_or_default(); SCAN_MAX];
            node.keys
                .iter_mut()
                .zip(first_bytes)
                .for_each(|(key, byte)| *key = byte);
        } else {
            node.jump = tree.jumps.len() as u32;
            let mut jump = [0; 256];
            for (slot, byte) in first_bytes.enumerate() {
                jump[usize::from(byte)] = slot as u8 + 1;
            }
            tree.jumps.push(jump);
        }

        let mut targets = Vec::with_capacity(draft.params.len());
        let children = tree.nodes.len();
        tree.nodes
            .resize(children + draft.children.len(), Node::empty());
        for (key, target) in draft.params {
            let open = key.tail == Tail::Segment && key.constraint == Constraint::Any;
            let node = tree.nodes.len();
            tree.nodes.push(Node::empty());
            tree.edges.push(Edge {
                open,
                key,
                node: node as u32,
            });
            targets.push((node, target, way.in_wild));
        }
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
            node.rest = tree.rests.len() as u32;
            let mut rest = Rest {
                wild: [None; 2],
                leaves: draft.rest,
            };
            for (target, least) in draft.wild.into_iter().zip(LEAST) {
                let Some(target) = target else { continue };
                // Only one below another can be tried more often than its place in the tree says.
                let number = way.in_wild.then_some(self.nested);
                self.nested += u32::from(way.in_wild);
                rest.wild[least as usize] = Some((tree.nodes.len() as u32, number));
                targets.push((tree.nodes.len(), *target, true));
                tree.nodes.push(Node::empty());
            }
            tree.rests.push(rest);
        }
        tree.nodes[index] = node;
        for (i, child) in draft.children.into_iter().enumerate() {
            self.freeze(
                children + i,
                child,
                &Way {
                    first: true,
                    ..*way
                },
            );
        }
        for (index, target, in_wild) in targets {
            let way = Way {
                params: way.params + 1,
                in_wild,
                first: false,
            };
            self.freeze(index, target, &way);
        }
    }
}

/// How a node is come to.
#[derive(Default)]
struct Way {
    /// How many parameters stand before it.
    params: usize,
    /// One of them is for several segments.
    in_wild: bool,
    /// By its first byte, which needs no second look.
    first: bool,
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
