//! Wavelet transforms.

use proptest::prelude::*;
use tarn_transform::wavelet::WAVELETS;

use crate::support::{call, noise, real, real_error, vector};

#[test]
fn haar_by_hand() {
    let have = real("dwt", r#"{"wavelet": "haar"}"#, &[vector(&[4.0, 2.0, 5.0, 5.0])]);
    let want = [8.0, -2.0, 2f64.sqrt(), 0.0];
    assert!(have.iter().zip(want).all(|(a, b)| (a - b).abs() < 2e-15), "{have:?}");
}

/// N vanishing moments: the details of a polynomial of degree below N are zero where the filter does not wrap around.
#[test]
fn details_do_not_see_polynomials_of_low_degree() {
    for moments in 1..=10_usize {
        let n = 128;
        let x: Vec<f64> = (0..n).map(|j| (f64::from(j) / 64.0 - 1.0).powi(moments as i32 - 1)).collect();
        let have = real("dwt", &format!("{{\"wavelet\": \"db{moments}\", \"levels\": 1}}"), &[vector(&x)]);
        let inside = &have[64..128 - moments];
        assert!(inside.iter().all(|detail| detail.abs() < 1e-13), "db{moments}: {inside:?}");
    }
}

#[test]
fn rows_that_cannot_be_halved_are_refused() {
    let error = call("dwt", r#"{"wavelet": "db2", "levels": 3}"#, &[vector(&noise(1, 12))]).unwrap_err();
    assert!(error.to_string().contains("multiple of 8"), "{error}");
    assert_eq!(call("dwt", r#"{"wavelet": "db2"}"#, &[vector(&[1.0])]).unwrap_err().reason(), "TRANSFORM_BAD_INPUT");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn inverse_and_energy(which in 0..WAVELETS.len(), levels in 1_usize..6, odd in 1_usize..8, seed in any::<u64>()) {
        let x = noise(seed, odd << levels);
        let params = format!("{{\"wavelet\": \"{}\", \"levels\": {levels}}}", WAVELETS[which]);
        let coefficients = real("dwt", &params, &[vector(&x)]);
        let back = real("idwt", &params, &[vector(&coefficients)]);
        prop_assert!(real_error(&back, &x) < 1e-15 * levels as f64, "{:e}", real_error(&back, &x));
        let energy = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        prop_assert!((energy(&coefficients) / energy(&x) - 1.0).abs() < 1e-14);
    }
}
