//! Optimal assignment of nodes to partitions: a minimum-cost flow.
//!
//! Every partition needs the same number of distinct nodes, and every node has [`Bounds`]. Of all such
//! assignments this module finds one with the fewest pairs of nodes that share a zone, and of those one that
//! adds the fewest nodes to partitions that did not have them. Both results are exact, not approximate.
//!
//! The flow runs from each partition through its zones and nodes to a sink. It starts with the assignments
//! that can stay at no cost. Every remaining place then takes a cheapest augmenting path (successive shortest
//! paths; Ahuja, Magnanti, Orlin: Network Flows, section 9.7). The table implies the arcs, since there is one
//! from each partition to each node. A search stops at its first free node, so that most searches visit one
//! partition only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::share::Bounds;

/// Costs by rank: no sum of lower costs reaches the next rank. A path has at most a few thousand arcs.
const COST_OF_NEW: i64 = 1;
const COST_OF_SHARED_ZONE: i64 = 1 << 20;
const GAIN_OF_LEAST: i64 = 1 << 40;

/// Input of the assignment. Nodes are numbers below `bounds.len()`.
pub(super) struct Problem {
    /// Number of distinct nodes that each partition needs.
    pub(super) needs: usize,
    /// Bounds of the number of partitions of each node.
    pub(super) bounds: Vec<Bounds>,
    /// The zone of each node; `None` if no other node is in it.
    pub(super) zones: Vec<Option<usize>>,
    /// For each partition the nodes that cost nothing because they have it already; all of them are allowed.
    pub(super) present: Vec<Vec<usize>>,
    /// For each partition the nodes that it may have; `None` allows every node.
    pub(super) allowed: Option<Vec<Vec<usize>>>,
}

/// Returns for each partition its nodes, in no particular order.
pub(super) fn assign(problem: &Problem) -> Vec<Vec<usize>> {
    let mut flow = Flow::start(problem);
    for partition in 0..problem.present.len() {
        while flow.nodes[partition].len() < problem.needs {
            if let Some(node) = flow.nearest(partition) {
                flow.add(partition, node);
                continue;
            }
            // A path exists as long as the bounds can be met at all.
            let Some(last) = flow.search(partition) else { break };
            flow.augment(last);
        }
    }
    flow.nodes
}

/// A vertex of the flow network: partitions first, then nodes, then the zones of each partition.
type Vertex = usize;

const NO_VERTEX: Vertex = usize::MAX;

/// Meaning of a vertex.
enum Place {
    Partition(usize),
    Node(usize),
    Zone { partition: usize, zone: usize },
}

struct Flow<'a> {
    problem: &'a Problem,
    /// The members of each zone; the last entry has all nodes.
    groups: Vec<Vec<usize>>,
    /// The nodes of each partition.
    nodes: Vec<Vec<usize>>,
    /// The partitions of each node.
    partitions: Vec<Vec<usize>>,
    /// Potentials that keep every arc's reduced cost, `cost + potential(from) - potential(to)`, non-negative.
    potential: Vec<i64>,
    search: Search,
}

/// The state of one search for a shortest path.
struct Search {
    /// Number of the search: a vertex whose `seen` differs has no distance yet.
    number: u32,
    seen: Vec<u32>,
    distance: Vec<i64>,
    parent: Vec<Vertex>,
    reached: Vec<Vertex>,
    /// The nodes of each group whose distance may still fall.
    open: Vec<Vec<usize>>,
    /// Vertices at the present distance, first in, first out: the path with the fewest arcs wins.
    near: VecDeque<Vertex>,
    far: BinaryHeap<Reverse<(i64, Vertex)>>,
    /// The nearest path to the sink so far: distance and last node.
    sink: Option<(i64, usize)>,
}

