//! A bundle's own tests.

use std::time::{Duration, Instant};

use regorus::Value;
use serde::Serialize;

use crate::{
    Bundle, Digest, Error, compiled,
    limits::{TEST_BUDGET, TESTS_BUDGET, TESTS_MAX},
    rego::{Outcome, Program, Purpose, RuleId, run},
};

/// What the check of a bundle that compiles has found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The bundle's digest.
    pub digest: Digest,
    /// Every test, in ascending order of names. Empty for a bundle without tests.
    pub tests: Vec<Test>,
    /// Parts of the input that the bundle reads, such as `input.resource.kind`.
    pub inputs: Vec<String>,
    /// What is probably a mistake, in sentences: fields of the input that tarn does not fill in.
    pub warnings: Vec<String>,
}

/// How one test went.
#[derive(Clone, Debug, Serialize)]
pub struct Test {
    /// The rule, with its package.
    pub name: String,
    /// The module.
    pub file: String,
    /// The line of the rule.
    pub line: u32,
    /// Whether it was true.
    pub passed: bool,
    /// Why not, in a sentence. Empty if it passed.
    pub message: String,
    /// The time it took, in microseconds.
    pub elapsed_us: u64,
}

impl Report {
    /// Whether the bundle may be activated: no test failed.
    pub fn passed(&self) -> bool {
        self.tests.iter().all(|test| test.passed)
    }

    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.tests.iter().filter(|test| !test.passed).count()
    }

    /// Tests that took `elapsed` together.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.tests.iter().map(|test| test.elapsed_us).sum())
    }
}

impl Bundle {
    /// Compiles the bundle, and runs its tests: the rules whose name starts with `test_` in modules whose file's name ends in
    /// `_test.rego` or whose package's name ends in `_test`. A test passes if its rule is true; if it is false, undefined, something else,
    /// fails or takes longer than [`TEST_BUDGET`], it fails. Blocks until all have run, for [`TESTS_BUDGET`] at most; tests that it did
    /// not come to have failed.
    ///
    /// # Errors
    /// [`Error::Compile`] if it does not compile, with its tests or without; too many tests. Tests that fail are no error: the
    /// [`Report`] says.
    pub fn check(&self) -> Result<Report, Error> {
        let judging = compiled::compile(self, false)?;
        let program = std::sync::Arc::new(compiled::compile(self, true)?);
        let tests = tests(&program);
        Error::at_most("the number of tests", TESTS_MAX, tests.len())?;
        let start = Instant::now();
        let run_one = |test: Test| -> Test {
            let left = TESTS_BUDGET.saturating_sub(start.elapsed());
            run_test(&program, test, left.min(TEST_BUDGET))
        };
        let reads = &judging.analysis.reads;
        Ok(Report {
            digest: self.digest(),
            tests: tests.into_iter().map(run_one).collect(),
            inputs: reads.paths(),
            warnings: crate::input::unknown(reads),
        })
    }
}

/// Tests that have not run yet.
fn tests(program: &Program) -> Vec<Test> {
    let is_test = |id: &RuleId| id.last().is_some_and(|name| name.starts_with("test_"));
    let rules = program.analysis.rules.iter().filter(|(id, rule)| rule.is_test && is_test(id));
    let test = |(id, rule): (&RuleId, &crate::rego::Definition)| Test {
        name: id.join("."),
        file: rule.file.clone(),
        line: rule.line,
        passed: false,
        message: String::new(),
        elapsed_us: 0,
    };
    rules.map(test).collect()
}

fn run_test(program: &std::sync::Arc<Program>, mut test: Test, budget: Duration) -> Test {
    if budget.is_zero() {
        test.message = format!("it did not run: the tests together took longer than {} s", TESTS_BUDGET.as_secs());
        return test;
    }
    let (program, rule) = (std::sync::Arc::clone(program), format!("data.{}", test.name));
    let start = Instant::now();
    let work = move || program.evaluate(&rule, Value::Undefined, budget).map(|value| describe(&value));
    let ended = run(Purpose::Trying, budget, work, || ());
    test.elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    test.message = match ended {
        Outcome::Done(Ok(None)) => String::new(),
        Outcome::Done(Ok(Some(found))) => format!("it is {found}; a test passes if it is true"),
        Outcome::Done(Err(failure)) => failure.message,
        Outcome::Panicked(said) => format!("the interpreter gave up: {said}"),
        Outcome::Stuck => format!("it does not end; it may take {} ms", budget.as_millis()),
        Outcome::Busy => "too many policies are being evaluated on this node; try again".into(),
    };
    test.passed = test.message.is_empty();
    test
}

/// What a test's value is, or nothing if it is true.
fn describe(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => None,
        Value::Bool(false) => Some("false".into()),
        Value::Undefined => Some("undefined, so one of its conditions does not hold".into()),
        _ => Some("neither true nor false".into()),
    }
}
