//! What nobody should send: it is refused with a reason, and nothing panics.

use proptest::prelude::*;
use tarn_transform::{Array, Budget, CATALOGUE, Data, Fallback, ParamKind, run, write_arrays};

use crate::support::{call, complex_noise, noise, vector};

/// Some value of a parameter's kind, or one just beside it.
fn some_value(kind: ParamKind, pick: u64) -> String {
    match kind {
        ParamKind::Integer { min, max } => [min, min + 1, max, pick % 9, max / 2, max + 1][(pick % 6) as usize].to_string(),
        ParamKind::Number { min, max } => format!("{:?}", [min, max, 0.0, (min + max) / 2.0, 0.7][(pick % 5) as usize]),
        ParamKind::Choice(words) => format!("\"{}\"", words[pick as usize % words.len()]),
    }
}

fn some_array(shape: Vec<usize>, complex: bool, seed: u64) -> Array {
    let count = shape.iter().product();
    let data = if complex { Data::Complex(complex_noise(seed, count)) } else { Data::Real(noise(seed, count)) };
    Array::new(shape, data).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn any_shapes_and_parameters(
        which in 0..CATALOGUE.len(),
        picks in prop::collection::vec(any::<u64>(), 8),
        shapes in prop::collection::vec((prop::collection::vec(0_usize..9, 0..4), any::<bool>()), 0..4),
    ) {
        let transform = &CATALOGUE[which];
        let given = transform.params.iter().zip(&picks).filter(|(param, pick)| param.default.is_none() || **pick % 2 == 0);
        let params: Vec<String> = given.map(|(param, pick)| format!("\"{}\": {}", param.name, some_value(param.kind, pick / 2))).collect();
        let arrays: Vec<Array> = shapes.into_iter().enumerate().map(|(at, (shape, complex))| some_array(shape, complex, picks[at])).collect();
        // Little memory, so that the largest parameters are refused and not tried.
        let budget = Budget { memory_bytes: 1 << 22, ..Budget::default() };
        let input = write_arrays(&arrays, &budget).unwrap();
        match run(transform.name, &format!("{{{}}}", params.join(", ")), &input, &budget) {
            Ok(output) => prop_assert!(output.starts_with(b"\x93NUMPY")),
            Err(error) => prop_assert!(tarn_transform::TransformError::REASONS.contains(&error.reason())),
        }
    }

    #[test]
    fn any_bytes(which in 0..CATALOGUE.len(), params in "[ -~]{0,40}", mut bytes in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let budget = Budget::default();
        let _ = run(CATALOGUE[which].name, &params, &bytes, &budget);
        // A good file with one wrong byte.
        bytes = write_arrays(&[vector(&[0.5, 0.25, 0.125, 0.0])], &budget).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = run(CATALOGUE[which].name, "", &bytes, &budget);
    }
}

#[test]
fn each_refusal_has_its_reason() {
    let x = vector(&[1.0, 2.0]);
    assert_eq!(call("fourier", "", std::slice::from_ref(&x)).unwrap_err().reason(), "TRANSFORM_UNKNOWN");
    assert_eq!(call("fft", r#"{"n": 4}"#, std::slice::from_ref(&x)).unwrap_err().reason(), "TRANSFORM_BAD_PARAMS");
    assert_eq!(call("fft", "", &[]).unwrap_err().reason(), "TRANSFORM_BAD_INPUT");
    assert_eq!(call("fft", "", &[vector(&[f64::NAN])]).unwrap_err().reason(), "TRANSFORM_BAD_INPUT");
    assert_eq!(call("dft", "", &[vector(&vec![0.0; 16_385])]).unwrap_err().reason(), "TRANSFORM_TOO_LARGE");
    let input = write_arrays(&[vector(&[0.0; 1000])], &Budget::default()).unwrap();
    let small = Budget { memory_bytes: 10_000, ..Budget::default() };
    assert_eq!(run("fft", "", &input, &small).unwrap_err().reason(), "TRANSFORM_MEMORY_LIMIT");
    let stopped = Budget { cancelled: &|| true, ..Budget::default() };
    assert_eq!(run("fft", "", &input, &stopped).unwrap_err().reason(), "TRANSFORM_CANCELLED");
}

#[test]
fn the_catalogue_describes_itself() {
    let mut names: Vec<&str> = CATALOGUE.iter().map(|transform| transform.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CATALOGUE.len());
    for transform in CATALOGUE {
        let texts = [transform.summary, transform.formula, transform.inputs, transform.output, transform.accuracy];
        assert!(texts.iter().all(|text| !text.is_empty() && text.is_ascii()), "{}", transform.name);
        for param in transform.params {
            assert!(!param.help.is_empty());
            // A default is of the parameter's kind.
            match (param.default, param.kind) {
                (None | Some(Fallback::Absent), _) => {}
                (Some(Fallback::Integer(value)), ParamKind::Integer { min, max }) => {
                    assert!((min..=max).contains(&value))
                }
                (Some(Fallback::Number(value)), ParamKind::Number { min, max }) => {
                    assert!((min..=max).contains(&value))
                }
                (Some(Fallback::Word(word)), ParamKind::Choice(words)) => assert!(words.contains(&word)),
                (fallback, kind) => panic!("{}: {fallback:?} is no {kind:?}", param.name),
            }
        }
    }
}