impl<'a> Flow<'a> {
    /// Creates the flow of all assignments that can stay at no cost: no zone twice, no node above its least.
    fn start(problem: &'a Problem) -> Self {
        let (partition_count, node_count) = (problem.present.len(), problem.bounds.len());
        let zone_count = problem.zones.iter().flatten().max().map_or(0, |zone| zone + 1);
        let mut groups = vec![Vec::new(); zone_count];
        for (node, zone) in problem.zones.iter().enumerate() {
            zone.iter().for_each(|zone| groups[*zone].push(node));
        }
        groups.push((0..node_count).collect());
        let mut stays = vec![Vec::new(); node_count];
        for (partition, present) in problem.present.iter().enumerate() {
            let mut kept: Vec<usize> = Vec::with_capacity(problem.needs);
            for &node in present {
                let zone = problem.zones[node];
                let clash = kept.iter().any(|k| *k == node || (zone.is_some() && problem.zones[*k] == zone));
                if !clash && kept.len() < problem.needs {
                    kept.push(node);
                    stays[node].push(partition);
                }
            }
        }
        let mut nodes = vec![Vec::with_capacity(problem.needs); partition_count];
        for (node, partitions) in stays.iter_mut().enumerate() {
            // A hash decides which partitions a node gives up, so that every pair of nodes keeps common
            // partitions.
            partitions.sort_by_key(|partition| draw(*partition, node));
            partitions.truncate(problem.bounds[node].least);
            partitions.iter().for_each(|partition| nodes[*partition].push(node));
        }
        let vertices = partition_count + node_count + partition_count * zone_count;
        let search = Search::new(vertices);
        Self { problem, groups, nodes, partitions: stays, potential: vec![0; vertices], search }
    }

    fn node_vertex(&self, node: usize) -> Vertex {
        self.nodes.len() + node
    }

    /// Returns the vertex through which a partition reaches the members of a zone in which it has a node
    /// already. Other zones need no vertex: the partition reaches their nodes directly.
    fn zone_vertex(&self, partition: usize, zone: usize) -> Vertex {
        self.nodes.len() + self.partitions.len() + partition * (self.groups.len() - 1) + zone
    }

    fn place(&self, vertex: Vertex) -> Place {
        let (first_node, first_zone) = (self.nodes.len(), self.nodes.len() + self.partitions.len());
        if vertex < first_node {
            return Place::Partition(vertex);
        }
        if vertex < first_zone {
            return Place::Node(vertex - first_node);
        }
        let (index, zone_count) = (vertex - first_zone, self.groups.len() - 1);
        Place::Zone { partition: index / zone_count, zone: index % zone_count }
    }

    fn cost(&self, partition: usize, node: usize) -> i64 {
        if self.problem.present[partition].contains(&node) { 0 } else { COST_OF_NEW }
    }

    fn count_in_zone(&self, partition: usize, zone: usize) -> usize {
        self.nodes[partition].iter().filter(|node| self.problem.zones[**node] == Some(zone)).count()
    }

    /// Returns the cost of the arc from a node to the sink, if the node may have one more partition. The
    /// sink's potential stays at minus the gain.
    fn sink_cost(&self, node: usize) -> Option<i64> {
        let (bounds, has) = (self.problem.bounds[node], self.partitions[node].len());
        let potential = self.potential[self.node_vertex(node)];
        (has < bounds.most).then_some(potential + if has < bounds.least { 0 } else { GAIN_OF_LEAST })
    }

    /// Returns a node that the partition can have by a path of reduced cost zero: no path is cheaper. Of
    /// several nodes it returns the one that lacks most, so that no node is left with only partitions that it
    /// already has.
    fn nearest(&self, partition: usize) -> Option<usize> {
        let all = 0..self.partitions.len();
        let free = |node: &usize| {
            let Some(sink) = self.sink_cost(*node) else {
                return false;
            };
            let zone = self.problem.zones[*node];
            let shared = zone.is_some_and(|zone| self.count_in_zone(partition, zone) > 0);
            let cost = self.cost(partition, *node) + if shared { COST_OF_SHARED_ZONE } else { 0 };
            let way = cost + self.potential[partition] - self.potential[self.node_vertex(*node)];
            way + sink == 0 && !self.nodes[partition].contains(node)
        };
        let lack = |node: &usize| {
            let bounds = self.problem.bounds[*node];
            bounds.least as i64 - self.partitions[*node].len() as i64
        };
        match &self.problem.allowed {
            Some(allowed) => allowed[partition].iter().copied().filter(free).max_by_key(lack),
            None => {
                let start = draw(partition, self.nodes[partition].len()) as usize % all.len().max(1);
                (start..all.end).chain(0..start).filter(free).max_by_key(lack)
            }
        }
    }

