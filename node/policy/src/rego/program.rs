//! Modules, compiled.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use regorus::{Engine, LimitError, Value, utils::limits::ExecutionTimerConfig};

use super::{
    Analysis, guard,
    message::{problem, source_line},
    sources::Sources,
    text,
};
use crate::{Bundle, Failure, FailureKind, Problem, limits::MESSAGE_BYTES_MAX};

/// The package whose rules decide.
const PACKAGE: &str = "tarn";
/// The rules that decide, of those that there are.
pub(crate) const DECIDING: [&str; 3] = ["deny", "warn", "allow"];
/// A module of our own that gathers what the deciding rules say, so that they share what they have in common.
const ENTRY_FILE: &str = "__entry.rego";
const ENTRY_RULE: &str = "data.__tarn.answers";
/// A rule that needs nothing.
const EMPTY_RULE: &str = "data.__tarn.empty";
/// Engines that are kept: as many as there are threads.
const IDLE_MAX: usize = 8;
/// Steps of the interpreter between two looks at the clock: some microseconds.
const STEPS_PER_LOOK: NonZeroU32 = NonZeroU32::new(128).expect("not zero");

/// A bundle's modules, ready to be evaluated any number of times, from any thread.
pub(crate) struct Program {
    prototype: Engine,
    /// Copies of it that are not at work.
    idle: Mutex<Vec<Engine>>,
    sources: Sources,
    pub(crate) analysis: Analysis,
    /// Whether there is a rule `allow`, which then has to be true.
    pub(crate) must_allow: bool,
}

impl Program {
    /// Compiles the modules, with or without the tests. Needs a large stack.
    ///
    /// # Errors
    /// Every mistake that is found in one go. A bundle that decides nothing is a mistake as well.
    pub(crate) fn compile(bundle: &Bundle, with_tests: bool) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut parser = Engine::new();
        for (path, text) in bundle.modules() {
            let parsed = match text::refusal(text) {
                Some((line, column, message)) => Err(text::problem(path, text, line, column, message)),
                None => parser.add_policy(path.into(), text.into()).map_err(|error| problem(bundle, path, &error.to_string())),
            };
            problems.extend(parsed.err());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut analysis = Analysis::of(bundle, parser.get_modules());
        if !analysis.problems.is_empty() {
            return Err(analysis.problems);
        }
        if !with_tests {
            // Tests may replace what rules say, and take time to be gathered: what judges does not hold them.
            analysis.rules.retain(|_, rule| !rule.is_test);
        }
        let deciding: Vec<_> = DECIDING.into_iter().filter(|name| decides(&analysis, name)).collect();
        if deciding.is_empty() {
            return Err(vec![decides_nothing(bundle)]);
        }
        let must_allow = deciding.contains(&"allow");
        let sources = Sources::new(bundle, &analysis, with_tests);
        match prepared(bundle, &sources, &deciding) {
            Ok(prototype) => Ok(Self { prototype, idle: Mutex::new(Vec::new()), sources, analysis, must_allow }),
            Err(error) => Err(vec![problem(bundle, "bundle", &sources.original(&error.to_string()))]),
        }
    }

    /// What the deciding rules say, as an object with a field for each that is defined. Needs a large stack.
    pub(crate) fn answers(&self, input: Value, budget: Duration) -> Result<Value, Failure> {
        self.evaluate(ENTRY_RULE, input, budget)
    }

    /// The value of one rule, named from `data`; [`Value::Undefined`] if it has none. Needs a large stack.
    pub(crate) fn evaluate(&self, rule: &str, input: Value, budget: Duration) -> Result<Value, Failure> {
        let mut engine = self.idle().pop().unwrap_or_else(|| self.prototype.clone());
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: budget, check_interval: STEPS_PER_LOOK });
        engine.set_input(input);
        let value = engine.eval_rule(rule.into()).map_err(|error| failure(&self.sources, &error, budget))?;
        self.put_back(engine);
        Ok(value)
    }

    /// Keeps an engine for the next evaluation, which is much faster than copying the prototype. One that failed is not kept, since it may
    /// be in the middle of something.
    fn put_back(&self, mut engine: Engine) {
        // Everything is forgotten here, where there is stack for dropping what may nest deeply.
        engine.set_input(Value::Undefined);
        if engine.eval_rule(EMPTY_RULE.into()).is_ok() {
            let mut idle = self.idle();
            if idle.len() < IDLE_MAX {
                idle.push(engine);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Engine>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepared(bundle: &Bundle, sources: &Sources, deciding: &[&str]) -> Result<Engine> {
    let mut engine = Engine::new();
    // What a function cannot take is an error. Otherwise a rule that should refuse would silently not.
    engine.set_strict_builtin_errors(true);
    guard::install(&mut engine)?;
    engine.add_data(Value::from_json_str(bundle.data())?)?;
    for (path, text) in sources.texts(bundle) {
        engine.add_policy(path, text)?;
    }
    engine.add_policy(ENTRY_FILE.into(), entry(deciding))?;
    engine.compile_with_entrypoint(&ENTRY_RULE.into())?;
    Ok(engine)
}

fn decides(analysis: &Analysis, name: &str) -> bool {
    let rule = analysis.rules.get(&vec![PACKAGE.to_owned(), name.to_owned()]);
    rule.is_some_and(|rule| !rule.is_test && !rule.is_function)
}

fn decides_nothing(bundle: &Bundle) -> Problem {
    let (file, _) = bundle.modules().next().expect("a bundle has modules");
    let message = "the bundle decides nothing: it needs a rule deny, warn or allow in package tarn";
    Problem { file: file.into(), line: 1, column: 1, source: source_line(bundle, file, 1), message: message.into() }
}

/// Rules that have no value leave no field.
fn entry(deciding: &[&str]) -> String {
    let mut text = String::from("package __tarn\n\nempty := true\n");
    for name in deciding {
        let rule = format!("answers[key] := value if {{\n\tkey := \"{name}\"\n\tvalue := data.{PACKAGE}.{name}\n}}\n");
        text.push_str(&rule);
    }
    text
}

/// The interpreter wraps errors of functions as text, so the text is all there is to tell them by.
fn failure(sources: &Sources, error: &anyhow::Error, budget: Duration) -> Failure {
    let text = sources.original(&error.to_string());
    if matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. })) || text.contains("time limit") {
        return over_budget(budget);
    }
    let kind = if text.contains(guard::TOO_LARGE) { FailureKind::PolicyTooLarge } else { FailureKind::PolicyFailed };
    let place = super::message::place(&text);
    let mut message = format!("{place}{}", super::message::sentence(&text));
    crate::cut(&mut message, MESSAGE_BYTES_MAX);
    Failure { kind, message }
}

/// The failure of an evaluation that took too long.
pub(crate) fn over_budget(budget: Duration) -> Failure {
    Failure { kind: FailureKind::PolicyOverBudget, message: format!("it took longer than the {} ms that it may take", budget.as_millis()) }
}

/// The texts of every rule by its name, of the modules that parse. Needs a large stack.
pub(crate) fn rule_texts(bundle: &Bundle) -> BTreeMap<String, Vec<String>> {
    let mut engine = Engine::new();
    for (path, text) in bundle.modules() {
        // What does not parse has no rules to compare; its text is compared as a whole.
        if text::refusal(text).is_none() {
            let _ = engine.add_policy(path.into(), text.into());
        }
    }
    let rules = Analysis::of(bundle, engine.get_modules()).rules;
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    rules.into_iter().map(|(id, rule)| (id.join("."), sorted(rule.texts))).collect()
}
