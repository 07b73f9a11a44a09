//! Who must come before whom, and circles of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::lists::{Fate, List, Lists};

/// Edges from which a circle is sought; the shortest found is shown.
const CIRCLES_TRIED_MAX: usize = 500;

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// Its element is directly before the other's.
    WriteWrite,
    /// Its element is the last that the other read.
    WriteRead,
    /// The other's element is the first that it did not read.
    ReadWrite,
}

/// Edges between transactions, by number.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: BTreeMap<usize, BTreeSet<(usize, Edge)>>,
}

impl Graph {
    /// All edges that the reads show.
    pub(super) fn new(lists: &Lists<'_>) -> Self {
        let mut graph = Self::default();
        for list in lists.by_key.values() {
            graph.add_list(list);
        }
        let failed = |index: &usize| lists.transactions[*index].fate == Fate::Failed;
        graph.edges.retain(|from, _| !failed(from));
        graph
            .edges
            .values_mut()
            .for_each(|targets| targets.retain(|(to, _)| !failed(to)));
        graph
    }

    fn add_list(&mut self, list: &List<'_>) {
        let by = |element: &&str| list.writers.get(element).map(|writer| writer.by);
        for pair in list.order.windows(2) {
            if let (Some(first), Some(second)) = (by(&pair[0]), by(&pair[1])) {
                self.add(first, second, Edge::WriteWrite);
            }
        }
        for read in list
            .reads
            .iter()
            .filter(|read| list.order.starts_with(&read.elements))
        {
            if let Some(writer) = read.elements.last().and_then(by) {
                self.add(writer, read.by, Edge::WriteRead);
            }
            if let Some(writer) = list.order.get(read.elements.len()).and_then(by) {
                self.add(read.by, writer, Edge::ReadWrite);
            }
        }
    }

    fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges.entry(from).or_default().insert((to, edge));
        }
    }

    /// A shortest circle that starts with an edge of kind `first` and goes on with edges that `rest` allows.
    pub(super) fn circle(&self, first: Edge, rest: impl Fn(Edge) -> bool) -> Option<Vec<usize>> {
        let component = self.components(|edge| edge == first || rest(edge));
        let starts = self
            .edges
            .iter()
            .flat_map(|(from, targets)| targets.iter().map(move |(to, edge)| (*from, *to, *edge)));
        let within =
            starts.filter(|(from, to, edge)| *edge == first && component.get(from) == component.get(to));
        let circles = within.take(CIRCLES_TRIED_MAX).filter_map(|(from, to, _)| {
            let mut path = self.path(to, from, &rest)?;
            path.insert(0, from);
            path.pop();
            Some(path)
        });
        circles.min_by_key(Vec::len)
    }

    /// The fewest steps from `from` to `to`, both included.
    fn path(&self, from: usize, to: usize, allows: &impl Fn(Edge) -> bool) -> Option<Vec<usize>> {
        let mut came = BTreeMap::from([(from, from)]);
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if at == to {
                let mut path = vec![to];
                while let Some(before) = path
                    .last()
                    .and_then(|last| came.get(last))
                    .filter(|_| path.last() != Some(&from))
                {
                    path.push(*before);
                }
                path.reverse();
                return Some(path);
            }
            for (next, _) in self
                .edges
                .get(&at)
                .into_iter()
                .flatten()
                .filter(|(_, edge)| allows(*edge))
            {
                if !came.contains_key(next) {
                    came.insert(*next, at);
                    queue.push_back(*next);
                }
            }
        }
        None
    }

    /// The strongly connected component of every node (Kosaraju's two walks, without recursion).
    fn components(&self, allows: impl Fn(Edge) -> bool) -> BTreeMap<usize, usize> {
        let mut forward: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut backward: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, targets) in &self.edges {
            for (to, _) in targets.iter().filter(|(_, edge)| allows(*edge)) {
                forward.entry(*from).or_default().push(*to);
                backward.entry(*to).or_default().push(*from);
            }
        }
        let mut component = BTreeMap::new();
        for root in finish_order(&forward).into_iter().rev() {
            let mut stack = vec![root];
            while let Some(node) = stack.pop() {
                if let Entry::Vacant(place) = component.entry(node) {
                    place.insert(root);
                    stack.extend(backward.get(&node).into_iter().flatten());
                }
            }
        }
        component
    }
}

/// Every node, each after all that can be reached from it and were not reached before.
fn finish_order(targets: &BTreeMap<usize, Vec<usize>>) -> Vec<usize> {
    let mut entered = BTreeSet::new();
    let mut finished = Vec::new();
    for root in targets.keys() {
        let mut stack = vec![(*root, 0)];
        while let Some((node, next)) = stack.pop() {
            if next == 0 && !entered.insert(node) {
                continue;
            }
            match targets.get(&node).and_then(|targets| targets.get(next)) {
                Some(target) => stack.extend([(node, next + 1), (*target, 0)]),
                None => finished.push(node),
            }
        }
    }
    finished
}
