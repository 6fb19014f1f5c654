//! Is the replicas' order a witness that the history is linearizable? It is if four kinds of edges form no cycle: each
//! group's order (a read stands between the writes around it), real time (what ended before another was invoked comes
//! first), and each connection's order of dependent commands.

use super::witness::Witness;
use crate::history::{History, Kind, Operation, Outcome};
use psmr_core::command::GroupId;
use std::collections::BTreeMap;

/// Nodes: the operations by position, and then points in time.
#[derive(Default)]
struct Graph {
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize) {
        self.edges[from].push(to);
    }

    /// A cycle, if there is one.
    fn cycle(&self) -> Option<Vec<usize>> {
        let mut incoming = vec![0; self.edges.len()];
        self.edges.iter().flatten().for_each(|to| incoming[*to] += 1);
        let mut free: Vec<usize> = (0..self.edges.len()).filter(|node| incoming[*node] == 0).collect();
        let mut left = self.edges.len();
        while let Some(node) = free.pop() {
            left -= 1;
            for to in &self.edges[node] {
                incoming[*to] -= 1;
                if incoming[*to] == 0 {
                    free.push(*to);
                }
            }
        }
        (left > 0).then(|| self.walk(&incoming))
    }

    /// Walks back from a node that is left until one comes again: every node that is left has a predecessor that is left.
    fn walk(&self, incoming: &[usize]) -> Vec<usize> {
        let mut before = vec![usize::MAX; self.edges.len()];
        for (from, targets) in self.edges.iter().enumerate().filter(|(from, _)| incoming[*from] > 0) {
            targets.iter().for_each(|to| before[*to] = from);
        }
        let mut node = incoming.iter().position(|count| *count > 0).unwrap_or(0);
        let mut path = Vec::new();
        while !path.contains(&node) {
            path.push(node);
            node = before[node];
        }
        let start = path.iter().position(|n| *n == node).unwrap_or(0);
        let mut cycle = path.split_off(start);
        cycle.reverse();
        cycle
    }
}

/// Checks the whole history.
///
/// # Errors
/// The operations of a cycle.
pub fn check(history: &History, witness: &Witness, groups: usize) -> Result<(), String> {
    let mut graph = Graph::default();
    history.operations.iter().for_each(|_| {
        graph.node();
    });
    let places: Vec<Vec<(GroupId, u64)>> = history.operations.iter().map(|o| places_of(o, witness)).collect();
    (0..groups).for_each(|group| add_group(&mut graph, GroupId(group as u8), history, witness, &places));
    add_time(&mut graph, history, &places);
    add_connections(&mut graph, history, &places);
    let Some(cycle) = graph.cycle() else { return Ok(()) };
    let lines: Vec<String> = cycle.iter().map(|node| describe(*node, history, &places)).collect();
    Err(format!("no order explains the history; a cycle of what has to come first:\n  {}", lines.join("\n  ")))
}

fn describe(node: usize, history: &History, places: &[Vec<(GroupId, u64)>]) -> String {
    let Some(o) = history.operations.get(node) else { return "(real time)".into() };
    let (timed, connection) = (if o.request.timed { " timed" } else { "" }, o.connection);
    format!(
        "{:?}{timed} {node} of connection {connection} on {:?} at {:?}, {} to {} us",
        o.kind, o.request.keys, places[node], o.invoked_us, o.ended_us
    )
}

/// Where an operation took effect: nowhere, if it did not or nobody knows.
fn places_of(operation: &Operation, witness: &Witness) -> Vec<(GroupId, u64)> {
    if operation.kind == Kind::Write {
        let place = |group: GroupId| Some((group, witness.place(group, operation.request.id)?));
        return operation.gamma().iter().filter_map(place).collect();
    }
    match &operation.outcome {
        Outcome::Replied(reply) => reply.places.clone(),
        _ => Vec::new(),
    }
}

fn add_group(graph: &mut Graph, group: GroupId, history: &History, witness: &Witness, places: &[Vec<(GroupId, u64)>]) {
    let steps = witness.steps(group.index());
    for pair in steps.windows(2) {
        graph.edge(pair[0].id as usize, pair[1].id as usize);
    }
    for (id, places) in places.iter().enumerate().filter(|(id, _)| history.operations[*id].kind != Kind::Write) {
        for (_, place) in places.iter().filter(|(g, _)| *g == group) {
            if let Some(before) = place.checked_sub(1).and_then(|at| steps.get(at as usize)) {
                graph.edge(before.id as usize, id);
            }
            if let Some(after) = steps.get(*place as usize) {
                graph.edge(id, after.id as usize);
            }
        }
    }
}

fn add_time(graph: &mut Graph, history: &History, places: &[Vec<(GroupId, u64)>]) {
    let mut moments = Vec::new();
    for (id, operation) in history.operations.iter().enumerate().filter(|(id, _)| !places[*id].is_empty()) {
        moments.push((operation.invoked_us, 0, id));
        if matches!(operation.outcome, Outcome::Replied(_)) {
            moments.push((operation.ended_us, 1, id));
        }
    }
    moments.sort_unstable();
    let mut now = graph.node();
    for (_, ended, id) in moments {
        if ended == 0 {
            graph.edge(now, id);
        } else {
            let next = graph.node();
            graph.edge(now, next);
            graph.edge(id, next);
            now = next;
        }
    }
}

fn add_connections(graph: &mut Graph, history: &History, places: &[Vec<(GroupId, u64)>]) {
    /// The last write, and the reads since.
    type Last = (Option<usize>, Vec<usize>);
    let mut last: BTreeMap<(usize, GroupId), Last> = BTreeMap::new();
    for (id, operation) in history.operations.iter().enumerate().filter(|(id, _)| !places[*id].is_empty()) {
        for group in operation.gamma().iter() {
            let (write, reads) = last.entry((operation.connection, group)).or_default();
            // A write whose outcome nobody knows may still come, but only before later writes.
            let waits =
                |before: &&usize| operation.kind == Kind::Write || history.operations[**before].outcome != Outcome::Unknown;
            write.iter().filter(waits).for_each(|before| graph.edge(*before, id));
            if operation.kind == Kind::Write {
                reads.drain(..).for_each(|before| graph.edge(before, id));
                *write = Some(id);
            } else {
                reads.push(id);
            }
        }
    }
}
