//! Hyperbolic, spherical and projective geometry. Reference values were computed with 60 digits (mpmath), from formulas other than the
//! ones under test: arcosh for the distance, arccos for angles.

#![allow(clippy::approx_constant, reason = "a point near the boundary, not a constant")]
#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of one point reads better")]

use std::f64::consts::{FRAC_PI_2, PI};

use proptest::prelude::*;
use tarn_transform::hyperbolic;

use crate::support::{call, noise, points, real, real_error};

#[test]
fn hyperbolic_distances_up_to_the_boundary() {
    let cases = [
        (vec![0.5, 0.0], vec![0.5, 1e-9], 1.0, 2.666_666_666_666_667e-9),
        (vec![0.1, 0.2, 0.3], vec![-0.4, 0.5, 0.1], 1.0, 1.577_066_213_394_468_9),
        (vec![0.999_999_999, 0.0], vec![0.0, 0.999_999_999], 1.0, 42.139_678_910_016_63),
        (vec![0.6, 0.799_999_999_999_999_2], vec![-0.3, 0.1], 1.0, 35.973_123_238_311_32),
        (vec![1.2, 0.3], vec![-0.7, 1.1], 0.25, 5.263_456_740_659_979),
        (vec![0.707_106_78, 0.707_106_78], vec![0.707_106_78, 0.707_106_7], 1.0, 4.211_613_418_356_726),
    ];
    for (x, y, curvature, want) in cases {
        let params = format!("{{\"curvature\": {curvature}}}");
        let have = real("poincare_distance", &params, &[points(&[x.clone()]), points(&[y])])[0];
        assert!((have / want - 1.0).abs() < 1e-14, "{x:?}: {have}");
    }
}

#[test]
fn exponential_maps() {
    let cases = [
        (
            vec![0.3, -0.2, 0.1],
            vec![0.5, 0.25, -1.0],
            1.0,
            vec![0.771_678_155_240_076_6, -0.170_061_574_386_540_52, -0.431_555_006_466_995_6],
        ),
        (vec![0.9, 0.1], vec![-0.2, 0.3], 1.0, vec![0.956_604_375_346_646_3, 0.267_845_268_329_092_4]),
        (vec![1.0, 0.5], vec![0.1, 0.2], 0.5, vec![1.096_046_579_200_143, 0.636_421_575_256_990_1]),
    ];
    for (x, v, curvature, want) in cases {
        let params = format!("{{\"curvature\": {curvature}}}");
        let have = real("poincare_exp", &params, &[points(&[x]), points(&[v])]);
        assert!(real_error(&have, &want) < 2e-15, "{have:?}");
    }
}

/// A point at most `radius` from the centre of the unit ball.
fn inside(seed: u64, dimension: usize, radius: f64) -> Vec<f64> {
    let x = noise(seed, dimension);
    let scale = radius / (dimension as f64).sqrt();
    x.iter().map(|x| x * scale).collect()
}

