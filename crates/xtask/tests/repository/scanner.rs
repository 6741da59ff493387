//! Finds the functions of a Rust file and how long they are, by matching braces.
//!
//! It tells code from comments, strings and character literals, and knows nothing else of Rust: a
//! function is the word `fn`, a name, and the first brace outside of parentheses and brackets. Types
//! that hold a brace of their own (`[u8; { N }]` is fine, `Matrix<{ N }>` in a signature is not) are
//! measured wrongly, and macros that write functions are measured as they are written.

/// A function with a body; lines count from 1, and a one-line function has one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Every function with a body, nested ones too, in the order of their first lines.
pub(crate) fn functions(text: &str) -> Vec<Function> {
    let code = code(text);
    let tokens = tokens(&code);
    let mut functions = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|name| is_word(name.text)) else { continue };
        if token.text != "fn" {
            continue;
        }
        let Some(last) = last_line(&tokens[at + 2..]) else { continue };
        let lines = last - token.line + 1;
        functions.push(Function { name: name.text.to_owned(), line: token.line, lines });
    }
    functions
}

/// The same text with blanks for all that is not code; every line stays where it was.
pub(crate) fn code(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let Some(length) = literal_or_comment(text.as_bytes(), at) else {
            at += 1;
            continue;
        };
        let end = bytes.len().min(at + length);
        bytes[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8(bytes).expect("whole literals and comments are blanked")
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|letter| !is_word_letter(letter)).unwrap_or(rest.len());
            let (text, after) = rest.split_at(word.max(first.len_utf8()));
            tokens.push(Token { text, line: number + 1 });
            rest = after.trim_start();
        }
    }
    tokens
}

/// The line of the brace that closes the body, given what follows the name; `None` without a body.
fn last_line(tokens: &[Token<'_>]) -> Option<usize> {
    let mut nested = 0_usize;
    let mut braces = 0_usize;
    for token in tokens {
        match token.text {
            "(" | "[" => nested += 1,
            ")" | "]" => nested = nested.saturating_sub(1),
            ";" if nested == 0 && braces == 0 => return None,
            "{" if nested == 0 || braces > 0 => braces += 1,
            "}" if braces == 1 => return Some(token.line),
            "}" => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The length of the comment, string or character that starts here, if one does.
fn literal_or_comment(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    match rest {
        [b'/', b'/', ..] => Some(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment(rest)),
        [b'"', ..] => Some(quoted(rest, b'"')),
        [b'\'', ..] => character(rest),
        _ if at > 0 && is_word_letter(char::from(text[at - 1])) => None,
        _ => raw_string(rest),
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `'a'` is a character, `'a` is a lifetime: what comes after one letter tells.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let letter = rest.get(1).map(|first| match first {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    })?;
    (rest.get(1 + letter) == Some(&b'\'')).then_some(letter + 2)
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = match rest {
        [b'r', ..] => 1,
        [b'b' | b'c', b'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let start = prefix + hashes + 1;
    if rest.get(start - 1) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'#'; hashes + 1];
    end[0] = b'"';
    let found = rest[start..].windows(end.len()).position(|window| window == end);
    Some(found.map_or(rest.len(), |found| start + found + end.len()))
}

fn is_word(text: &str) -> bool {
    text.chars().all(is_word_letter)
}

fn is_word_letter(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

fn function(name: &str, line: usize, lines: usize) -> Function {
    Function { name: name.to_owned(), line, lines }
}

#[test]
fn a_function_is_as_long_as_its_lines() {
    let text = "fn one() {}\n\nfn three(\n    bytes: [u8; 4],\n) -> u8 {\n    { 1 }\n}\n";

    assert_eq!(functions(text), [function("one", 1, 1), function("three", 3, 5)]);
}

#[test]
fn a_nested_function_is_counted_by_itself_too() {
    let text = "fn outer() {\n    fn inner() {\n    }\n}\n";

    assert_eq!(functions(text), [function("outer", 1, 4), function("inner", 2, 2)]);
}

#[test]
fn what_has_no_body_is_no_function() {
    assert_eq!(functions("trait A { fn a(&self); }\ntype F = fn(u8) -> u8;\n"), []);
}

#[test]
fn braces_in_strings_and_comments_do_not_count() {
    let text = r##"
fn tricky<'a>(text: &'a str) -> char {
    // } and "
    /* } /* } */ } */
    let _ = ("}", "\"}", r#""}"#, br"}", b'}', '\'', '}', 'ß');
    'outer: loop { break 'outer; }
    '}'
}
fn after() {}
"##;

    assert_eq!(functions(text), [function("tricky", 2, 7), function("after", 9, 1)]);
}

#[test]
fn code_keeps_its_lines_and_loses_its_words() {
    assert_eq!(code("a\"todo!\n\" // todo!\nb"), "a      \n          \nb");
}
