//! Built-in transforms on the processor.

use tarn_executor::cuda::DeviceShare;
use tarn_executor::{Attempt, Hash, Kind, Source, TransformCall};
use tarn_transform::{Array, Budget, read_arrays, run, write_arrays};

use crate::Bench;

fn transform(name: &str, params: &str, input: Vec<u8>) -> Attempt {
    let call = TransformCall { name: name.into(), params: params.into(), input: input.into(), share: DeviceShare::Thousandths(1_000) };
    Attempt::new(Hash::of(b""), Source::Prepared, Kind::Transform(call))
}

fn vector(values: Vec<f64>) -> Vec<u8> {
    write_arrays(&[Array::vector(values).unwrap()], &Budget::default()).unwrap()
}

#[tokio::test]
async fn they_give_what_the_library_gives() {
    let Some(bench) = Bench::new().await else { return };
    let input = vector((0..1_000).map(|n| f64::from(n).sin()).collect());
    let report = bench.run(transform("fft", "{}", input.clone())).await.unwrap();
    let expected = run("fft", "{}", &input, &Budget::default()).unwrap();
    assert_eq!(report.output, expected);
    assert_eq!(read_arrays(&report.output, &Budget::default()).unwrap().len(), 1);
}

#[tokio::test]
async fn their_refusals_keep_their_reasons() {
    let Some(bench) = Bench::new().await else { return };
    let input = || vector(vec![1.0, 2.0, 3.0]);
    for (name, params, input, reason) in [
        ("nonsense", "{}", input(), "TRANSFORM_UNKNOWN"),
        ("fft", "{\"norm\": 7}", input(), "TRANSFORM_BAD_PARAMS"),
        ("fft", "not json", input(), "TRANSFORM_BAD_PARAMS"),
        ("fft", "{}", b"not an array".to_vec(), "TRANSFORM_BAD_INPUT"),
        ("fft", "{}", Vec::new(), "TRANSFORM_BAD_INPUT"),
    ] {
        let failure = bench.run(transform(name, params, input)).await.unwrap_err();
        assert_eq!((failure.error.reason(), failure.error.retryable()), (reason, false), "{failure}");
    }
}
