//! What can be said about modules without running them: which rules there are, what they call, what they read of the input, and whether
//! they stay within what an evaluation may do.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Module, Ref, Rule, RuleHead, Span};

use super::{calls, message::source_line, path::static_path, walk::ModuleWalk};
use crate::{Bundle, Problem, limits::RULES_MAX, reads::Reads};

/// The path of a rule below `data`: its package's parts, then its name's.
pub(crate) type RuleId = Vec<String>;

/// What was found out about a bundle.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// Every rule with the texts that define it and the place of the first.
    pub(crate) rules: BTreeMap<RuleId, Definition>,
    /// Packages of each module, by the module's path.
    pub(crate) packages: BTreeMap<String, RuleId>,
    /// What rules outside of tests read of the input.
    pub(crate) reads: Reads,
    /// What has to be written differently for the interpreter, by module and position.
    pub(crate) rewrites: BTreeMap<String, BTreeMap<u32, Rewrite>>,
    /// What may not be, in the order of modules and lines.
    pub(crate) problems: Vec<Problem>,
}

/// One rule or function.
#[derive(Debug, Default)]
pub(crate) struct Definition {
    /// The module with its first part.
    pub(crate) file: String,
    /// The line of its first part.
    pub(crate) line: u32,
    /// Column of its first part.
    column: u32,
    /// The texts of its parts, in order.
    pub(crate) texts: Vec<String>,
    /// Whether it is part of the tests.
    pub(crate) is_test: bool,
    pub(super) is_function: bool,
    /// Paths below `data` that it refers to.
    pub(super) uses: BTreeSet<RuleId>,
}

/// A name that stands for an import, to be replaced by what it stands for.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// Where the name ends. It starts where it is filed.
    pub(crate) end: u32,
    /// Its line.
    pub(crate) line: u32,
    /// Its column.
    pub(crate) column: u32,
    /// What it stands for.
    pub(crate) text: String,
}

/// Whether a module is part of the tests: by its file's name or its package's.
pub(crate) fn is_test_module(file: &str, package: &[String]) -> bool {
    file.ends_with("_test.rego") || package.last().is_some_and(|name| name.ends_with("_test"))
}

impl Analysis {
    /// Looks at all modules of a bundle.
    pub(crate) fn of(bundle: &Bundle, modules: &[Ref<Module>]) -> Self {
        let mut analysis = Self::default();
        for module in modules {
            analysis.gather(bundle, module);
        }
        let spread = analysis.spread();
        for module in modules {
            ModuleWalk::new(bundle, module, &spread, &mut analysis).walk();
        }
        let rules: Vec<_> = analysis.rules.iter().map(|(id, rule)| (id, &rule.uses)).collect();
        if let Some((id, why)) = calls::refusal(&rules) {
            let rule = &analysis.rules[&id];
            let problem = Problem {
                source: source_line(bundle, &rule.file, rule.line),
                file: rule.file.clone(),
                line: rule.line,
                column: rule.column,
                message: why,
            };
            analysis.problems.push(problem);
        }
        analysis
    }

    /// Notes a module's package and rules, so that references to them can be told from others.
    fn gather(&mut self, bundle: &Bundle, module: &Module) {
        let file = module.package.span.source.file().clone();
        let package = static_path(&module.package.refr).path;
        let is_test = is_test_module(&file, &package);
        if package.first().is_some_and(|first| first.starts_with("__")) {
            self.problem(bundle, &module.package.span, "names of packages must not start with __".into());
        }
        for rule in &module.policy {
            let span = rule.span();
            let is_function = match rule.as_ref() {
                Rule::Spec { head: RuleHead::Func { .. }, .. } => true,
                Rule::Spec { .. } => false,
                Rule::Default { args, .. } => !args.is_empty(),
            };
            let id = rule_id(&package, rule);
            let entry = self.rules.entry(id).or_insert_with(|| Definition {
                file: file.clone(),
                line: span.line,
                column: span.col,
                is_test,
                ..Definition::default()
            });
            entry.is_function |= is_function;
            entry.texts.push(span.text().trim().to_owned());
        }
        self.packages.insert(file, package);
        if self.rules.len() > RULES_MAX {
            self.problem(bundle, &module.package.span, format!("the bundle has more than {RULES_MAX} rules"));
        }
    }

    /// Packages that are spread over several modules.
    fn spread(&self) -> Vec<RuleId> {
        let mut packages: Vec<_> = self.packages.values().collect();
        packages.sort();
        packages.chunk_by(|one, other| one == other).filter(|same| same.len() > 1).map(|same| same[0].clone()).collect()
    }

    pub(super) fn problem(&mut self, bundle: &Bundle, span: &Span, message: String) {
        let file = span.source.file();
        let source = source_line(bundle, file, span.line);
        let problem = Problem { file: file.clone(), line: span.line, column: span.col, source, message };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

pub(super) fn rule_id(package: &[String], rule: &Rule) -> RuleId {
    let head = match rule {
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
        Rule::Default { refr, .. } => refr,
    };
    [package, &static_path(head).path].concat()
}
