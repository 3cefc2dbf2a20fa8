//! What can be said about modules without running them: which rules there are, what they call, what they read of the input, and whether
//! they stay within what an evaluation may do.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Module, Query, Ref, Rule, RuleAssign, RuleHead, Span};

use super::{calls, functions, message::source_line};
use crate::{
    Bundle, Problem,
    limits::{RULES_MAX, STATEMENTS_MAX},
    reads::Reads,
};

/// Expressions within expressions. The parser bounds brackets; this bounds chains of operators too, which are as deep as they are long.
const DEPTH_MAX: usize = 200;

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
    uses: BTreeSet<RuleId>,
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
            self.problem(
                bundle,
                &module.package.span,
                "names of packages must not start with __".into(),
            );
        }
        for rule in &module.policy {
            let span = rule.span();
            let is_function = match rule.as_ref() {
                Rule::Spec {
                    head: RuleHead::Func { .. },
                    ..
                } => true,
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
            self.problem(
                bundle,
                &module.package.span,
                format!("the bundle has more than {RULES_MAX} rules"),
            );
        }
    }

    /// Packages that are spread over several modules.
    fn spread(&self) -> Vec<RuleId> {
        let mut packages: Vec<_> = self.packages.values().collect();
        packages.sort();
        packages
            .chunk_by(|one, other| one == other)
            .filter(|same| same.len() > 1)
            .map(|same| same[0].clone())
            .collect()
    }

    fn problem(&mut self, bundle: &Bundle, span: &Span, message: String) {
        let file = span.source.file();
        let source = source_line(bundle, file, span.line);
        let problem = Problem {
            file: file.clone(),
            line: span.line,
            column: span.col,
            source,
            message,
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

fn rule_id(package: &[String], rule: &Rule) -> RuleId {
    let head = match rule {
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
        Rule::Default { refr, .. } => refr,
    };
    [package, &static_path(head).path].concat()
}

/// A reference, up to the first part that is only known when it is evaluated.
struct StaticPath {
    /// The names. Empty if it does not even start with one, as in `f(x)[0]`.
    path: Vec<String>,
    /// Whether that is all of it.
    whole: bool,
}

/// Not recursive, for references may be long.
fn static_path(expr: &Expr) -> StaticPath {
    // From the end to the start.
    let mut parts: Vec<Option<String>> = Vec::new();
    let mut expr = expr;
    loop {
        match expr {
            Expr::Var { span, .. } => {
                parts.push(Some(span.text().to_owned()));
                break;
            }
            Expr::RefDot { refr, field, .. } => {
                parts.push(Some(field.0.text().to_owned()));
                expr = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                parts.push(literal(index));
                expr = refr;
            }
            _ => {
                parts.push(None);
                break;
            }
        }
    }
    let length = parts.len();
    let path: Vec<String> = parts.into_iter().rev().map_while(|part| part).collect();
    StaticPath {
        whole: path.len() == length,
        path,
    }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => Some(value.as_string().ok()?.to_string()),
        _ => None,
    }
}

/// A walk over one module.
struct ModuleWalk<'a> {
    bundle: &'a Bundle,
    module: &'a Module,
    spread: &'a [RuleId],
    analysis: &'a mut Analysis,
    package: RuleId,
    is_test: bool,
    /// What each import stands for, by its name in this module.
    imports: BTreeMap<String, Vec<String>>,
    /// The rule that is being looked at.
    uses: BTreeSet<RuleId>,
    depth: usize,
}

impl<'a> ModuleWalk<'a> {
    fn new(bundle: &'a Bundle, module: &'a Module, spread: &'a [RuleId], analysis: &'a mut Analysis) -> Self {
        let package = static_path(&module.package.refr).path;
        let is_test = is_test_module(module.package.span.source.file(), &package);
        let mut imports = BTreeMap::new();
        for import in &module.imports {
            let path = static_path(&import.refr).path;
            let name = import
                .r#as
                .as_ref()
                .map(|span| span.text().to_owned())
                .or_else(|| path.last().cloned());
            imports.extend(name.map(|name| (name, path)));
        }
        Self {
            bundle,
            module,
            spread,
            analysis,
            package,
            is_test,
            imports,
            uses: BTreeSet::new(),
            depth: 0,
        }
    }

