//! A B+-tree of our own, to be compared with: from hashes to values, wide nodes that are one allocation each, hashes apart
//! from values, and searches that begin where an evenly spread hash would be.

use arrayvec::ArrayVec;

/// The most entries of a leaf, and the most children of an inner node.
const FANOUT: usize = 32;

/// A node with fewer entries is merged with a neighbour, or shares with it if both together would be nearly full.
const MERGE_BELOW: usize = FANOUT / 4;
const MERGED_MAX: usize = FANOUT * 3 / 4;

/// An inner node may have one child too many for a moment, before it is split.
const NODE_MAX: usize = FANOUT + 1;

/// An ordered map from `u64`.
pub struct Tree<V> {
    root: Node<V>,
}

enum Node<V> {
    Leaf(Box<Leaf<V>>),
    Inner(Box<Inner<V>>),
}

struct Leaf<V> {
    /// Ascending.
    numbers: ArrayVec<u64, FANOUT>,
    values: ArrayVec<V, FANOUT>,
}

struct Inner<V> {
    /// One less than children; number i is above everything in child i, and not above anything in child i+1.
    separators: ArrayVec<u64, FANOUT>,
    children: ArrayVec<Node<V>, NODE_MAX>,
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Tree { root: Node::Leaf(Box::new(Leaf { numbers: ArrayVec::new(), values: ArrayVec::new() })) }
    }
}

impl<V> Tree<V> {
    /// The value of `number`.
    #[inline]
    pub fn get(&self, number: &u64) -> Option<&V> {
        let number = *number;
        let (mut node, mut low, mut high) = (&self.root, 0, u64::MAX);
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_near(number, low, high);
                    low = if at > 0 { inner.separators[at - 1] } else { low };
                    high = inner.separators.get(at).map_or(high, |s| *s);
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => {
                    let at = first_not_below(&leaf.numbers, number, low, high);
                    return (leaf.numbers.get(at) == Some(&number)).then(|| &leaf.values[at]);
                }
            }
        }
    }

    /// The value of `number`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, number: &u64) -> Option<&mut V> {
        let number = *number;
        let (mut node, mut low, mut high) = (&mut self.root, 0, u64::MAX);
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_near(number, low, high);
                    low = if at > 0 { inner.separators[at - 1] } else { low };
                    high = inner.separators.get(at).map_or(high, |s| *s);
                    node = &mut inner.children[at];
                }
                Node::Leaf(leaf) => {
                    let at = first_not_below(&leaf.numbers, number, low, high);
                    return (leaf.numbers.get(at) == Some(&number)).then(|| &mut leaf.values[at]);
                }
            }
        }
    }

    /// Sets the value of `number` and gives the one before.
    pub fn insert(&mut self, number: u64, value: V) -> Option<V> {
        let (replaced, split) = self.root.insert(number, value);
        if let Some((separator, right)) = split {
            let left = std::mem::replace(&mut self.root, right);
            let right = std::mem::replace(&mut self.root, Node::Inner(Box::new(Inner::empty())));
            if let Node::Inner(root) = &mut self.root {
                root.separators.push(separator);
                root.children.extend([left, right]);
            }
        }
        replaced
    }

    /// Removes `number` and gives its value.
    pub fn remove(&mut self, number: &u64) -> Option<V> {
        let removed = self.root.remove(*number)?;
        if let Node::Inner(root) = &mut self.root {
            if root.children.len() == 1 {
                if let Some(only) = root.children.pop() {
                    self.root = only;
                }
            }
        }
        Some(removed)
    }
}

/// The first place in `numbers`, which are ascending and from `low` to `high`, whose number is not below `number`. The search
/// begins where the number is if they are spread evenly, as hashes are: it then touches one or two cache lines.
#[inline]
fn first_not_below(numbers: &[u64], number: u64, low: u64, high: u64) -> usize {
    let span = (high - low) >> 32;
    let guess = number.saturating_sub(low) >> 32;
    let mut at = (guess * numbers.len() as u64).checked_div(span).unwrap_or(0).min(numbers.len() as u64) as usize;
    while at < numbers.len() && numbers[at] < number {
        at += 1;
    }
    while at > 0 && numbers[at - 1] >= number {
        at -= 1;
    }
    at
}

impl<V> Leaf<V> {
    fn position(&self, number: u64) -> usize {
        self.numbers.partition_point(|n| *n < number)
    }

    fn insert(&mut self, at: usize, number: u64, value: V) {
        self.numbers.insert(at, number);
        self.values.insert(at, value);
    }

    /// Moves everything from `at` on to a new leaf.
    fn split(&mut self, at: usize) -> Leaf<V> {
        let right = Leaf { numbers: self.numbers.drain(at..).collect(), values: self.values.drain(at..).collect() };
        right
    }
}

impl<V> Inner<V> {
    fn empty() -> Inner<V> {
        Inner { separators: ArrayVec::new(), children: ArrayVec::new() }
    }

    /// As `child_of`, for a search that knows the bounds of this node.
    #[inline]
    fn child_near(&self, number: u64, low: u64, high: u64) -> usize {
        let at = first_not_below(&self.separators, number, low, high);
        at + usize::from(self.separators.get(at) == Some(&number))
    }

    fn child_of(&self, number: u64) -> usize {
        self.separators.partition_point(|s| *s <= number)
    }

