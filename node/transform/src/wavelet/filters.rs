//! The scaling filters of Daubechies' wavelets with minimal phase.
//!
//! Computed with 80 digits by spectral factorisation (Daubechies, "Orthonormal bases of compactly supported wavelets", Comm. Pure
//! Appl. Math. 41, 1988): the roots inside the unit circle of Σ C(N−1+k, k)·yᵏ, y = (2 − z − 1/z)/4, times (1 + z)ᴺ, scaled to the
//! sum √2, in the order of the tables in "Ten Lectures on Wavelets". The tests hold them against those tables and against what
//! defines them.

use std::f64::consts::FRAC_1_SQRT_2;

/// The filter of a wavelet of [`WAVELETS`](super::WAVELETS).
pub(super) fn named(wavelet: &str) -> &'static [f64] {
    let moments = wavelet.strip_prefix("db").and_then(|digits| digits.parse::<usize>().ok()).unwrap_or(1);
    FILTERS[moments - 1]
}

/// By the number of vanishing moments, from 1.
pub(crate) const FILTERS: [&[f64]; 10] = [
    // haar, db1
    &[FRAC_1_SQRT_2, FRAC_1_SQRT_2],
    // db2
    &[0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037],
    // db3
    &[0.33267055295008263, 0.8068915093110925, 0.45987750211849154, -0.13501102001025458, -0.08544127388202666, 0.03522629188570953],
    // db4
    &[
        0.2303778133088965,
        0.7148465705529157,
        0.6308807679298589,
        -0.027983769416859854,
        -0.18703481171909309,
        0.030841381835560764,
        0.0328830116668852,
        -0.010597401785069032,
    ],
    // db5
    &[
        0.16010239797419293,
        0.6038292697971896,
        0.7243085284377729,
        0.13842814590132074,
        -0.24229488706638203,
        -0.032244869584638375,
        0.07757149384004572,
        -0.006241490212798274,
        -0.012580751999081999,
        0.0033357252854737712,
    ],
    // db6
    &[
        0.11154074335010947,
        0.49462389039845306,
        0.7511339080210954,
        0.31525035170919763,
        -0.22626469396543983,
        -0.12976686756726194,
        0.09750160558732304,
        0.027522865530305727,
        -0.03158203931748603,
        0.0005538422011614961,
        0.004777257510945511,
        -0.0010773010853084796,
    ],
    // db7
    &[
        0.07785205408500918,
        0.3965393194819173,
        0.7291320908462351,
        0.4697822874051931,
        -0.14390600392856498,
        -0.22403618499387498,
        0.07130921926683026,
        0.08061260915108308,
        -0.03802993693501441,
        -0.01657454163066688,
        0.01255099855609984,
        0.0004295779729213665,
        -0.0018016407040474908,
        0.00035371379997452024,
    ],
    // db8
    &[
        0.05441584224310401,
        0.31287159091429995,
        0.6756307362972898,
        0.5853546836542067,
        -0.015829105256349306,
        -0.2840155429615469,
        0.0004724845739132828,
        0.12874742662047847,
        -0.017369301001807547,
        -0.044088253930794755,
        0.013981027917398282,
        0.008746094047405777,
        -0.004870352993451574,
        -0.00039174037337694705,
        0.0006754494064505693,
        -0.00011747678412476953,
    ],
    // db9
    &[
        0.038077947363878345,
        0.24383467461259034,
        0.6048231236901112,
        0.6572880780513005,
        0.13319738582500756,
        -0.2932737832791749,
        -0.09684078322297646,
        0.14854074933810638,
        0.03072568147933338,
        -0.06763282906132997,
        0.00025094711483145197,
        0.022361662123679096,
        -0.004723204757751397,
        -0.00428150368246343,
        0.0018476468830562265,
        0.00023038576352319597,
        -0.0002519631889427101,
        3.93473203162716e-05,
    ],
    // db10
    &[
        0.026670057900555554,
        0.1881768000776915,
        0.5272011889317256,
        0.6884590394536035,
        0.2811723436605775,
        -0.24984642432731538,
        -0.19594627437737705,
        0.12736934033579325,
        0.09305736460357235,
        -0.07139414716639708,
        -0.029457536821875813,
        0.033212674059341,
        0.0036065535669561697,
        -0.010733175483330575,
        0.001395351747052901,
        0.001992405295185056,
        -0.0006858566949597116,
        -0.00011646685512928545,
        9.358867032006959e-05,
        -1.3264202894521244e-05,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_published_ones() {
        // db2 and db3 in closed form, db4 from table 6.1 of "Ten Lectures on Wavelets".
        let (root3, scale) = (3f64.sqrt(), 4.0 * 2f64.sqrt());
        for (have, want) in FILTERS[1].iter().zip([1.0 + root3, 3.0 + root3, 3.0 - root3, 1.0 - root3]) {
            assert!((have - want / scale).abs() < 4e-16);
        }
        let (root10, outer) = (10f64.sqrt(), (5.0 + 2.0 * 10f64.sqrt()).sqrt());
        assert!((FILTERS[2][0] - (1.0 + root10 + outer) / (16.0 * 2f64.sqrt())).abs() < 4e-16);
        let published = [
            0.230_377_813_308_9,
            0.714_846_570_552_9,
            0.630_880_767_929_8,
            -0.027_983_769_416_9,
            -0.187_034_811_719_1,
            0.030_841_381_835_6,
            0.032_883_011_666_9,
            -0.010_597_401_785_1,
        ];
        for (have, want) in FILTERS[3].iter().zip(published) {
            assert!((have - want).abs() < 1.5e-13);
        }
    }

    /// Orthonormal to its even shifts, and as many vanishing moments as its name says: these equations define it.
    #[test]
    fn they_satisfy_their_equations() {
        for (index, filter) in FILTERS.iter().enumerate() {
            let moments = index + 1;
            assert_eq!(filter.len(), 2 * moments);
            for shift in 0..moments {
                let product: f64 = filter.iter().zip(&filter[2 * shift..]).map(|(a, b)| a * b).sum();
                assert!((product - if shift == 0 { 1.0 } else { 0.0 }).abs() < 5e-16, "db{moments}");
            }
            for moment in 0..moments {
                let term = |(j, g): (usize, &f64)| g * (j as f64).powi(moment as i32);
                let details = super::super::high_pass(filter);
                let size: f64 = details.iter().enumerate().map(|pair| term(pair).abs()).sum();
                let sum: f64 = details.iter().enumerate().map(term).sum();
                assert!(sum.abs() < 1e-15 * size.max(1.0), "db{moments}, moment {moment}: {sum} of {size}");
            }
        }
    }
}
