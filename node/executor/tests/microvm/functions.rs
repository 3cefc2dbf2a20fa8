//! Modules of which a function is called with numbers.

use tarn_executor::Value;

use crate::{assert_reason, executor, export, fail, guests, succeed};

#[tokio::test]
async fn numbers_go_in_and_come_out() {
    let Some(executor) = executor(1) else { return };
    let report = succeed(&executor, export(guests::NUMBERS, "add", vec!["40".into(), "2".into()])).await;
    assert_eq!(report.output, "42");
    assert_eq!(report.values, [Value::I32(42)]);

    let long = export(guests::NUMBERS, "long", vec!["18446744073709551615".into()]);
    assert_eq!(succeed(&executor, long).await.values, [Value::I64(-1)]);
    let half = export(guests::NUMBERS, "half", vec![Value::F32(3.0).into()]);
    assert_eq!(succeed(&executor, half).await.values, [Value::F32(1.5)]);
    let root = export(guests::NUMBERS, "root", vec!["2".into()]);
    assert_eq!(succeed(&executor, root).await.values, [Value::F64(2.0_f64.sqrt())]);
    let swap = export(guests::NUMBERS, "swap", vec!["-7".into(), "0.5".into()]);
    assert_eq!(succeed(&executor, swap).await.output, "[0.5,-7]");
    let nothing = succeed(&executor, export(guests::NUMBERS, "nothing", vec![])).await;
    assert_eq!((&nothing.output[..], nothing.values.len()), (&b""[..], 0));
}

#[tokio::test]
async fn calls_that_do_not_fit_are_refused_before_they_run() {
    let Some(executor) = executor(1) else { return };
    let cases = [
        ("missing", vec![], "WASM_MISSING_EXPORT"),
        ("answer", vec![], "WASM_MISSING_EXPORT"),
        ("add", vec!["1".into()], "BAD_ARGUMENTS"),
        ("add", vec!["1".into(), "x".into()], "BAD_ARGUMENTS"),
        ("add", vec![Value::I64(1).into(), "2".into()], "BAD_ARGUMENTS"),
        ("reference", vec!["1".into()], "BAD_ARGUMENTS"),
        ("vector", vec![], "BAD_ARGUMENTS"),
    ];
    for (name, params, reason) in cases {
        assert_reason(&fail(&executor, export(guests::NUMBERS, name, params)).await.error, reason, false);
    }
    let imports = "(module (import \"env\" \"f\" (func)))";
    let failure = fail(&executor, export(imports, "f", vec![])).await;
    assert_reason(&failure.error, "WASM_UNSUPPORTED_IMPORT", false);
    for invalid in ["no module", "", "(component)", "(module (memory 1) (memory 1))", "\0asm\x0d\0\x01\0"] {
        let failure = fail(&executor, export(invalid, "f", vec![])).await;
        assert_reason(&failure.error, "WASM_INVALID_MODULE", false);
    }
}

#[tokio::test]
async fn a_reactor_is_initialised_before_it_is_called() {
    let module = r#"(module (global $ready (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $ready (i32.const 7)))
        (func (export "ready") (result i32) (global.get $ready)))"#;
    let Some(executor) = executor(1) else { return };
    assert_eq!(succeed(&executor, export(module, "ready", vec![])).await.output, "7");
}
