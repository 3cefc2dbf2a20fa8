//! Loops: persistent cohomology in dimension 1.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::{Bar, Edge, Rips};
use crate::{Budget, TransformError};

/// A triangle i > j > k. Earlier in the filtration is *greater*, so that a binary heap gives the earliest first: shorter, and among
/// equals the one with the larger index.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Triangle {
    diameter: f64,
    index: u64,
}

impl Eq for Triangle {}

impl Ord for Triangle {
    fn cmp(&self, other: &Self) -> Ordering {
        other.diameter.total_cmp(&self.diameter).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Triangle {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Vertices in descending order, packed so that the numbers order as the triples do.
fn index(i: u32, j: u32, k: u32) -> u64 {
    (u64::from(i) << 42) | (u64::from(j) << 21) | u64::from(k)
}

/// The triangles on an edge up to the threshold, the larger index first.
fn cofacets<'a>(rips: &'a Rips<'_>, edge: Edge) -> impl Iterator<Item = Triangle> + 'a {
    let vertices = u32::try_from(rips.count).expect("the number of points is bounded");
    let Edge { length, i, j } = edge;
    (0..vertices).rev().filter(move |&v| v != i && v != j).filter_map(move |v| {
        let diameter = length.max(rips.distance(v, i)).max(rips.distance(v, j));
        let index = match (v > i, v > j) {
            (true, _) => index(v, i, j),
            (false, true) => index(i, v, j),
            (false, false) => index(i, j, v),
        };
        (diameter <= rips.threshold).then_some(Triangle { diameter, index })
    })
}

/// How much of the reduction may be held, in bytes for each entry: an edge's number in a column.
const ENTRY_BYTES: usize = 4;

/// How many triangles are added between two looks at the caller's wish to stop.
const STEPS_PER_CHECK: usize = 64;

struct Reduction<'a> {
    rips: &'a Rips<'a>,
    edges: &'a [Edge],
    /// Which column has this triangle as its pivot.
    pivots: HashMap<u64, u32>,
    /// For each column the edges whose coboundaries were added, besides its own; most are empty.
    added: HashMap<u32, Vec<u32>>,
    entries: usize,
}

pub(super) fn loops(rips: &Rips<'_>, edges: &[Edge], merging: &[bool], budget: &Budget<'_>) -> Result<Vec<Bar>, TransformError> {
    let mut reduction = Reduction { rips, edges, pivots: HashMap::new(), added: HashMap::new(), entries: 0 };
    let mut bars = Vec::new();
    for (column, edge) in edges.iter().enumerate().rev() {
        // An edge that merges two parts kills a class of dimension 0 and cannot begin a loop.
        if merging[column] {
            continue;
        }
        budget.check()?;
        let column = u32::try_from(column).expect("there are at most 2^21 edges");
        let death = reduction.reduce(column, budget)?.map_or(f64::INFINITY, |pivot| pivot.diameter);
        bars.push(Bar { dimension: 1, birth: edge.length, death });
    }
    Ok(bars)
}

impl Reduction<'_> {
    /// Reduces one column and returns its pivot, the triangle that closes the loop.
    fn reduce(&mut self, column: u32, budget: &Budget<'_>) -> Result<Option<Triangle>, TransformError> {
        let edge = self.edges[column as usize];
        // The first triangle as long as the edge is the earliest of all, and if no column has it, nothing needs to be added.
        let emergent = cofacets(self.rips, edge).find(|triangle| triangle.diameter == edge.length);
        if let Some(pivot) = emergent.filter(|pivot| !self.pivots.contains_key(&pivot.index)) {
            self.pivots.insert(pivot.index, column);
            return Ok(Some(pivot));
        }
        let mut working: BinaryHeap<Triangle> = cofacets(self.rips, edge).collect();
        let mut added: Vec<u32> = Vec::new();
        let mut steps = 0;
        while let Some(pivot) = take_pivot(&mut working) {
            let Some(&other) = self.pivots.get(&pivot.index) else {
                self.keep(column, pivot, added, budget)?;
                return Ok(Some(pivot));
            };
            working.push(pivot);
            let before = self.added.get(&other).map_or(&[][..], Vec::as_slice);
            for &summand in [other].iter().chain(before) {
                if steps % STEPS_PER_CHECK == 0 {
                    budget.check()?;
                    budget.afford(working.len(), 2 * size_of::<Triangle>())?;
                }
                steps += 1;
                working.extend(cofacets(self.rips, self.edges[summand as usize]));
                added.push(summand);
            }
        }
        Ok(None)
    }

    fn keep(&mut self, column: u32, pivot: Triangle, added: Vec<u32>, budget: &Budget<'_>) -> Result<(), TransformError> {
        self.pivots.insert(pivot.index, column);
        let odd = odd_times(added);
        self.entries += odd.len();
        budget.afford(self.entries, ENTRY_BYTES)?;
        if !odd.is_empty() {
            self.added.insert(column, odd);
        }
        Ok(())
    }
}

/// Takes the earliest triangle that is there an odd number of times; pairs cancel.
fn take_pivot(working: &mut BinaryHeap<Triangle>) -> Option<Triangle> {
    while let Some(top) = working.pop() {
        let mut odd = true;
        while working.peek().is_some_and(|next| next.index == top.index) {
            working.pop();
            odd = !odd;
        }
        if odd {
            return Some(top);
        }
    }
    None
}

/// What is there an odd number of times: twice is nothing over the field with two elements.
fn odd_times(mut columns: Vec<u32>) -> Vec<u32> {
    columns.sort_unstable();
    columns.chunk_by(|a, b| a == b).filter(|equal| equal.len() % 2 == 1).map(|equal| equal[0]).collect()
}