    /// Finds a cheapest path from a partition to a node that may have one more partition, and adjusts the
    /// potentials. Returns that node; `parent` contains the path.
    fn search(&mut self, source: usize) -> Option<usize> {
        self.search.begin(source, &self.groups);
        let mut now = 0;
        loop {
            while let Some(vertex) = self.search.near.pop_front() {
                self.expand(vertex, now);
                if self.search.sink.is_some_and(|(distance, _)| distance <= now) {
                    return self.settle(now);
                }
            }
            let next = self.search.next_distance();
            match (next, self.search.sink) {
                (None, None) => return None,
                (next, Some((distance, _))) if next.is_none_or(|next| distance <= next) => {
                    return self.settle(distance);
                }
                (Some(next), _) => now = next,
                (None, Some(_)) => return None,
            }
            self.search.take_near(now);
        }
    }

    /// Ends a search: vertices nearer than the sink get potentials that keep reduced costs non-negative.
    fn settle(&mut self, distance: i64) -> Option<usize> {
        for &vertex in &self.search.reached {
            let nearer = self.search.distance[vertex] - distance;
            if nearer < 0 {
                self.potential[vertex] += nearer;
            }
        }
        self.search.sink.map(|(_, node)| node)
    }

    fn expand(&mut self, vertex: Vertex, now: i64) {
        match self.place(vertex) {
            Place::Partition(partition) => {
                for index in 0..self.nodes[partition].len() {
                    if let Some(zone) = self.problem.zones[self.nodes[partition][index]] {
                        self.relax(vertex, self.zone_vertex(partition, zone), COST_OF_SHARED_ZONE, now);
                    }
                }
                self.expand_group(vertex, partition, None, now);
            }
            Place::Zone { partition, zone } => {
                self.expand_group(vertex, partition, Some(zone), now);
                let alone = self.count_in_zone(partition, zone) == 1;
                self.relax(vertex, partition, if alone { 0 } else { -COST_OF_SHARED_ZONE }, now);
            }
            // A node can give up a partition that it has.
            Place::Node(node) => {
                for index in 0..self.partitions[node].len() {
                    let partition = self.partitions[node][index];
                    let zone = self.problem.zones[node];
                    let to = zone.map_or(partition, |zone| self.zone_vertex(partition, zone));
                    self.relax(vertex, to, -self.cost(partition, node), now);
                }
            }
        }
    }

    /// Tries every allowed node that does not have the partition: those of `zone` or, if it is `None`, those
    /// of all zones that the partition does not use yet.
    fn expand_group(&mut self, from: Vertex, partition: usize, zone: Option<usize>, now: i64) {
        if let Some(allowed) = &self.problem.allowed {
            allowed[partition].iter().for_each(|node| self.try_node(from, partition, *node, now));
            return;
        }
        let group = zone.unwrap_or(self.groups.len() - 1);
        let mut open = std::mem::take(&mut self.search.open[group]);
        for &node in &open {
            if zone.is_some()
                || self.problem.zones[node].is_none_or(|z| self.count_in_zone(partition, z) == 0)
            {
                self.try_node(from, partition, node, now);
            }
        }
        let first_node = self.nodes.len();
        open.retain(|node| !self.search.is_settled(first_node + node, now));
        self.search.open[group] = open;
    }

    fn try_node(&mut self, from: Vertex, partition: usize, node: usize, now: i64) {
        if self.nodes[partition].contains(&node) {
            return;
        }
        let vertex = self.node_vertex(node);
        self.relax(from, vertex, self.cost(partition, node), now);
        if let Some(cost) = self.sink_cost(node) {
            self.search.offer_sink(self.search.distance[vertex] + cost, node);
        }
    }

