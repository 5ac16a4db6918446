//! What an expression speaks of, found in its tree; and what is refused.

use std::collections::{BTreeSet, HashMap};

use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr,
    operators::{IN, INDEX},
};

use super::{Attribute, ExpressionError, MAX_DEPTH};
use crate::model::Pattern;

/// Of a name such as `a.b.c`.
const MAX_SEGMENTS: usize = 16;

#[derive(Default)]
pub(super) struct Found {
    pub(super) attributes: BTreeSet<Attribute>,
    pub(super) request_headers: BTreeSet<Box<str>>,
    pub(super) response_headers: BTreeSet<Box<str>>,
    pub(super) unknown: BTreeSet<Box<str>>,
    pub(super) patterns: HashMap<String, Pattern>,
}

/// Walks the tree; names of headers become lower case in it.
pub(super) fn check(tree: &mut IdedExpr) -> Result<Found, ExpressionError> {
    let mut found = Found::default();
    found.visit(tree, 0)?;
    Ok(found)
}

impl Found {
    fn visit(&mut self, tree: &mut IdedExpr, depth: u16) -> Result<(), ExpressionError> {
        // Chains such as `a + b + c` nest too, which the parser does not count.
        if depth > 2 * MAX_DEPTH {
            return Err(ExpressionError::TooDeep);
        }
        if let Some(name) = qualified(&tree.expr) {
            if name.matches('.').count() > MAX_SEGMENTS {
                return Err(ExpressionError::TooDeep);
            }
            return self.name(&name);
        }
        match &mut tree.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Select(SelectExpr { operand, field, test: _ }) => {
                if let Some(headers) = self.headers(&operand.expr) {
                    field.make_ascii_lowercase();
                    headers.insert(field.as_str().into());
                    return Ok(());
                }
                self.visit(operand, depth + 1)
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(_) => Err(ExpressionError::Loop),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element, depth + 1)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| self.entry(&mut entry.expr, depth)),
            Expr::Struct(found) => found.entries.iter_mut().try_for_each(|entry| self.entry(&mut entry.expr, depth)),
        }
    }

    fn entry(&mut self, entry: &mut EntryExpr, depth: u16) -> Result<(), ExpressionError> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&mut field.value, depth + 1),
            EntryExpr::MapEntry(entry) => {
                self.visit(&mut entry.key, depth + 1)?;
                self.visit(&mut entry.value, depth + 1)
            }
        }
    }

    fn call(&mut self, call: &mut CallExpr, depth: u16) -> Result<(), ExpressionError> {
        // `request.headers['x']` and `'x' in request.headers`.
        let header = match (call.func_name.as_str(), &mut call.args[..]) {
            (INDEX, [of, name]) | (IN, [name, of]) => Some((of, name)),
            _ => None,
        };
        if let Some((of, name)) = header
            && let Some(headers) = self.headers(&of.expr)
        {
            let what = "request.headers";
            let Some(written) = literal(&name.expr) else {
                return Err(ExpressionError::NotLiteral { what, example: "request.headers['x-version']" });
            };
            let lower = written.to_ascii_lowercase();
            headers.insert(lower.as_str().into());
            name.expr = Expr::Literal(LiteralValue::String(lower.into()));
            return Ok(());
        }
        if call.func_name == "matches" {
            let example = "request.path.matches('^/admin')";
            let Some(pattern) = call.args.last().and_then(|last| literal(&last.expr)) else {
                return Err(ExpressionError::NotLiteral { what: "matches()", example });
            };
            let compiled = Pattern::new(pattern).map_err(|error| ExpressionError::Pattern { cause: error.to_string() })?;
            self.patterns.insert(pattern.to_owned(), compiled);
        }
        if let Some(target) = &mut call.target {
            self.visit(target, depth + 1)?;
        }
        call.args.iter_mut().try_for_each(|argument| self.visit(argument, depth + 1))
    }

    /// The set of names that belongs to this expression, if it is all headers of a side.
    fn headers(&mut self, of: &Expr) -> Option<&mut BTreeSet<Box<str>>> {
        match qualified(of)?.as_str() {
            "request.headers" => Some(&mut self.request_headers),
            "response.headers" => Some(&mut self.response_headers),
            _ => None,
        }
    }

    /// A name with all that is selected of it.
    fn name(&mut self, name: &str) -> Result<(), ExpressionError> {
        if let Some(attribute) = Attribute::named(name) {
            self.attributes.insert(attribute);
            return Ok(());
        }
        let header = |side: &str| name.strip_prefix(side).map(|rest| rest.strip_prefix('.'));
        match (header("request.headers"), header("response.headers")) {
            (Some(Some(name)), _) if !name.contains('.') => drop(self.request_headers.insert(name.into())),
            (_, Some(Some(name))) if !name.contains('.') => drop(self.response_headers.insert(name.into())),
            (Some(None), _) | (_, Some(None)) => {
                let example = "request.headers['x-version']";
                return Err(ExpressionError::NotLiteral { what: "request.headers", example });
            }
            // Types, such as in `type(x) == int`.
            _ if matches!(name, "bool" | "bytes" | "double" | "int" | "list" | "map" | "string" | "uint" | "null_type") => {}
            _ => drop(self.unknown.insert(name.into())),
        }
        Ok(())
    }
}

/// `a.b.c`, where nothing else is in it.
fn qualified(tree: &Expr) -> Option<String> {
    match tree {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(SelectExpr { operand, field, test: false }) => Some(format!("{}.{field}", qualified(&operand.expr)?)),
        _ => None,
    }
}

fn literal(tree: &Expr) -> Option<&str> {
    match tree {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