proptest! {
    #[test]
    fn hyperbolic_space_is_a_metric_space_with_its_isometries(seed in any::<u64>(), d in 1_usize..6) {
        let [a, x, y, z] = [1, 2, 3, 4].map(|k| inside(seed ^ k, d, 0.95));
        let distance = |x: &[f64], y: &[f64]| hyperbolic::distance(x, y, 1.0);
        prop_assert_eq!(distance(&x, &x), 0.0);
        prop_assert_eq!(distance(&x, &y), distance(&y, &x));
        prop_assert!(distance(&x, &z) <= (distance(&x, &y) + distance(&y, &z)) * (1.0 + 1e-14));
        // A left translation is an isometry.
        let moved = distance(&hyperbolic::add(&a, &x, 1.0), &hyperbolic::add(&a, &y, 1.0));
        prop_assert!((moved / distance(&x, &y) - 1.0).abs() < 1e-11, "{moved} {}", distance(&x, &y));
    }

    #[test]
    fn log_undoes_exp(seed in any::<u64>(), d in 1_usize..6, length in 1e-6..5.0_f64) {
        let x = inside(seed, d, 0.9);
        let direction = noise(seed ^ 9, d);
        let norm = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
        let square: f64 = x.iter().map(|x| x * x).sum();
        // A tangent vector of the given hyperbolic length.
        let v: Vec<f64> = direction.iter().map(|v| v / norm * length * (1.0 - square) / 2.0).collect();
        let y = real("poincare_exp", "", &[points(&[x.clone()]), points(&[v.clone()])]);
        prop_assert!((hyperbolic::distance(&x, &y, 1.0) / length - 1.0).abs() < 1e-10);
        let back = real("poincare_log", "", &[points(&[x]), points(&[y])]);
        prop_assert!(real_error(&back, &v) < 1e-10, "{:e}", real_error(&back, &v));
    }

    #[test]
    fn the_sphere_and_its_projection(seed in any::<u64>(), d in 1_usize..6, size in 1e-3..10.0_f64) {
        let x: Vec<f64> = noise(seed, d).iter().map(|x| x * size / (d as f64).sqrt()).collect();
        let on = real("stereographic", "", &[points(&[x.clone()])]);
        prop_assert!((on.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-15);
        let back = real("stereographic_inverse", "", &[points(&[on])]);
        prop_assert!(real_error(&back, &x) < 1e-13, "{:e}", real_error(&back, &x));
        let [a, b, c] = [1, 2, 3].map(|k| noise(seed ^ k, d));
        let angle = |x: &[f64], y: &[f64]| real("sphere_distance", "", &[points(&[x.to_vec()]), points(&[y.to_vec()])])[0];
        prop_assert!(angle(&a, &c) <= angle(&a, &b) + angle(&b, &c) + 1e-15);
        let line = |x: &[f64], y: &[f64]| real("projective_distance", "", &[points(&[x.to_vec()]), points(&[y.to_vec()])])[0];
        prop_assert!(line(&a, &c) <= line(&a, &b) + line(&b, &c) + 1e-15);
        prop_assert!((line(&a, &b) - angle(&a, &b).min(PI - angle(&a, &b))).abs() < 1e-15);
    }

    #[test]
    fn homographies_compose(seed in any::<u64>(), d in 1_usize..5) {
        // Close to the identity, so that no point comes near infinity.
        let matrix = |k: u64| -> Vec<Vec<f64>> {
            let values = noise(seed ^ k, (d + 1) * (d + 1));
            let near = |(at, value): (usize, &f64)| value * 0.1 + if at % (d + 2) == 0 { 1.0 } else { 0.0 };
            values.iter().enumerate().map(near).collect::<Vec<_>>().chunks(d + 1).map(<[f64]>::to_vec).collect()
        };
        let (a, b) = (matrix(1), matrix(2));
        let product: Vec<Vec<f64>> = (0..=d)
            .map(|i| (0..=d).map(|j| (0..=d).map(|k| a[i][k] * b[k][j]).sum()).collect())
            .collect();
        let x = points(&[noise(seed, d), noise(seed ^ 7, d)]);
        let apply = |x, matrix: &[Vec<f64>]| call("projective_apply", "", &[x, points(matrix)]).unwrap();
        let (once, twice) = (apply(x.clone(), &product), apply(apply(x.clone(), &b), &a));
        prop_assert!(real_error(once.real().unwrap(), twice.real().unwrap()) < 1e-13);
        let lifted = call("homogeneous", "", std::slice::from_ref(&x)).unwrap();
        prop_assert_eq!(lifted.shape(), [2, d + 1]);
        prop_assert_eq!(call("dehomogeneous", "", &[lifted]).unwrap(), x);
    }
}

#[test]
fn angles_close_to_zero_and_to_half_a_turn() {
    let cases = [
        (vec![1.0, 0.0, 0.0], vec![1.0, 1e-9, 0.0], 1e-9),
        (vec![1.0, 2.0, 3.0], vec![-1.0, -2.0, -3.000_001], 3.141_592_493_870_686),
        (vec![1.0, 2.0, 3.0], vec![3.0, -2.0, 1.0], 1.427_448_757_889_531),
        (vec![2.0, 0.0], vec![0.0, -5.0], FRAC_PI_2),
    ];
    for (x, y, want) in cases {
        let have = real("sphere_distance", "", &[points(&[x.clone()]), points(&[y])])[0];
        assert!((have - want).abs() < 1e-15, "{x:?}: {have}");
    }
}

#[test]
fn the_north_pole_lies_at_infinity_and_the_origin_at_the_south_pole() {
    assert_eq!(real("stereographic", "", &[points(&[vec![0.0, 0.0]])]), [0.0, 0.0, -1.0]);
    assert_eq!(real("sphere_normalise", "", &[points(&[vec![3.0, 4.0]])]), [0.6, 0.8]);
    let refused = [
        ("stereographic_inverse", "", vec![points(&[vec![0.0, 0.0, 2.0]])]),
        ("dehomogeneous", "", vec![points(&[vec![1.0, 0.0]])]),
        ("sphere_normalise", "", vec![points(&[vec![0.0, 0.0]])]),
        ("poincare_distance", "", vec![points(&[vec![1.0, 0.0]]), points(&[vec![0.0, 0.0]])]),
        ("poincare_exp", r#"{"curvature": 4}"#, vec![points(&[vec![0.5]]), points(&[vec![1.0]])]),
        ("pairwise", r#"{"metric": "poincare"}"#, vec![points(&[vec![0.0, 0.0], vec![2.0, 0.0]])]),
    ];
    for (name, params, arrays) in refused {
        assert_eq!(call(name, params, &arrays).unwrap_err().reason(), "TRANSFORM_OUT_OF_DOMAIN", "{name}");
    }
    // Far along, the exponential map stops just inside of the ball.
    let end = real("poincare_exp", "", &[points(&[vec![0.9, 0.0]]), points(&[vec![1e3, 1.0]])]);
    call("poincare_log", "", &[points(&[vec![0.0, 0.0]]), points(&[end])]).unwrap();
}
