//! Persistent homology against closed forms, a brute-force reduction, and what must not matter.

use std::f64::consts::{PI, TAU};

use proptest::prelude::*;
use tarn_transform::homology::{Bar, bars};
use tarn_transform::{Array, Budget};

use crate::support::{call, noise, points, real};

/// (dimension, birth, death), as the transform gives them.
fn persistence(params: &str, rows: &[Vec<f64>]) -> Vec<[f64; 3]> {
    let out = real("persistence", params, &[points(rows)]);
    out.chunks_exact(3).map(|row| [row[0], row[1], row[2]]).collect()
}

fn loops(bars: &[[f64; 3]]) -> Vec<[f64; 2]> {
    bars.iter().filter(|bar| bar[0] == 1.0).map(|bar| [bar[1], bar[2]]).collect()
}

fn polygon(n: usize) -> Vec<Vec<f64>> {
    (0..n).map(|k| TAU * k as f64 / n as f64).map(|angle| vec![angle.cos(), angle.sin()]).collect()
}

fn close(have: &[[f64; 2]], want: &[[f64; 2]]) -> bool {
    let equal = |(a, b): (&[f64; 2], &[f64; 2])| (a[0] - b[0]).abs() < 1e-14 && (a[1] - b[1]).abs() < 1e-14;
    have.len() == want.len() && have.iter().zip(want).all(equal)
}

#[test]
fn a_square_has_one_loop_until_its_diagonal() {
    let have = persistence("", &[vec![0.0, 0.0], vec![1.0, 0.0], vec![1.0, 1.0], vec![0.0, 1.0]]);
    let parts: Vec<[f64; 3]> = have.iter().filter(|bar| bar[0] == 0.0).copied().collect();
    assert_eq!(parts, [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, f64::INFINITY]]);
    assert!(close(&loops(&have), &[[1.0, 2f64.sqrt()]]));
}

/// The loop of n points on a circle is born with the sides and dies with the first triangle that contains the centre
/// (Adamaszek and Adams, "The Vietoris–Rips complexes of a circle", 2017): 2·sin(π·⌈n/3⌉/n).
#[test]
fn regular_polygons() {
    for n in [4, 5, 6, 7, 12, 30, 61, 200] {
        let side = |steps: usize| 2.0 * (PI * steps as f64 / n as f64).sin();
        let have = loops(&persistence("", &polygon(n)));
        assert!(close(&have, &[[side(1), side(n.div_ceil(3))]]), "{n}: {have:?}");
    }
    assert!(loops(&persistence("", &polygon(3))).is_empty());
}

/// Its complex is a sphere as soon as its edges are there: no loops, and two-dimensional classes are not asked for.
#[test]
fn an_octahedron_has_no_loops() {
    let mut corners = Vec::new();
    for axis in 0..3 {
        for sign in [1.0, -1.0] {
            let mut corner = vec![0.0; 3];
            corner[axis] = sign;
            corners.push(corner);
        }
    }
    let have = persistence("", &corners);
    assert!(loops(&have).is_empty(), "{have:?}");
    assert_eq!(have.iter().filter(|bar| bar[2] == 2f64.sqrt()).count(), 5);
}

