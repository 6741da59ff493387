//! How deep what a template makes may nest.
//!
//! Values are written, compared, hashed and dropped by functions that call themselves for what a value holds, so a
//! list in a list in a list, ten thousand deep, overflows the stack, and an overflow ends the process. The
//! template engine bounds its own recursion and its steps, but not this.
//!
//! A value can only get deeper without end where one step keeps what the next one wraps. Whatever a template keeps by a
//! name or in a namespace is therefore copied when it is kept, and refused if it is deeper than [`MAX_DEPTH`]: a
//! template is read with a filter added wherever a name is bound. Between two bindings lies one tag, and one tag has at
//! most [`MAX_TOKENS`] tokens, each of which adds one level at most. So the deepest value there can be has fewer levels
//! than twice the sum of the two (an expression may hold a loop, and that what is looped over), for which [`STACK`] is
//! enough many times over.
//!
//! Invariants: a namespace holds no namespace, and nothing that is kept holds a loop; so no value holds itself.

use std::cell::Cell;

use indexmap::IndexMap;
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{DynObject, ObjectRepr, Tuple, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Value, functions};

/// Runs `work`, which reads or renders a template, with as much stack as the deepest value needs.
pub(super) fn with_stack<T>(work: impl FnOnce() -> T) -> T {
    COPIED.set(0);
    stacker::grow(STACK, work)
}

/// Makes known what [`bounded`] puts into templates.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter(KEPT, |value: &Value| kept(value));
    environment.add_filter(STORED, |value: &Value| copy(value, MAX_DEPTH));
    environment.add_function("namespace", |values: Option<ValueOrKwargs>| {
        let copied = values.map(|values| copy(&values.into(), MAX_DEPTH)).transpose()?;
        functions::namespace(copied.map(Into::into))
    });
}

/// The template with a filter wherever it binds a name; refuses what could nest without one.
pub(super) fn bounded(template: &str, syntax: &SyntaxConfig) -> Result<String, Error> {
    let mut text = String::with_capacity(template.len() * 2);
    let mut copied = 0;
    let mut tag: Vec<Part<'_>> = Vec::new();
    let mut branches = 0;
    for part in tokenize(template, false, syntax.clone()) {
        let (token, span) = part?;
        let part = Part { token, start: span.start_offset as usize, end: span.end_offset as usize };
        match part.token {
            Token::TemplateData(_) => continue,
            Token::BlockStart | Token::VariableStart => tag.clear(),
            Token::VariableEnd => check(&tag)?,
            Token::BlockEnd => {
                check(&tag)?;
                branches += usize::from(tag.first().is_some_and(|part| part.is("elif")));
                if branches > MAX_BRANCHES {
                    return Err(refused("it has too many branches"));
                }
                for (at, added) in additions(&tag, part.start)? {
                    text.push_str(&template[copied..at]);
                    text.push_str(&added);
                    copied = at;
                }
            }
            _ => tag.push(part),
        }
        if tag.len() > MAX_TOKENS {
            return Err(refused("one of its tags is too long"));
        }
    }
    text.push_str(&template[copied..]);
    Ok(text)
}

/// A token of a tag, and where it stands.
struct Part<'a> {
    token: Token<'a>,
    start: usize,
    end: usize,
}

impl Part<'_> {
    fn is(&self, word: &str) -> bool {
        matches!(self.token, Token::Ident(name) if name == word)
    }
}

/// `loop` is used for what it tells; as a value it is only given a name.
fn check(tag: &[Part<'_>]) -> Result<(), Error> {
    if tag.first().is_some_and(|part| part.is("set")) {
        return Ok(());
    }
    for (index, part) in tag.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| &tag[index].token);
        let after = tag.get(index + 1).map(|part| &part.token);
        let is_of_another = matches!(before, Some(Token::Dot | Token::Pipe));
        let is_asked = matches!(after, Some(Token::Dot | Token::Assign));
        if part.is("loop") && !is_of_another && !is_asked {
            return Err(refused("it uses `loop` as a value"));
        }
    }
    Ok(())
}

/// What is added to a tag that ends at `end`, and where, in order.
fn additions(tag: &[Part<'_>], end: usize) -> Result<Vec<(usize, String)>, Error> {
    let Some((Token::Ident(word), rest)) =
        tag.split_first().map(|(part, rest)| (&part.token, rest))
    else {
        return Ok(Vec::new());
    };
    let names = match *word {
        "set" => return Ok(filtered(rest, end)),
        "for" => {
            if let [.., before, last] = rest
                && last.is("recursive")
                && !before.is("in")
                && !matches!(before.token, Token::Dot | Token::Pipe)
            {
                return Err(refused("it has a recursive loop"));
            }
            names(rest.split(|part| part.is("in")).next().unwrap_or_default())
        }
        "with" => assigned(rest),
        "macro" => parameters(rest.get(1..).unwrap_or_default()),
        "call" => parameters(rest),
        "import" | "from" | "include" | "extends" => {
            return Err(refused(&format!("it needs another template for `{word}`")));
        }
        _ => Vec::new(),
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // The marks at the tag's own end go to the last addition, and so what they do to white space.
    let bind = |name: &&str| format!(" %}}{{% set {name} = {name}|{KEPT} ");
    Ok(vec![(end, names.iter().map(bind).collect())])
}

/// An assignment's value through a filter; nothing for one whose value is a text between two tags.
fn filtered(tag: &[Part<'_>], end: usize) -> Vec<(usize, String)> {
    let is_end = |part: &Part<'_>| matches!(part.token, Token::Assign | Token::Pipe);
    let Some(at) = tag.iter().position(is_end) else { return Vec::new() };
    if matches!(tag[at].token, Token::Pipe) {
        return Vec::new();
    }
    let is_in_namespace = tag[..at].iter().any(|part| matches!(part.token, Token::Dot));
    let filter = if is_in_namespace { STORED } else { KEPT };
    vec![(tag[at].end, "(".to_owned()), (end, format!(")|{filter} "))]
}

fn names<'a>(tag: &[Part<'a>]) -> Vec<&'a str> {
    let name = |part: &Part<'a>| match part.token {
        Token::Ident(name) => Some(name),
        _ => None,
    };
    tag.iter().filter_map(name).collect()
}

