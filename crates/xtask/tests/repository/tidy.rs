//! Holds what the style asks for and a machine can see: short files, short functions, nothing
//! unfinished, clean text, and nothing that is true on one machine only.

use crate::files::{File, rust, texts};
use crate::scanner::{code, functions};

#[test]
fn rust_files_are_short() {
    complain(rust().iter().filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > MAX_FILE_LINES)
            .then(|| file.problem(1, &format!("{lines} lines; {MAX_FILE_LINES} are allowed")))
    }));
}

#[test]
fn functions_fit_on_a_screen() {
    complain(rust().iter().flat_map(long_functions));
}

#[test]
fn a_function_that_is_too_long_is_found() {
    let body = "    work();\n".repeat(MAX_FUNCTION_LINES - 1);
    let text = format!("fn allowed() {{}}\n\nfn long() {{\n{body}}}\n");
    let file = File { path: "example.rs".into(), text };

    let problems = long_functions(&file);

    assert_eq!(problems, ["example.rs:3: `long` has 81 lines; 80 are allowed"]);
}

#[test]
fn nothing_is_left_unfinished() {
    complain(rust().iter().flat_map(|file| {
        let code = code(&file.text);
        let todo = code.lines().enumerate().filter(|(_, line)| line.contains("todo!"));
        todo.map(|(at, _)| file.problem(at + 1, "finish it, or leave it out")).collect::<Vec<_>>()
    }));
}

#[test]
fn text_has_no_tabs_and_no_blanks_at_the_end_of_a_line() {
    let texts = texts();
    let written = texts.iter().filter(|file| file.has_extension(WRITTEN_BY_HAND));
    complain(written.flat_map(|file| {
        problems(file, |line| {
            (line.contains('\t') || line.ends_with([' ', '\r'])).then(|| "clean the blanks".into())
        })
    }));
}

#[test]
fn nothing_names_a_machine_or_a_registry_host() {
    complain(texts().iter().flat_map(|file| {
        problems(file, |line| {
            let word = ELSEWHERE.iter().find(|word| line.contains(**word))?;
            Some(format!("`{word}` is not the same everywhere"))
        })
    }));
}

fn long_functions(file: &File) -> Vec<String> {
    functions(&file.text)
        .iter()
        .filter(|function| function.lines > MAX_FUNCTION_LINES)
        .map(|function| {
            let (name, lines) = (&function.name, function.lines);
            let problem = format!("`{name}` has {lines} lines; {MAX_FUNCTION_LINES} are allowed");
            file.problem(function.line, &problem)
        })
        .collect()
}

fn problems(file: &File, look: impl Fn(&str) -> Option<String>) -> Vec<String> {
    // Not `lines`: it would hide a carriage return.
    let lines = file.text.split('\n').enumerate();
    lines.filter_map(|(at, line)| look(line).map(|found| file.problem(at + 1, &found))).collect()
}

fn complain(problems: impl Iterator<Item = String>) {
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

const MAX_FILE_LINES: usize = 700;
const MAX_FUNCTION_LINES: usize = 80;

const WRITTEN_BY_HAND: &[&str] = &[
    "css", "html", "js", "lua", "md", "mjs", "proto", "py", "rs", "sh", "sql", "toml", "yaml",
    "yml",
];

// In two parts each, or this file would be its own first problem.
const ELSEWHERE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("registry.", "npmjs"),
    concat!("python", "hosted.org"),
    concat!("pypi", ".org/simple"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
];