#[test]
fn two_far_circles_are_two_parts_and_two_loops() {
    let mut both = polygon(12);
    both.extend(polygon(12).into_iter().map(|x| vec![x[0] + 100.0, x[1]]));
    let have = persistence(r#"{"threshold": 10}"#, &both);
    assert_eq!(loops(&have).len(), 2);
    assert_eq!(have.iter().filter(|bar| bar[2] == f64::INFINITY).count(), 2);
    // A threshold below the death of a loop leaves it open.
    let open = loops(&persistence(r#"{"threshold": 1}"#, &polygon(12)));
    assert_eq!((open.len(), open[0][1]), (1, f64::INFINITY));
}

#[test]
fn metrics_and_matrices() {
    let n = 12;
    let direct = persistence("", &polygon(n));
    let matrix = call("pairwise", "", &[points(&polygon(n))]).unwrap();
    let rows: Vec<Vec<f64>> = matrix.real().unwrap().chunks(n).map(<[f64]>::to_vec).collect();
    assert_eq!(persistence(r#"{"input": "distances"}"#, &rows), direct);
    let angles = loops(&persistence(r#"{"metric": "sphere"}"#, &polygon(n)));
    assert!(close(&angles, &[[TAU / n as f64, TAU / 3.0]]), "{angles:?}");
    let mut lopsided = rows.clone();
    lopsided[1][0] += 1.0;
    let error = call("persistence", r#"{"input": "distances"}"#, &[points(&lopsided)]).unwrap_err();
    assert!(error.to_string().contains("[1, 0]"), "{error}");
    assert_eq!(persistence("", &[vec![1.0]]), [[0.0, 0.0, f64::INFINITY]]);
    let none = Array::new(vec![0, 2], tarn_transform::Data::Real(vec![])).unwrap();
    assert_eq!(call("persistence", "", &[none]).unwrap().shape(), [0, 3]);
    assert!(loops(&persistence(r#"{"dimension": 0}"#, &polygon(n))).is_empty());
    let many: Vec<Vec<f64>> = (0..2049).map(|k| vec![f64::from(k)]).collect();
    assert_eq!(call("persistence", "", &[points(&many)]).unwrap_err().reason(), "TRANSFORM_TOO_LARGE");
}

/// The textbook reduction of the whole boundary matrix (Edelsbrunner, Letscher and Zomorodian 2002), without any short cut.
fn brute_force(n: usize, distance: impl Fn(usize, usize) -> f64) -> Vec<[f64; 3]> {
    let mut simplices: Vec<(f64, Vec<usize>)> = Vec::new();
    for i in 0..n {
        simplices.push((0.0, vec![i]));
        for j in 0..i {
            simplices.push((distance(i, j), vec![j, i]));
            for k in 0..j {
                let diameter = distance(i, j).max(distance(i, k)).max(distance(j, k));
                simplices.push((diameter, vec![k, j, i]));
            }
        }
    }
    simplices.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.len().cmp(&b.1.len())).then(a.1.cmp(&b.1)));
    let place = |simplex: &[usize]| simplices.iter().position(|(_, other)| other == simplex).unwrap();
    let mut columns: Vec<Vec<usize>> = Vec::new();
    let mut killed = vec![false; simplices.len()];
    let mut bars = Vec::new();
    for (diameter, simplex) in &simplices {
        let mut column: Vec<usize> = Vec::new();
        if simplex.len() > 1 {
            for leave_out in 0..simplex.len() {
                let facet: Vec<usize> = (0..simplex.len()).filter(|&at| at != leave_out).map(|at| simplex[at]).collect();
                column.push(place(&facet));
            }
            column.sort_unstable();
        }
        while let Some(low) = column.last() {
            let Some(other) = columns.iter().find(|other| other.last() == Some(low)) else {
                break;
            };
            let mut sum = [column.clone(), other.clone()].concat();
            sum.sort_unstable();
            column = sum.chunk_by(|a, b| a == b).filter(|same| same.len() == 1).map(|same| same[0]).collect();
        }
        if let Some(&low) = column.last() {
            killed[low] = true;
            killed[columns.len()] = true;
            let dimension = simplices[low].1.len() - 1;
            if dimension < 2 && simplices[low].0 < *diameter {
                bars.push([dimension as f64, simplices[low].0, *diameter]);
            }
        }
        columns.push(column);
    }
    for (at, (diameter, simplex)) in simplices.iter().enumerate() {
        if !killed[at] && simplex.len() < 3 {
            bars.push([simplex.len() as f64 - 1.0, *diameter, f64::INFINITY]);
        }
    }
    bars.sort_by(|a, b| a.partial_cmp(b).unwrap());
    bars
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Coordinates on a coarse grid make many equal distances, where the order of simplices matters most.
    #[test]
    fn it_agrees_with_the_textbook(n in 1_usize..13, dimension in 1_usize..4, seed in any::<u64>(), coarse in any::<bool>()) {
        let grid = |x: f64| if coarse { (2.0 * x).round() } else { x };
        let coordinates: Vec<f64> = noise(seed, n * dimension).into_iter().map(grid).collect();
        let cloud: Vec<Vec<f64>> = coordinates.chunks(dimension).map(<[f64]>::to_vec).collect();
        let matrix = real("pairwise", "", &[points(&cloud)]);
        prop_assert_eq!(persistence("", &cloud), brute_force(n, |i, j| matrix[i * n + j]));
    }

    #[test]
    fn order_does_not_matter_and_scale_does_only_scale(n in 2_usize..60, seed in any::<u64>()) {
        let cloud: Vec<Vec<f64>> = noise(seed, 2 * n).chunks(2).map(<[f64]>::to_vec).collect();
        let have = persistence("", &cloud);
        let mut reordered = cloud.clone();
        reordered.rotate_left(n / 3);
        reordered.swap(0, n - 1);
        prop_assert_eq!(&persistence("", &reordered), &have);
        // Powers of two scale every distance exactly.
        let scaled: Vec<Vec<f64>> = cloud.iter().map(|x| x.iter().map(|x| 4.0 * x).collect()).collect();
        let wanted: Vec<[f64; 3]> = have.iter().map(|bar| [bar[0], 4.0 * bar[1], 4.0 * bar[2]]).collect();
        prop_assert_eq!(persistence("", &scaled), wanted);
    }
}

#[test]
fn it_stops_when_asked() {
    let n = 100;
    let cloud: Vec<f64> = noise(4, 2 * n);
    let distances: Vec<f64> =
        (0..n * n).map(|at| (cloud[at / n * 2] - cloud[at % n * 2]).hypot(cloud[at / n * 2 + 1] - cloud[at % n * 2 + 1])).collect();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let cancelled = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 20;
    let budget = Budget { cancelled: &cancelled, ..Budget::default() };
    let ended: Result<Vec<Bar>, _> = bars(n, &distances, true, None, &budget);
    assert_eq!(ended.unwrap_err().reason(), "TRANSFORM_CANCELLED");
}
