//! A bundle that is ready to judge.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    Bundle, Digest, Error, Failure, FailureKind, Input, Problem, Verdict, answer,
    limits::{BUDGET_MAX, COMPILE_BUDGET, PROBLEMS_MAX},
    reads::Reads,
    rego::{Outcome, Program, Purpose, run},
};

/// A bundle that is ready to judge, from any thread. Clones share what was compiled.
#[derive(Clone)]
pub struct Compiled(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    version: Arc<str>,
    digest: Digest,
    program: Program,
    /// Evaluations that do not end. While there are any, no other begins.
    stuck: AtomicUsize,
}

impl Compiled {
    /// Compiles a bundle without its tests. Does not run them: [`Bundle::check`] does, and a bundle that fails there should not judge.
    ///
    /// # Errors
    /// [`Error::Compile`] with every problem, its file, line, column and text; [`Error::Unfinished`] if it takes more than
    /// [`COMPILE_BUDGET`].
    pub fn new(bundle: &Bundle) -> Result<Self, Error> {
        let program = compile(bundle, false)?;
        Ok(Self(Arc::new(Inner {
            name: bundle.name().into(),
            version: bundle.version().to_string().into(),
            digest: bundle.digest(),
            program,
            stuck: AtomicUsize::new(0),
        })))
    }

    /// Judges an input within `budget` (at most [`BUDGET_MAX`]).
    ///
    /// Blocks the calling thread while another one evaluates, for the budget and [`GRACE`](crate::limits::GRACE) at worst. Whatever goes
    /// wrong refuses: the verdict's `error` says what. Only the parts of the input that the bundle reads are shown to it.
    pub fn evaluate(&self, input: &Input, budget: Duration) -> Verdict {
        self.evaluate_shown(Arc::from(self.reads().project(input.value())), budget)
    }

    /// Judges what is shown of an input, as canonical JSON.
    pub(crate) fn evaluate_shown(&self, shown: Arc<str>, budget: Duration) -> Verdict {
        let budget = budget.min(BUDGET_MAX);
        let start = Instant::now();
        let answer = self.ask(shown, budget);
        self.verdict(answer, start.elapsed())
    }

    fn ask(&self, shown: Arc<str>, budget: Duration) -> Result<answer::Answer, Failure> {
        if self.0.stuck.load(Relaxed) > 0 {
            return Err(stuck());
        }
        let (program, freed) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let work = move || evaluate(&program, &shown, budget);
        // It may end between the moment at which we left and the one at which it is counted: then the count passes through its largest
        // value, and comes out right.
        let freed = move || {
            freed.stuck.fetch_sub(1, Relaxed);
        };
        match run(Purpose::Judging, budget, work, freed) {
            Outcome::Done(answer) => answer,
            Outcome::Panicked(said) => Err(failed(format!("the interpreter gave up: {said}"))),
            Outcome::Stuck => {
                self.0.stuck.fetch_add(1, Relaxed);
                Err(Failure {
                    kind: FailureKind::PolicyOverBudget,
                    message: format!("it does not end; it may take {} ms", budget.as_millis()),
                })
            }
            Outcome::Busy => Err(Failure {
                kind: FailureKind::PolicyBusy,
                message: "too many policies are being evaluated on this node; try again".into(),
            }),
        }
    }

    fn verdict(&self, answer: Result<answer::Answer, Failure>, elapsed: Duration) -> Verdict {
        let Inner { name, version, digest, .. } = &*self.0;
        let (answer, error) = match answer {
            Ok(answer) => (answer, None),
            Err(failure) => (answer::Answer::default(), Some(failure)),
        };
        Verdict {
            allowed: answer.allowed && error.is_none(),
            violations: answer.violations,
            omitted: answer.omitted,
            rule: answer.rule,
            bundle: Arc::clone(name),
            version: Arc::clone(version),
            digest: *digest,
            error,
            elapsed,
        }
    }

    /// The bundle's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The bundle's version.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The bundle's digest.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Parts of the input that the bundle reads, such as `input.resource.kind`. A decision rests on these alone.
    pub fn inputs(&self) -> Vec<String> {
        self.reads().paths()
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.0.program.analysis.reads
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compiled({} {}, {})", self.name(), self.version(), self.digest())
    }
}

/// Compiles on a large stack.
pub(crate) fn compile(bundle: &Bundle, with_tests: bool) -> Result<Program, Error> {
    let owned = bundle.clone();
    let ended = run(Purpose::Trying, COMPILE_BUDGET, move || Program::compile(&owned, with_tests), || ());
    let unfinished = |why: &str| Err(Error::Unfinished(format!("the bundle could not be compiled: {why}")));
    match ended {
        Outcome::Done(Ok(program)) => Ok(program),
        Outcome::Done(Err(mut problems)) => {
            problems.truncate(PROBLEMS_MAX);
            Err(Error::Compile(problems))
        }
        Outcome::Panicked(said) => {
            let (file, _) = bundle.modules().next().expect("a bundle has modules");
            let message = format!("the compiler gave up: {said}");
            Err(Error::Compile(vec![Problem { file: file.into(), line: 0, column: 0, source: String::new(), message }]))
        }
        Outcome::Stuck => unfinished("it takes too long; split it into smaller ones"),
        Outcome::Busy => unfinished("too many policies are being evaluated on this node; try again"),
    }
}

fn evaluate(inner: &Inner, shown: &str, budget: Duration) -> Result<answer::Answer, Failure> {
    let input = regorus::Value::from_json_str(shown).map_err(|error| failed(format!("the input: {error}")))?;
    let answers = inner.program.answers(input, budget)?;
    answer::read(&answers, inner.program.must_allow).map_err(failed)
}

fn failed(message: String) -> Failure {
    Failure { kind: FailureKind::PolicyFailed, message }
}

fn stuck() -> Failure {
    Failure {
        kind: FailureKind::PolicyStuck,
        message: "an earlier evaluation of it does not end; activate another version, or roll back".into(),
    }
}