    fn relax(&mut self, from: Vertex, to: Vertex, cost: i64, now: i64) {
        let reduced = cost + self.potential[from] - self.potential[to];
        debug_assert!(reduced >= 0, "an arc has a negative reduced cost");
        self.search.reach(to, now + reduced, from, now);
    }

    fn add(&mut self, partition: usize, node: usize) {
        if let Some(zone) = self.problem.zones[node]
            && self.count_in_zone(partition, zone) == 0
        {
            // The zone gets a vertex; with this potential the reduced costs of all its arcs are non-negative.
            let vertex = self.zone_vertex(partition, zone);
            self.potential[vertex] = self.potential[partition];
        }
        self.nodes[partition].push(node);
        self.partitions[node].push(partition);
    }

    /// Moves one unit of flow along the path that ends at `last`.
    fn augment(&mut self, last: usize) {
        let mut vertex = self.node_vertex(last);
        loop {
            let from = self.search.parent[vertex];
            if from == NO_VERTEX {
                return;
            }
            match (self.place(from), self.place(vertex)) {
                (Place::Partition(partition) | Place::Zone { partition, .. }, Place::Node(node)) => {
                    self.add(partition, node);
                }
                (Place::Node(node), Place::Partition(partition) | Place::Zone { partition, .. }) => {
                    self.nodes[partition].retain(|other| *other != node);
                    self.partitions[node].retain(|other| *other != partition);
                }
                _ => {}
            }
            vertex = from;
        }
    }
}

impl Search {
    fn new(vertices: usize) -> Self {
        Self {
            number: 0,
            seen: vec![0; vertices],
            distance: vec![0; vertices],
            parent: vec![NO_VERTEX; vertices],
            reached: Vec::new(),
            open: Vec::new(),
            near: VecDeque::new(),
            far: BinaryHeap::new(),
            sink: None,
        }
    }

    fn begin(&mut self, source: Vertex, groups: &[Vec<usize>]) {
        self.number += 1;
        self.reached.clear();
        self.open.resize(groups.len(), Vec::new());
        self.open.iter_mut().zip(groups).for_each(|(open, group)| open.clone_from(group));
        self.near.clear();
        self.far.clear();
        self.sink = None;
        self.reach(source, 0, NO_VERTEX, 0);
    }

    /// Records a path to a vertex if it is shorter than the known one.
    fn reach(&mut self, vertex: Vertex, distance: i64, parent: Vertex, now: i64) {
        if self.seen[vertex] != self.number {
            self.seen[vertex] = self.number;
            self.reached.push(vertex);
        } else if self.distance[vertex] <= distance {
            return;
        }
        self.distance[vertex] = distance;
        self.parent[vertex] = parent;
        if distance == now {
            self.near.push_back(vertex);
        } else {
            self.far.push(Reverse((distance, vertex)));
        }
    }

    fn is_settled(&self, vertex: Vertex, now: i64) -> bool {
        self.seen[vertex] == self.number && self.distance[vertex] <= now
    }

    fn offer_sink(&mut self, distance: i64, node: usize) {
        if self.sink.is_none_or(|(best, _)| distance < best) {
            self.sink = Some((distance, node));
        }
    }

    fn next_distance(&mut self) -> Option<i64> {
        while let Some(Reverse((distance, vertex))) = self.far.peek() {
            if self.distance[*vertex] == *distance {
                return Some(*distance);
            }
            self.far.pop();
        }
        None
    }

    fn take_near(&mut self, now: i64) {
        while let Some(Reverse((distance, vertex))) = self.far.peek().copied() {
            if distance > now {
                return;
            }
            self.far.pop();
            if self.distance[vertex] == now {
                self.near.push_back(vertex);
            }
        }
    }
}

/// Returns a pseudo-random number that is the same on every node.
fn draw(partition: usize, seed: usize) -> u64 {
    xxh3_64_with_seed(&(partition as u64).to_le_bytes(), seed as u64)
}