    fn walk(&mut self) {
        let module = self.module;
        for rule in &module.policy {
            self.rule(rule);
            let id = rule_id(&self.package, rule);
            let uses = std::mem::take(&mut self.uses);
            self.analysis
                .rules
                .get_mut(&id)
                .expect("all rules were gathered")
                .uses
                .extend(uses);
        }
    }

    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Default { args, value, .. } => {
                self.all(args);
                self.expr(value);
            }
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { refr, assign, .. } => {
                        self.indices(refr);
                        self.assign(assign.as_ref());
                    }
                    RuleHead::Set { refr, key, .. } => {
                        self.indices(refr);
                        key.iter().for_each(|key| self.expr(key));
                    }
                    RuleHead::Func { args, assign, .. } => {
                        args.iter().for_each(|arg| self.declares(arg));
                        self.all(args);
                        self.assign(assign.as_ref());
                    }
                }
                for body in bodies {
                    self.assign(body.assign.as_ref());
                    self.query(&body.query);
                }
            }
        }
    }

    fn assign(&mut self, assign: Option<&RuleAssign>) {
        assign.iter().for_each(|assign| self.expr(&assign.value));
    }

    fn query(&mut self, query: &Query) {
        if query.stmts.len() > STATEMENTS_MAX {
            let message = format!(
                "the body has {} statements, at most {STATEMENTS_MAX} are allowed",
                query.stmts.len()
            );
            self.analysis.problem(self.bundle, &query.span, message);
        }
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { vars, .. } => vars.iter().for_each(|name| self.declares_name(name)),
                Literal::SomeIn {
                    key, value, collection, ..
                } => {
                    key.iter().chain([value]).for_each(|pattern| self.declares(pattern));
                    key.iter().for_each(|key| self.expr(key));
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
                Literal::Every {
                    key,
                    value,
                    domain,
                    query,
                    ..
                } => {
                    key.iter().chain([value]).for_each(|name| self.declares_name(name));
                    self.expr(domain);
                    self.query(query);
                }
            }
            for with in &statement.with_mods {
                self.expr(&with.refr);
                self.expr(&with.r#as);
                self.replaced(&with.refr);
                self.replaced(&with.r#as);
            }
        }
    }

    /// A `with` may name functions without calling them.
    fn replaced(&mut self, expr: &Expr) {
        let StaticPath { path, .. } = static_path(expr);
        let name = path.join(".");
        if regorus::unstable::BUILTINS.contains_key(name.as_str()) && !functions::is_allowed(&name) {
            self.analysis
                .problem(self.bundle, expr.span(), functions::refusal(&name));
        }
    }

    fn all(&mut self, exprs: &[Ref<Expr>]) {
        exprs.iter().for_each(|expr| self.expr(expr));
    }

    fn expr(&mut self, expr: &Expr) {
        if self.depth >= DEPTH_MAX {
            let message =
                format!("the expression nests deeper than {DEPTH_MAX} levels; long chains of operators count too");
            return self.analysis.problem(self.bundle, expr.span(), message);
        }
        self.depth += 1;
        self.expr_within(expr);
        self.depth -= 1;
    }

    fn expr_within(&mut self, expr: &Expr) {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                self.reference(expr);
                self.indices(expr);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.all(items),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, key, value)| {
                self.expr(key);
                self.expr(value);
            }),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.expr(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.expr(key);
                self.expr(value);
                self.query(query);
            }
            Expr::Call { fcn, params, .. } => {
                self.call(fcn);
                self.all(params);
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::BinExpr { lhs, rhs, .. } | Expr::BoolExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::AssignExpr { lhs, rhs, .. } => {
                self.declares(lhs);
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership {
                key, value, collection, ..
            } => {
                key.iter().for_each(|key| self.expr(key));
                self.expr(value);
                self.expr(collection);
            }
        }
    }

    /// Expressions in the brackets of a reference, and what it starts with if that is no name. References may be long, so this goes along
    /// them in a loop.
    fn indices(&mut self, expr: &Expr) {
        let mut expr = expr;
        loop {
            match expr {
                Expr::RefDot { refr, .. } => expr = refr,
                Expr::RefBrack { refr, index, .. } => {
                    self.expr(index);
                    expr = refr;
                }
                Expr::Var { .. } => return,
                start => return self.expr(start),
            }
        }
    }

    /// What a reference reads. Local variables are not told from rules of their name: that errs to the safe side.
    fn reference(&mut self, expr: &Expr) {
        self.rewrite(expr);
        let Some(path) = self.resolved(&static_path(expr).path) else {
            return;
        };
        match path.split_first() {
            Some((root, fields)) if root == "input" => {
                if !self.is_test {
                    self.analysis.reads.add(fields);
                }
            }
            Some((root, fields)) if root == "data" => {
                if let Some(package) = self.spread.iter().find(|package| package.starts_with(fields)) {
                    let (whole, package) = (path.join("."), package.join("."));
                    let message = format!(
                        "{whole} is read as a whole, but the package {package} is spread over several modules, and the interpreter \
                         would see only a part of it; name the rule that is meant, or put the package into one module"
                    );
                    self.analysis.problem(self.bundle, expr.span(), message);
                }
                self.uses.insert(fields.to_vec());
            }
            _ => {}
        }
    }

    /// Notes that a reference starts with the name of an import. The interpreter evaluates the whole import, and if that is a package
    /// that is spread over several modules, then the rules of the later ones without what they need. It does not if the path is written out.
    fn rewrite(&mut self, expr: &Expr) {
        let mut start = expr;
        while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = start {
            start = refr;
        }
        let Expr::Var { span, .. } = start else { return };
        let Some(import) = self.imports.get(span.text()) else {
            return;
        };
        let mut text = import[0].clone();
        for part in &import[1..] {
            text += &format!("[{}]", serde_json::Value::from(part.as_str()));
        }
        let rewrite = Rewrite {
            end: span.end,
            line: span.line,
            column: span.col,
            text,
        };
        self.analysis
            .rewrites
            .entry(span.source.file().clone())
            .or_default()
            .insert(span.start, rewrite);
    }

    /// Refuses variables with the name of an import: what they mean would depend on where they are.
    fn declares(&mut self, pattern: &Expr) {
        match pattern {
            Expr::Var { span, .. } => self.declares_name(span),
            Expr::Array { items, .. } if self.depth < DEPTH_MAX => {
                self.depth += 1;
                items.iter().for_each(|item| self.declares(item));
                self.depth -= 1;
            }
            Expr::Object { fields, .. } if self.depth < DEPTH_MAX => {
                self.depth += 1;
                fields.iter().for_each(|(_, _, field)| self.declares(field));
                self.depth -= 1;
            }
            _ => {}
        }
    }

    fn declares_name(&mut self, name: &Span) {
        if self.imports.contains_key(name.text()) {
            let message = format!("the variable {} has the name of an import; rename it", name.text());
            self.analysis.problem(self.bundle, name, message);
        }
    }

    /// The path from `input` or `data`; none for what is neither.
    fn resolved(&self, path: &[String]) -> Option<Vec<String>> {
        let (root, rest) = path.split_first()?;
        if root == "input" || root == "data" {
            return Some(path.to_vec());
        }
        if let Some(import) = self.imports.get(root) {
            return Some([import, rest].concat());
        }
        Some([&["data".to_owned()], self.package.as_slice(), path].concat())
    }

    fn call(&mut self, function: &Expr) {
        self.rewrite(function);
        let StaticPath { path, whole } = static_path(function);
        let name = path.join(".");
        let target = self
            .resolved(&path)
            .filter(|target| target.first().is_some_and(|root| root == "data"));
        if let Some(target) = target {
            let id = target[1..].to_vec();
            if whole && self.analysis.rules.get(&id).is_some_and(|rule| rule.is_function) {
                self.uses.insert(id);
                return;
            }
        }
        if !whole || !functions::is_allowed(&name) {
            let name = if name.is_empty() { function.span().text() } else { &name };
            self.analysis
                .problem(self.bundle, function.span(), functions::refusal(name));
        }
    }
}
