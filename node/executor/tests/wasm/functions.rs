//! Exported functions that are called with numbers.

use tarn_executor::{Argument, ExecutionError, Value};

use crate::guests::{self, NUMBERS};
use crate::{assert_reason, executors, export, fail, succeed};

fn text(arguments: &[&str]) -> Vec<Argument> {
    arguments.iter().map(|argument| Argument::from(*argument)).collect()
}

#[tokio::test]
async fn numbers_go_in_as_text_or_typed_and_come_out_as_json() {
    let typed = |values: &[Value]| values.iter().map(|value| Argument::from(*value)).collect::<Vec<_>>();
    let cases = [
        ("add", text(&["40", " 2 "]), "42"),
        ("add", typed(&[Value::I32(-40), Value::I32(-2)]), "-42"),
        ("add", text(&["4294967295", "0"]), "-1"),
        ("add", text(&["-2147483648", "-1"]), "2147483647"),
        ("long", text(&["18446744073709551615"]), "-1"),
        ("long", typed(&[Value::I64(i64::MIN)]), "-9223372036854775808"),
        ("half", text(&["0.2"]), "0.1"),
        ("half", typed(&[Value::F32(3.0)]), "1.5"),
        ("root", text(&["2"]), "1.4142135623730951"),
        ("root", text(&["-1"]), "\"NaN\""),
        ("root", text(&["inf"]), "\"inf\""),
        ("swap", text(&["7", "1e300"]), "[1e300,7]"),
        ("nothing", vec![], ""),
    ];
    for executor in executors() {
        for (name, params, expected) in &cases {
            let report = succeed(&executor, export(NUMBERS, name, params.clone())).await;
            assert_eq!(report.output, *expected, "{name} {params:?}");
        }
        let report = succeed(&executor, export(NUMBERS, "swap", text(&["7", "0.5"]))).await;
        assert_eq!(report.values, [Value::F64(0.5), Value::I32(7)]);
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_with_what_is_wanted() {
    let cases = [
        ("add", text(&["1"]), "takes 2 arguments (i32, i32) and got 1"),
        ("add", text(&["1", "2", "3"]), "got 3"),
        ("nothing", text(&["1"]), "takes 0 arguments"),
        ("add", text(&["1", "two"]), "argument 2 of `add` must be a number of type i32, not \"two\""),
        ("add", text(&["1", ""]), "i32"),
        ("add", text(&["1", "1.5"]), "i32"),
        ("add", text(&["1", "4294967296"]), "i32"),
        ("long", text(&["18446744073709551616"]), "i64"),
        ("long", vec![Value::I32(1).into()], "type i64, not one of type i32"),
        ("half", vec![Value::F64(1.0).into()], "f32"),
        ("root", text(&["0x10"]), "f64"),
        ("reference", text(&["1"]), "argument 1 of `reference` is no number"),
        ("vector", vec![], "returns something that is no number"),
    ];
    for executor in executors() {
        for (name, params, expected) in &cases {
            let failure = fail(&executor, export(NUMBERS, name, params.clone())).await;
            assert_reason(&failure.error, "BAD_ARGUMENTS", false);
            assert!(failure.error.to_string().contains(expected), "{}", failure.error);
        }
    }
}

#[tokio::test]
async fn what_is_not_an_exported_function_is_missing() {
    for executor in executors() {
        for name in ["subtract", "answer", ""] {
            let failure = fail(&executor, export(NUMBERS, name, vec![])).await;
            assert_reason(&failure.error, "WASM_MISSING_EXPORT", false);
            assert!(failure.error.to_string().contains("add, long, half"), "{}", failure.error);
        }
    }
}

#[tokio::test]
async fn a_library_is_initialised_once_and_what_it_prints_is_logged() {
    let library = guests::module(
        r#"(global $count (mut i32) (i32.const 0))
        (data (i32.const 1024) "hello")
        (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
        (func (export "count") (result i32)
            (call $print (i32.const 1) (i32.const 1024) (i32.const 3))
            (call $print (i32.const 2) (i32.const 1027) (i32.const 2))
            (global.get $count))
        (func (export "exit") (call $proc_exit (i32.const 0)))"#,
    );
    for executor in executors() {
        // Each attempt is a new instance: nothing stays from one to the next.
        for _ in 0..3 {
            let report = succeed(&executor, export(&library, "count", vec![])).await;
            assert_eq!((report.output.as_ref(), report.logs.as_ref()), (&b"1"[..], &b"hello"[..]));
        }
        succeed(&executor, export(&library, "_initialize", vec![])).await;
        let failure = fail(&executor, export(&library, "exit", vec![])).await;
        assert_eq!(failure.error, ExecutionError::ExitNonzero { status: 0 });
    }
}
