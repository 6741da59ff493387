//! Runs other programs: says what it runs, and makes a failing exit status an error.
//!
//! Promises that every command starts in the repository's root, so that a chore does the same wherever
//! it is called from. Knows nothing of what the programs do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The repository's root: two folders above this package.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this package lies in crates/xtask")
}

/// Where cargo builds, and so where everything else that is generated goes.
pub(crate) fn target() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "cargo itself is configured by it")]
    let elsewhere = std::env::var_os("CARGO_TARGET_DIR");
    root().join(elsewhere.unwrap_or_else(|| "target".into()))
}

pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = program("cargo");
    command.args(arguments);
    command
}

/// Runs the command to its end, its output beside ours.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = line(command);
    say(&format!("+ {line}"));
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Whether the command can be started and succeeds; its output is nobody's business.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a program of this name is on the search path and answers.
pub(crate) fn installed(name: &str) -> bool {
    succeeds(program(name).arg("--version"))
}

#[expect(clippy::print_stderr, reason = "a command line tool talks to whoever called it")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}