/// The names that a list of assignments binds.
fn assigned<'a>(tag: &[Part<'a>]) -> Vec<&'a str> {
    let mut bound = Vec::new();
    let mut depth = 0_usize;
    // Where the target may have begun: after the last comma between assignments.
    let mut start = 0;
    for (index, part) in tag.iter().enumerate() {
        match part.token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            Token::Comma if depth == 0 => start = index + 1,
            Token::Assign if depth == 0 => bound.extend(names(&tag[start..index])),
            _ => {}
        }
    }
    bound
}

/// The names of a list of parameters, which begins the tag.
fn parameters<'a>(tag: &[Part<'a>]) -> Vec<&'a str> {
    let mut bound = Vec::new();
    let mut depth = 0_usize;
    for (index, part) in tag.iter().enumerate() {
        match part.token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            Token::Ident(name)
                if depth == 1
                    && matches!(tag[index - 1].token, Token::ParenOpen | Token::Comma) =>
            {
                bound.push(name);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    bound
}

/// What a name may stand for: a copy, a namespace itself, and of a loop what it tells now.
fn kept(value: &Value) -> Result<Value, Error> {
    match value.as_object() {
        Some(object) if is_namespace(object) => Ok(value.clone()),
        Some(object) if is_loop(object) => LOOP_FIELDS
            .iter()
            .map(|field| Ok((Value::from(*field), value.get_attr(field)?)))
            .collect::<Result<IndexMap<_, _>, _>>()
            .map(Value::from_object),
        _ => copy(value, MAX_DEPTH),
    }
}

/// A copy that holds all of its values itself; what is lazy is computed.
fn copy(value: &Value, levels: usize) -> Result<Value, Error> {
    let copied = COPIED.get() + 1;
    COPIED.set(copied);
    if copied > MAX_COPIED {
        return Err(refused("it keeps too many values"));
    }
    let Some(object) = value.as_object() else { return Ok(value.clone()) };
    if is_namespace(object) || is_loop(object) {
        return Err(refused("it keeps a namespace or a loop in another value"));
    }
    if object.repr() == ObjectRepr::Plain {
        return Ok(value.clone());
    }
    let Some(levels) = levels.checked_sub(1) else {
        return Err(refused(&format!("it nests values deeper than {MAX_DEPTH}")));
    };
    if object.repr() == ObjectRepr::Map {
        let pairs = object.try_iter_pairs().into_iter().flatten();
        let pairs = pairs.map(|(key, value)| Ok((copy(&key, levels)?, copy(&value, levels)?)));
        return Ok(Value::from_object(pairs.collect::<Result<IndexMap<_, _>, Error>>()?));
    }
    let items: Vec<Value> =
        value.try_iter()?.map(|item| copy(&item, levels)).collect::<Result<_, _>>()?;
    if value.is_tuple() {
        return Ok(Tuple::from(items).into());
    }
    Ok(Value::from(items))
}

// The engine keeps these types to itself.
fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

fn is_loop(object: &DynObject) -> bool {
    object.type_name().ends_with("::Loop")
}

fn refused(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the chat template is refused: {problem}"))
}

thread_local! {
    /// Values that were copied in this rendering.
    static COPIED: Cell<usize> = const { Cell::new(0) };
}

const KEPT: &str = "__kept";
const STORED: &str = "__stored";
const LOOP_FIELDS: [&str; 9] =
    ["index0", "index", "length", "revindex", "revindex0", "first", "last", "depth", "depth0"];
/// Levels of what is kept: conversations have up to 128.
const MAX_DEPTH: usize = 256;
/// Tokens of one tag; real ones have a few hundred at most.
const MAX_TOKENS: usize = 2_000;
/// Branches after the first ones of all conditions, each of which the engine reads within the one before.
const MAX_BRANCHES: usize = 1_000;
/// Values copied in one rendering: a second's work at most.
const MAX_COPIED: usize = 10_000_000;
/// Bytes of the stack for a rendering; only what is used of it costs memory.
const STACK: usize = 64 << 20;

#[cfg(test)]
mod tests;
