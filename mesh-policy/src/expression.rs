//! Expressions in CEL over the attributes of a request: filters of logs and values of labels (Istio's Telemetry API).
//!
//! An expression is compiled when the configuration arrives and costs nothing where there is none. Its size is bounded, it has no
//! loops, the headers that it reads are known from its text, and patterns in it are compiled with it, so that what a request
//! brings can not make its evaluation long. What can not be evaluated (a header that is not there, a text compared with a
//! number) holds for nothing, as in Envoy.

mod attribute;
mod check;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, Value,
    common::{
        types::{CelBool, CelInt, CelString},
        value::CowVal,
    },
    context::VariableResolver,
    extractors::This,
    parser::Expression as Tree,
};
use serde::{Deserialize, Serialize};

pub use self::attribute::Attribute;
use crate::model::Pattern;

/// Bytes of an expression's text.
const MAX_SOURCE: usize = 1024;
/// Nested operators, calls and parentheses.
const MAX_DEPTH: u16 = 24;
/// Brackets of all kinds, wherever they stand: what the parser may be made to nest.
const MAX_BRACKETS: usize = 64;
/// Bytes of stack for reading an expression: the parser goes as deep as the text has it before it counts.
const STACK: usize = 32 << 20;
/// Bytes of an attribute that are looked at, and of a value that results.
const MAX_VALUE: usize = 4096;

/// CEL's own types and functions; loops are refused when an expression is compiled.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression. Equal if the texts are.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    source: Box<str>,
    tree: Tree,
    /// In lower case.
    request_headers: BTreeSet<Box<str>>,
    response_headers: BTreeSet<Box<str>>,
    attributes: BTreeSet<Attribute>,
    unknown: BTreeSet<Box<str>>,
    patterns: Arc<HashMap<String, Pattern>>,
}

/// Why a text is no expression that can be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("the expression is empty")]
    Empty,
    #[error("the expression has {found} bytes, more than {MAX_SOURCE}")]
    TooLong { found: usize },
    #[error("the expression is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("not CEL: {cause}")]
    Syntax { cause: String },
    #[error("all(), exists(), exists_one(), map() and filter() are not taken")]
    Loop,
    #[error("{what} needs a text that is written out, such as {example}")]
    NotLiteral { what: &'static str, example: &'static str },
    #[error("{cause}")]
    Pattern { cause: String },
}

/// What is known of a request when an expression is evaluated.
pub trait Facts: Sync {
    /// None: the request has none of it.
    fn fact(&self, attribute: Attribute) -> Option<Fact<'_>>;
    /// One value of a header, by its name in lower case.
    fn request_header(&self, name: &str) -> Option<Cow<'_, str>>;
    fn response_header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Is(bool),
}

impl Expression {
    pub fn new(source: &str) -> Result<Self, ExpressionError> {
        if source.trim().is_empty() {
            return Err(ExpressionError::Empty);
        }
        if source.len() > MAX_SOURCE {
            return Err(ExpressionError::TooLong { found: source.len() });
        }
        if source.bytes().filter(|byte| b"([{".contains(byte)).count() > MAX_BRACKETS {
            return Err(ExpressionError::TooDeep);
        }
        let (tree, found) = with_stack(|| read(source))?;
        let check::Found { attributes, request_headers, response_headers, unknown, patterns } = found;
        let (source, patterns) = (source.into(), Arc::new(patterns));
        Ok(Self(Arc::new(Compiled { source, tree, request_headers, response_headers, attributes, unknown, patterns })))
    }

    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// Whether it is `true`; what can not be evaluated is not.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        matches!(self.evaluate(facts), Ok(Value::Bool(true)))
    }

    /// Its value as a label has it, at most 4 KiB; None: it has none, or one that is no text, number or truth.
    pub fn text(&self, facts: &dyn Facts) -> Option<String> {
        match self.evaluate(facts).ok()? {
            Value::String(text) => Some(clip(&text).to_owned()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            _ => None,
        }
    }

    /// Headers of requests whose values it reads, in lower case.
    pub fn request_headers(&self) -> impl Iterator<Item = &str> {
        self.0.request_headers.iter().map(|name| &**name)
    }

    /// The same of answers.
    pub fn response_headers(&self) -> impl Iterator<Item = &str> {
        self.0.response_headers.iter().map(|name| &**name)
    }

    pub fn attributes(&self) -> impl Iterator<Item = Attribute> {
        self.0.attributes.iter().copied()
    }

    /// Names in it that are no attributes here: what depends on them can not be evaluated.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.0.unknown.iter().map(|name| &**name)
    }

    fn evaluate(&self, facts: &dyn Facts) -> Result<Value, ExecutionError> {
        let Compiled { tree, request_headers, response_headers, patterns, .. } = &*self.0;
        let variables = Variables(facts);
        let mut context = Context::with_env(ENV.clone());
        let headers = |names: &BTreeSet<Box<str>>, of: &dyn Fn(&str) -> Option<String>| {
            let found = names.iter().filter_map(|name| Some((name.to_string(), of(name)?)));
            Value::from(found.collect::<HashMap<String, String>>())
        };
        if !request_headers.is_empty() {
            let of = |name: &str| facts.request_header(name).map(|value| clip(&value).to_owned());
            context.add_variable_from_value("request.headers", headers(request_headers, &of));
        }
        if !response_headers.is_empty() {
            let of = |name: &str| facts.response_header(name).map(|value| clip(&value).to_owned());
            context.add_variable_from_value("response.headers", headers(response_headers, &of));
        }
        if !patterns.is_empty() {
            let patterns = patterns.clone();
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                patterns.get(&**pattern).is_some_and(|pattern| pattern.is_within(&text))
            };
            // No other function has the name: the regular expressions of the crate are left out.
            let _ = context.add_function("matches", matches);
        }
        context.set_variable_resolver(&variables);
        Value::resolve(tree, &context)
    }
}

fn read(source: &str) -> Result<(Tree, check::Found), ExpressionError> {
    let parser = ENV.parser().max_recursion_depth(MAX_DEPTH);
    let mut tree = parser.parse(source).map_err(|error| ExpressionError::Syntax { cause: cause(&error.to_string()) })?;
    let found = check::check(&mut tree)?;
    Ok((tree, found))
}

/// Reads on a stack of its own. A parser that breaks down refuses the text, and no more.
fn with_stack<T: Send>(read: impl FnOnce() -> Result<T, ExpressionError> + Send) -> Result<T, ExpressionError> {
    let failed = |cause: &str| ExpressionError::Syntax { cause: cause.to_owned() };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("expression".into()).stack_size(STACK).spawn_scoped(scope, read);
        thread.map_err(|error| failed(&error.to_string()))?.join().unwrap_or_else(|_| Err(failed("it can not be read")))
    })
}

/// Attributes by their whole names, each looked up when it is asked for.
struct Variables<'a>(&'a dyn Facts);

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match self.0.fact(Attribute::named(variable)?)? {
            Fact::Text(Cow::Borrowed(text)) => Some(CowVal::owned(CelString::from(clip(text)))),
            Fact::Text(Cow::Owned(text)) => Some(CowVal::owned(CelString::from(clip(&text).to_owned()))),
            Fact::Number(number) => Some(CowVal::owned(CelInt::from(number))),
            Fact::Is(is) => Some(CowVal::owned(CelBool::from(is))),
        }
    }
}

/// To a bounded length, at the border of a character.
fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_VALUE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The first line of what the parser says, bounded.
fn cause(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(256).collect()
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.as_str())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Expression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = Cow::<str>::deserialize(deserializer)?;
        Self::new(&source).map_err(serde::de::Error::custom)
    }
}
