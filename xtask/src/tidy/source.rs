//! Which lines of a Rust file are functions and which are tests, from its syntax tree.

use std::ops::RangeInclusive;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A function with a body, outside tests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
}

/// What a file is made of.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) functions: Vec<Function>,
    /// Lines of items under `#[cfg(test)]`.
    pub(crate) tests: Vec<RangeInclusive<usize>>,
}

impl Source {
    /// Parses a file; the error says where it is not Rust.
    pub(crate) fn parse(text: &str) -> Result<Self, syn::Error> {
        let file = syn::parse_file(text)?;
        let mut visitor = Visitor { source: Self::default(), inside: Vec::new() };
        visitor.visit_file(&file);
        Ok(visitor.source)
    }

    /// Whether a line, counted from 1, belongs to a test.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&line))
    }
}

/// Whether all of a file is for tests: integration tests, benches and the simulator.
pub(crate) fn is_test_file(path: &str) -> bool {
    path.starts_with("sim/") || path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

struct Visitor {
    source: Source,
    /// Names of the types and functions around.
    inside: Vec<String>,
}

impl Visitor {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let name = self
            .inside
            .iter()
            .map(String::as_str)
            .chain([&*signature.ident.to_string()])
            .collect::<Vec<_>>()
            .join("::");
        let line = signature.span().start().line;
        let lines = body.span().end().line + 1 - line;
        self.source.functions.push(Function { name, line, lines });
    }

    fn test(&mut self, attributes: &[syn::Attribute], whole: Span) -> bool {
        let is_test = attributes.iter().any(is_cfg_test);
        if is_test {
            let start = attributes.iter().map(|attribute| attribute.span().start().line).min();
            self.source.tests.push(start.unwrap_or(whole.start().line)..=whole.end().line);
        }
        is_test
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let condition = list.tokens.to_string();
    let mut words = condition.split(|one: char| !one.is_ascii_alphanumeric());
    // `any(test, ...)` and `not(test)` are built outside tests too.
    attribute.path().is_ident("cfg")
        && words.clone().any(|word| word == "test")
        && words.all(|w| w != "not" && w != "any")
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if self.test(&item.attrs, item.span()) {
            return;
        }
        self.function(&item.sig, &item.block);
        self.inside.push(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
        self.inside.pop();
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if self.test(&item.attrs, item.span()) {
            return;
        }
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !self.test(&item.attrs, item.span()) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if self.test(&item.attrs, item.span()) {
            return;
        }
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let depth = self.inside.len();
        self.inside.extend(name);
        visit::visit_item_impl(self, item);
        self.inside.truncate(depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_functions_and_tests() {
        let text = "\
struct A;
impl A {
    /// Not counted.
    fn long(&self) {
        let x = 1;
    }
}
fn f() { fn g() {} }
#[cfg(test)]
mod tests {
    fn not_counted() {
    }
}
#[cfg(all(test, unix))]
fn neither() {}
#[cfg(not(test))]
fn counted() {}
";
        let source = Source::parse(text).unwrap();
        let found: Vec<_> = source.functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(found, [("A::long", 4, 3), ("f", 8, 1), ("f::g", 8, 1), ("counted", 17, 1)]);
        assert_eq!(source.tests, [9..=13, 14..=15]);
        assert!(source.is_test(11) && !source.is_test(8));
        assert!(Source::parse("fn {").is_err());
    }
}