    fn split(&mut self) -> (u64, Inner<V>) {
        let middle = self.children.len() / 2;
        let right =
            Inner { separators: self.separators.drain(middle..).collect(), children: self.children.drain(middle..).collect() };
        let separator = self.separators.remove(middle - 1);
        (separator, right)
    }

    /// Merges child `at`, which has become small, with a neighbour, or lets it have some of the neighbour's entries.
    fn merge_around(&mut self, at: usize) {
        let left = at.saturating_sub(1);
        let right = left + 1;
        if right >= self.children.len() {
            return;
        }
        if self.children[left].size() + self.children[right].size() > MERGED_MAX {
            let (left_node, right_node) = self.children.split_at_mut(right);
            self.separators[left] = left_node[left].share(self.separators[left], &mut right_node[0]);
        } else {
            let separator = self.separators.remove(left);
            let from = self.children.remove(right);
            self.children[left].append(separator, from);
        }
    }
}

impl<V> Node<V> {
    fn size(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.numbers.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    /// Appends the entries of the right neighbour.
    fn append(&mut self, separator: u64, right: Node<V>) {
        match (self, right) {
            (Node::Leaf(leaf), Node::Leaf(mut right)) => {
                leaf.numbers.extend(right.numbers.drain(..));
                leaf.values.extend(right.values.drain(..));
            }
            (Node::Inner(inner), Node::Inner(mut right)) => {
                inner.separators.push(separator);
                inner.separators.extend(right.separators.drain(..));
                inner.children.extend(right.children.drain(..));
            }
            _ => unreachable!("all leaves are at the same depth"),
        }
    }

    /// Moves entries between this node and its right neighbour until they have equally many; gives what separates them then.
    fn share(&mut self, mut separator: u64, right: &mut Node<V>) -> u64 {
        while self.size() > right.size() + 1 {
            match (&mut *self, &mut *right) {
                (Node::Leaf(leaf), Node::Leaf(right)) => {
                    if let (Some(number), Some(value)) = (leaf.numbers.pop(), leaf.values.pop()) {
                        right.insert(0, number, value);
                        separator = number;
                    }
                }
                (Node::Inner(inner), Node::Inner(right)) => {
                    if let (Some(before), Some(child)) = (inner.separators.pop(), inner.children.pop()) {
                        right.separators.insert(0, separator);
                        right.children.insert(0, child);
                        separator = before;
                    }
                }
                _ => unreachable!("all leaves are at the same depth"),
            }
        }
        while right.size() > self.size() + 1 {
            match (&mut *self, &mut *right) {
                (Node::Leaf(leaf), Node::Leaf(right)) => {
                    leaf.insert(leaf.numbers.len(), right.numbers.remove(0), right.values.remove(0));
                    separator = right.numbers[0];
                }
                (Node::Inner(inner), Node::Inner(right)) => {
                    inner.separators.push(separator);
                    inner.children.push(right.children.remove(0));
                    separator = right.separators.remove(0);
                }
                _ => unreachable!("all leaves are at the same depth"),
            }
        }
        separator
    }

    /// Moves the right half to a new node, and gives what separates them.
    fn split_in_half(&mut self) -> (u64, Node<V>) {
        match self {
            Node::Leaf(leaf) => {
                let right = leaf.split(leaf.numbers.len() / 2);
                (right.numbers[0], Node::Leaf(Box::new(right)))
            }
            Node::Inner(inner) => {
                let (separator, right) = inner.split();
                (separator, Node::Inner(Box::new(right)))
            }
        }
    }

    /// Also gives the right half and what separates it, if the node had to be split.
    fn insert(&mut self, number: u64, value: V) -> (Option<V>, Option<(u64, Node<V>)>) {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.position(number);
                if leaf.numbers.get(at) == Some(&number) {
                    return (Some(std::mem::replace(&mut leaf.values[at], value)), None);
                }
                if leaf.numbers.len() < FANOUT {
                    leaf.insert(at, number, value);
                    return (None, None);
                }
                // What arrives in ascending order leaves full leaves behind.
                let middle = if at == FANOUT { FANOUT } else { FANOUT / 2 };
                let mut right = leaf.split(middle);
                if at < middle || (at == middle && middle < FANOUT) {
                    leaf.insert(at, number, value);
                } else {
                    right.insert(at - middle, number, value);
                }
                (None, Some((right.numbers[0], Node::Leaf(Box::new(right)))))
            }
            Node::Inner(inner) => {
                let at = inner.child_of(number);
                let (replaced, split) = inner.children[at].insert(number, value);
                let Some((separator, right)) = split else { return (replaced, None) };
                inner.separators.insert(at, separator);
                inner.children.insert(at + 1, right);
                if inner.children.len() <= FANOUT {
                    return (replaced, None);
                }
                (replaced, Some(self.split_in_half()))
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<V> {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.position(number);
                if leaf.numbers.get(at) != Some(&number) {
                    return None;
                }
                leaf.numbers.remove(at);
                let removed = leaf.values.remove(at);
                Some(removed)
            }
            Node::Inner(inner) => {
                let at = inner.child_of(number);
                let removed = inner.children[at].remove(number)?;
                if inner.children[at].size() < MERGE_BELOW {
                    inner.merge_around(at);
                }
                Some(removed)
            }
        }
    }
}
