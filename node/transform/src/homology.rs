//! Persistent homology of a point cloud in dimensions 0 and 1, over the field with two elements.
//!
//! The filtration is that of Vietoris and Rips: at scale r, a set of points is a simplex if its points are at most r apart. A class
//! of dimension 0 is a connected part, one of dimension 1 a loop; each is born at one scale and dies at another.
//!
//! Dimension 0 is Kruskal's algorithm. Dimension 1 is persistent cohomology as in Bauer, "Ripser: efficient computation of
//! Vietoris–Rips persistence barcodes", J. Appl. Comput. Topol. 5 (2021): columns are edges in reverse order, those that merge
//! parts are cleared, triangles are enumerated and not stored, and an edge whose first new triangle is as long as itself
//! is finished at once (section 3.5, emergent pairs).

use std::cmp::Ordering;

use crate::catalogue::Transform;
use crate::fourier::one;
use crate::hyperbolic::CURVATURE;
use crate::inputs::{Points, take};
use crate::pairwise::{METRIC, Metric, Pairwise};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, Operation, Params, Precision, TransformError};

mod loops;

/// The most points: the distances are held as a matrix, and loops take time with up to the cube and more.
pub const POINTS_MAX: usize = 2048;

/// The homology of a cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct Homology {
    /// Where the distances come from.
    pub cloud: Cloud,
    /// Whether to look for loops too.
    pub loops: bool,
    /// The largest scale, if one was given.
    pub threshold: Option<f64>,
    /// How the result is to be written.
    pub precision: Precision,
}

/// Where distances come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Cloud {
    /// From points.
    Points(Pairwise),
    /// From a symmetric matrix: how many points, and the distances row after row.
    Matrix(usize, Vec<f64>),
}

/// One class: where it is born and dies. `death` is infinite for one that outlives the largest scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// 0 for a part, 1 for a loop.
    pub dimension: u8,
    /// The scale at which it is born.
    pub birth: f64,
    /// The scale at which it dies.
    pub death: f64,
}

pub(crate) const PERSISTENCE: Transform = Transform {
    name: "persistence",
    summary: "persistent homology (parts and loops) of a point cloud, Vietoris-Rips",
    formula: "H0 and H1 over Z/2 of the complexes of all simplices of diameter at most r, r from 0 to the threshold",
    inputs: "x: real, shape (n, d), n at most 2048; with input = \"distances\" a symmetric matrix of shape (n, n)",
    output: "real, shape (k, 3): dimension, birth, death (inf if it never dies), by dimension, birth and death; bars of length 0 are left out",
    accuracy: "births and deaths are distances of the input, exactly as computed",
    params: &[
        Param {
            name: "dimension",
            kind: ParamKind::Integer { min: 0, max: 1 },
            default: Some(Fallback::Integer(1)),
            help: "the highest dimension: 0 for parts alone, 1 for loops too",
        },
        Param {
            name: "threshold",
            kind: ParamKind::Number { min: 0.0, max: 1e300 },
            default: Some(Fallback::Absent),
            help: "the largest scale; if absent, the smallest one from which on nothing can change",
        },
        Param {
            name: "input",
            kind: ParamKind::Choice(&["points", "distances"]),
            default: Some(Fallback::Word("points")),
            help: "whether the array holds points or their distances",
        },
        METRIC,
        CURVATURE,
    ],
    prepare,
};

fn prepare(params: &Params, arrays: Vec<Array>) -> Result<Operation, TransformError> {
    let [array] = take(arrays, ["x"])?;
    let points = Points::read(array, "x")?;
    if points.count > POINTS_MAX {
        return Err(TransformError::TooLarge {
            what: "the number of points of a persistent homology",
            value: points.count as u64,
            limit: POINTS_MAX as u64,
        });
    }
    let precision = points.precision;
    let cloud = if params.word("input") == "distances" {
        check_distances(&points)?;
        Cloud::Matrix(points.count, points.coordinates)
    } else {
        let metric = Metric::read(params, &points)?;
        Cloud::Points(Pairwise { points, metric })
    };
    Ok(Operation::Homology(Homology {
        cloud,
        loops: params.integer("dimension") == 1,
        threshold: params.optional_number("threshold"),
        precision,
    }))
}

