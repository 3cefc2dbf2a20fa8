//! A walk over one module: what its rules read, call and declare.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Module, Query, Ref, Rule, RuleAssign, RuleHead, Span};

use super::{
    Analysis, RuleId,
    analysis::{Rewrite, is_test_module, rule_id},
    functions,
    path::{StaticPath, static_path},
};
use crate::{Bundle, limits::STATEMENTS_MAX};

/// Expressions within expressions. The parser bounds brackets; this bounds chains of operators too, which are as deep as they are long.
const DEPTH_MAX: usize = 200;

/// A walk over one module.
pub(super) struct ModuleWalk<'a> {
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
    pub(super) fn new(bundle: &'a Bundle, module: &'a Module, spread: &'a [RuleId], analysis: &'a mut Analysis) -> Self {
        let package = static_path(&module.package.refr).path;
        let is_test = is_test_module(module.package.span.source.file(), &package);
        let mut imports = BTreeMap::new();
        for import in &module.imports {
            let path = static_path(&import.refr).path;
            let name = import.r#as.as_ref().map(|span| span.text().to_owned()).or_else(|| path.last().cloned());
            imports.extend(name.map(|name| (name, path)));
        }
        Self { bundle, module, spread, analysis, package, is_test, imports, uses: BTreeSet::new(), depth: 0 }
    }

    pub(super) fn walk(&mut self) {
        let module = self.module;
        for rule in &module.policy {
            self.rule(rule);
            let id = rule_id(&self.package, rule);
            let uses = std::mem::take(&mut self.uses);
            self.analysis.rules.get_mut(&id).expect("all rules were gathered").uses.extend(uses);
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
            let message = format!("the body has {} statements, at most {STATEMENTS_MAX} are allowed", query.stmts.len());
            self.analysis.problem(self.bundle, &query.span, message);
        }
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { vars, .. } => vars.iter().for_each(|name| self.declares_name(name)),
                Literal::SomeIn { key, value, collection, .. } => {
                    key.iter().chain([value]).for_each(|pattern| self.declares(pattern));
                    key.iter().for_each(|key| self.expr(key));
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
                Literal::Every { key, value, domain, query, .. } => {
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
            self.analysis.problem(self.bundle, expr.span(), functions::refusal(&name));
        }
    }

    fn all(&mut self, exprs: &[Ref<Expr>]) {
        exprs.iter().for_each(|expr| self.expr(expr));
    }

    fn expr(&mut self, expr: &Expr) {
        if self.depth >= DEPTH_MAX {
            let message = format!("the expression nests deeper than {DEPTH_MAX} levels; long chains of operators count too");
            return self.analysis.problem(self.bundle, expr.span(), message);
        }
        self.depth += 1;
        self.expr_within(expr);
        self.depth -= 1;
    }

    fn expr_within(&mut self, expr: &Expr) {
        match expr {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
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
            Expr::Membership { key, value, collection, .. } => {
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
            Some((root, fields)) if root == "input" && !self.is_test => self.analysis.reads.add(fields),
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
        let rewrite = Rewrite { end: span.end, line: span.line, column: span.col, text };
        self.analysis.rewrites.entry(span.source.file().clone()).or_default().insert(span.start, rewrite);
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
        let target = self.resolved(&path).filter(|target| target.first().is_some_and(|root| root == "data"));
        if let Some(target) = target {
            let id = target[1..].to_vec();
            if whole && self.analysis.rules.get(&id).is_some_and(|rule| rule.is_function) {
                self.uses.insert(id);
                return;
            }
        }
        if !whole || !functions::is_allowed(&name) {
            let name = if name.is_empty() { function.span().text() } else { &name };
            self.analysis.problem(self.bundle, function.span(), functions::refusal(name));
        }
    }
}
