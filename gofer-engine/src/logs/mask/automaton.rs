//! Finds any of many texts in a stream, in time that follows the stream and nothing else: an
//! automaton after Aho and Corasick (1975).
//!
//! ```text
//! trie of all texts; each node knows the node of its longest proper suffix that is in the trie, too (`fail`)
//! a byte: go to the child of that byte; where there is none, to the child of the suffix's node, and so on to the root
//! ```
//!
//! Off the shelf it comes without what a stream needs most: how much of the end may still become a
//! match (`open`), which would have to be searched for after each piece. And there a node lists
//! every text that ends at it, which for a secret of one character, line by line longer, is the
//! square of its size; here it knows the longest. What is off the shelf finds where a text may
//! begin.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

/// Where nothing has begun.
pub(super) const ROOT: u32 = 0;
/// As a child: there is none, since the root is nobody's.
const NONE: u32 = 0;
/// A node has a list of so many children, and a table for more: a list of hundreds would be walked
/// at each byte.
const MAX_LISTED: usize = 32;
/// How much of each text is looked for where nothing has begun.
const PREFIX_BYTES: usize = 6;
/// Beginnings are looked for by a table of all their states, which is fastest, as long as they are
/// no more than these.
const MAX_TABLED_PREFIXES: usize = 512;

/// There is one for each byte of the texts that they do not share.
struct Node {
    byte: u8,
    child: u32,
    sibling: u32,
    fail: u32,
    /// Length of the longest text that ends here; 0 is none.
    matched: u32,
    /// Length of the longest suffix that more bytes may make a text.
    open: u32,
}

impl Node {
    fn new(byte: u8) -> Self {
        Self { byte, child: NONE, sibling: NONE, fail: ROOT, matched: 0, open: 0 }
    }
}

pub(super) struct Automaton {
    nodes: Vec<Node>,
    root: Box<[u32; 256]>,
    /// Children beyond the list.
    more: HashMap<u32, Box<[u32; 256]>>,
    /// The beginnings of all texts.
    prefixes: Option<AhoCorasick>,
}

impl Automaton {
    /// Of these texts, none of them empty.
    pub(super) fn new(texts: &[Vec<u8>]) -> Self {
        let root = Box::new([NONE; 256]);
        let mut automaton = Self {
            nodes: vec![Node::new(0)],
            root,
            more: HashMap::new(),
            prefixes: prefixes(texts),
        };
        for text in texts {
            automaton.insert(text);
        }
        automaton.link();
        automaton
    }

    fn insert(&mut self, text: &[u8]) {
        let mut at = ROOT;
        for byte in text {
            at = match self.child(at, *byte) {
                NONE => self.add(at, *byte),
                child => child,
            };
        }
        self.nodes[at as usize].matched =
            u32::try_from(text.len()).expect("a text is far below 4 GiB");
    }

    fn add(&mut self, parent: u32, byte: u8) -> u32 {
        let new = u32::try_from(self.nodes.len()).expect("all texts are far below 4 GiB");
        let mut node = Node::new(byte);
        if parent == ROOT {
            self.root[usize::from(byte)] = new;
        } else if self.listed(parent).count() < MAX_LISTED {
            node.sibling = std::mem::replace(&mut self.nodes[parent as usize].child, new);
        } else {
            self.more.entry(parent).or_insert_with(|| Box::new([NONE; 256]))[usize::from(byte)] =
                new;
        }
        self.nodes.push(node);
        new
    }

    /// The children in the list of a node.
    fn listed(&self, parent: u32) -> impl Iterator<Item = u32> {
        let first = self.nodes[parent as usize].child;
        std::iter::successors(Some(first), |child| Some(self.nodes[*child as usize].sibling))
            .take_while(|child| *child != NONE)
    }