fn check_distances(matrix: &Points) -> Result<(), TransformError> {
    let n = matrix.count;
    if matrix.dimension != n {
        return Err(TransformError::input(format!("the distances have the shape ({n}, {}): give a square", matrix.dimension)));
    }
    let at = |i: usize, j: usize| matrix.coordinates[i * n + j];
    for i in 0..n {
        if at(i, i) != 0.0 {
            return Err(TransformError::domain(format!("the distance [{i}, {i}] of a point to itself is not 0")));
        }
        if let Some(j) = (0..i).find(|&j| at(i, j) < 0.0 || at(i, j) != at(j, i)) {
            return Err(TransformError::domain(format!("the distance [{i}, {j}] is negative or not that of [{j}, {i}]")));
        }
    }
    Ok(())
}

impl Homology {
    /// Computes the bars and writes them as rows.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (loops, threshold, precision) = (self.loops, self.threshold, self.precision);
        let (count, distances) = match self.cloud {
            Cloud::Points(pairwise) => (pairwise.points.count, pairwise.matrix(budget)?),
            Cloud::Matrix(count, distances) => (count, distances),
        };
        let bars = bars(count, &distances, loops, threshold, budget)?;
        let rows: Vec<f64> = bars.iter().flat_map(|bar| [f64::from(bar.dimension), bar.birth, bar.death]).collect();
        one(vec![bars.len(), 3], Data::Real(rows), precision)
    }
}

/// An edge of the filtration, i > j.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Edge {
    length: f64,
    i: u32,
    j: u32,
}

/// Distances and the scale up to which they count.
struct Rips<'a> {
    count: usize,
    distances: &'a [f64],
    threshold: f64,
}

impl Rips<'_> {
    fn distance(&self, i: u32, j: u32) -> f64 {
        self.distances[i as usize * self.count + j as usize]
    }
}

/// The bars of a matrix of distances, by dimension, birth and death.
///
/// # Errors
/// Memory or cancellation.
pub fn bars(count: usize, distances: &[f64], loops: bool, threshold: Option<f64>, budget: &Budget<'_>) -> Result<Vec<Bar>, TransformError> {
    let threshold = threshold.unwrap_or_else(|| enclosing_radius(count, distances));
    let rips = Rips { count, distances, threshold };
    budget.afford(count * count, 24)?;
    let edges = edges(&rips);
    let (mut bars, merging) = parts(&rips, &edges);
    if loops {
        bars.extend(loops::loops(&rips, &edges, &merging, budget)?);
    }
    bars.retain(|bar| bar.birth < bar.death);
    let order = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or(Ordering::Equal);
    bars.sort_by(|a, b| a.dimension.cmp(&b.dimension).then(order(a.birth, b.birth)).then(order(a.death, b.death)));
    Ok(bars)
}

/// The smallest scale at which one point is connected to all others: from there on the complex is a cone, and nothing but one part
/// is left.
fn enclosing_radius(count: usize, distances: &[f64]) -> f64 {
    let farthest = |row: &[f64]| row.iter().copied().fold(0.0, f64::max);
    let radius = distances.chunks_exact(count.max(1)).map(farthest).fold(f64::INFINITY, f64::min);
    if radius.is_finite() { radius } else { 0.0 }
}

/// All edges up to the threshold in the order of the filtration: shorter first, and among equals the one with the larger index.
fn edges(rips: &Rips<'_>) -> Vec<Edge> {
    let vertices = u32::try_from(rips.count).expect("the number of points is bounded");
    let mut edges: Vec<Edge> = (0..vertices)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| Edge { length: rips.distance(i, j), i, j })
        .filter(|edge| edge.length <= rips.threshold)
        .collect();
    edges.sort_unstable_by(|a, b| a.length.total_cmp(&b.length).then((b.i, b.j).cmp(&(a.i, a.j))));
    edges
}

/// The parts, and for each edge whether it merges two of them.
fn parts(rips: &Rips<'_>, edges: &[Edge]) -> (Vec<Bar>, Vec<bool>) {
    let mut parents: Vec<usize> = (0..rips.count).collect();
    let mut bars = Vec::new();
    let mut merging = Vec::with_capacity(edges.len());
    for edge in edges {
        let (a, b) = (root(&mut parents, edge.i as usize), root(&mut parents, edge.j as usize));
        merging.push(a != b);
        if a != b {
            parents[a] = b;
            bars.push(Bar { dimension: 0, birth: 0.0, death: edge.length });
        }
    }
    let remaining = rips.count - bars.len();
    bars.extend((0..remaining).map(|_| Bar { dimension: 0, birth: 0.0, death: f64::INFINITY }));
    (bars, merging)
}

fn root(parents: &mut [usize], mut vertex: usize) -> usize {
    while parents[vertex] != vertex {
        parents[vertex] = parents[parents[vertex]];
        vertex = parents[vertex];
    }
    vertex
}
