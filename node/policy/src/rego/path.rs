//! References as far as they are known without evaluating them.

use regorus::unstable::Expr;

/// A reference, up to the first part that is only known when it is evaluated.
pub(super) struct StaticPath {
    /// The names. Empty if it does not even start with one, as in `f(x)[0]`.
    pub(super) path: Vec<String>,
    /// Whether that is all of it.
    pub(super) whole: bool,
}

/// Not recursive, for references may be long.
pub(super) fn static_path(expr: &Expr) -> StaticPath {
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
    StaticPath { whole: path.len() == length, path }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => Some(value.as_string().ok()?.to_string()),
        _ => None,
    }
}