    fn child(&self, parent: u32, byte: u8) -> u32 {
        if parent == ROOT {
            return self.root[usize::from(byte)];
        }

        let mut walked = 0;
        let mut child = self.nodes[parent as usize].child;
        while child != NONE {
            let node = &self.nodes[child as usize];
            if node.byte == byte {
                return child;
            }
            child = node.sibling;
            walked += 1;
        }

        if walked < MAX_LISTED {
            NONE
        } else {
            self.more.get(&parent).map_or(NONE, |more| more[usize::from(byte)])
        }
    }

    fn children(&self, parent: u32) -> Vec<u32> {
        let table = if parent == ROOT { Some(&self.root) } else { self.more.get(&parent) };
        let tabled = table
            .into_iter()
            .flat_map(|table| table.iter().copied().filter(|child| *child != NONE));
        self.listed(parent).chain(tabled).collect()
    }

    /// Sets what follows from the suffixes, shorter texts first.
    fn link(&mut self) {
        let mut queue = self.children(ROOT);
        let mut depth = 1;
        while !queue.is_empty() {
            let mut next = Vec::new();
            for parent in queue {
                let fail = self.nodes[parent as usize].fail;
                let children = self.children(parent);
                let of_suffix = &self.nodes[fail as usize];
                let (matched, open) = (of_suffix.matched, of_suffix.open);
                let node = &mut self.nodes[parent as usize];

                // Its own text is longer than any that is a suffix of it.
                node.matched = node.matched.max(matched);
                node.open = if children.is_empty() { open } else { depth };
                for child in &children {
                    let byte = self.nodes[*child as usize].byte;
                    self.nodes[*child as usize].fail = self.step(fail, byte);
                }

                next.extend(children);
            }

            queue = next;
            depth += 1;
        }
    }

    /// The node after one more byte.
    fn step(&self, mut at: u32, byte: u8) -> u32 {
        loop {
            match self.child(at, byte) {
                NONE if at == ROOT => return ROOT,
                NONE => at = self.nodes[at as usize].fail,
                child => return child,
            }
        }
    }

    /// How many of the last bytes that led to this node may be the beginning of a text that is
    /// longer.
    pub(super) fn open(&self, at: u32) -> usize {
        self.nodes[at as usize].open as usize
    }

    /// Goes on from a node with the bytes after `from`, tells every match by where it lies in the
    /// text, the longest of those with the same end, and returns the node at the end.
    pub(super) fn scan(
        &self,
        mut at: u32,
        text: &[u8],
        mut from: usize,
        mut found: impl FnMut(Range<usize>),
    ) -> u32 {
        while from < text.len() {
            if at == ROOT {
                from = self.next_beginning(text, from);
                if from == text.len() {
                    break;
                }
            }

            at = self.step(at, text[from]);
            from += 1;
            let matched = self.nodes[at as usize].matched as usize;

            if matched > 0 {
                found(from - matched..from);
            }
        }
        at
    }

    /// Where a text may begin, or the end.
    fn next_beginning(&self, text: &[u8], from: usize) -> usize {
        let Some(prefixes) = &self.prefixes else { return text.len() };
        // In the last bytes there may be the beginning of a beginning, also before a whole one.
        let last = text.len().saturating_sub(PREFIX_BYTES - 1).max(from);
        prefixes.find(Input::new(text).range(from..)).map_or(last, |found| found.start().min(last))
    }
}

fn prefixes(texts: &[Vec<u8>]) -> Option<AhoCorasick> {
    let prefixes: BTreeSet<&[u8]> =
        texts.iter().map(|text| &text[..text.len().min(PREFIX_BYTES)]).collect();
    let kind = match prefixes.len() {
        ..=MAX_TABLED_PREFIXES => AhoCorasickKind::DFA,
        _ => AhoCorasickKind::ContiguousNFA,
    };
    let mut builder = AhoCorasick::builder();
    builder.match_kind(MatchKind::LeftmostFirst).kind(Some(kind));
    (!prefixes.is_empty())
        .then(|| builder.build(prefixes).expect("prefixes are far below the automaton's limits"))
}
