//! Fuzzing: every target for a bounded time, from its seeds.
//!
//! Decides how the targets of `fuzz/` are compiled, and what bounds a run: time, memory and the length of an input.
//! Promises that a run which found something fails, and says how to see it again. Knows nothing of what a
//! target reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command::{cargo, installed, program, root, run, say};

/// A target: a program in `fuzz/targets`, with seeds in `fuzz/seeds`.
struct Target {
    name: &'static str,
    /// Longest input, in bytes.
    longest: u32,
    /// After so many seconds an input is one that takes too long.
    patience: u32,
}

const TARGETS: &[Target] = &[
    Target { name: "chat_template", longest: 4096, patience: 20 },
    Target { name: "gguf", longest: 16384, patience: 10 },
    // Compiling is given up after a while by whoever waits for it, but ends by itself only.
    Target { name: "grammar", longest: 2048, patience: 60 },
    Target { name: "request", longest: 4096, patience: 10 },
    Target { name: "safetensors", longest: 16384, patience: 10 },
    Target { name: "tool_calls", longest: 1024, patience: 10 },
    Target { name: "wire", longest: 2048, patience: 10 },
];

/// Fuzzes as `arguments` say: `--seconds N` for each target, and the names of targets; else all of them.
pub(crate) fn fuzz(arguments: &[&str]) -> anyhow::Result<()> {
    let (seconds, targets) = asked(arguments)?;
    if !installed("c++") {
        bail!(
            "libFuzzer is written in C++: install a C++ compiler called `c++` (Debian: `apt-get install g++`)"
        );
    }
    let host = host()?;
    // One after another: what is wrong with one of them is no reason to build the others.
    let mut found = Vec::new();
    for target in targets {
        run(&mut build(&host, target)).with_context(|| format!("build `{}`", target.name))?;
        let program = built().join(&host).join("release").join(target.name);
        if let Some(problem) = play(&program, target, seconds)? {
            say(&problem);
            found.push(target.name);
        }
    }
    if !found.is_empty() {
        bail!("found something in: {}", found.join(", "));
    }
    Ok(())
}

/// Seconds for each target, and the targets.
fn asked(arguments: &[&str]) -> anyhow::Result<(u32, Vec<&'static Target>)> {
    let (seconds, names) = match arguments {
        ["--seconds", seconds, names @ ..] => (
            seconds.parse().with_context(|| format!("`{seconds}` is no number of seconds"))?,
            names,
        ),
        names => (SECONDS, names),
    };
    // None is no bound for libFuzzer.
    if seconds == 0 {
        bail!("a target needs at least a second");
    }
    let find = |name: &&str| {
        let target = TARGETS.iter().find(|target| target.name == *name);
        target.with_context(|| {
            let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            format!("there is no target `{name}`; there are: {}", known.join(", "))
        })
    };
    let named: Vec<&Target> = names.iter().map(find).collect::<anyhow::Result<_>>()?;
    Ok((seconds, if named.is_empty() { TARGETS.iter().collect() } else { named }))
}

/// The platform of this machine. Named to cargo, so that its flags do not reach build scripts and macros.
fn host() -> anyhow::Result<String> {
    let told = program("rustc").arg("-vV").output().context("ask rustc for its platform")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which platform it is")
}

fn build(host: &str, target: &Target) -> Command {
    let manifest = root().join("fuzz/Cargo.toml");
    let mut command = cargo(&["build", "--release", "--target", host, "--bin", target.name]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(built());
    command.env("RUSTFLAGS", INSTRUMENTED.join(" "));
    command
}

/// Runs a target; the answer is what to do about what it found.
fn play(program: &Path, target: &Target, seconds: u32) -> anyhow::Result<Option<String>> {
    let corpus = built().join("corpus").join(target.name);
    let found = built().join("found").join(target.name);
    let scratch = built().join("scratch");
    for folder in [&corpus, &found, &scratch] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let seeds = format!("fuzz/seeds/{}", target.name);
    // An allocation that no memory is behind yet would not count as memory in use, but as address space.
    let mut command = crate::command::program("sh");
    command
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$@\"")])
        .args([Path::new("sh"), program])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-timeout={}", target.patience))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-verbosity=1"])
        .arg(&corpus)
        .arg(&seeds)
        .env("TMPDIR", &scratch);
    let outcome = run(&mut command);
    fs::remove_dir_all(&scratch).context("remove what the target wrote")?;
    let Err(error) = outcome else { return Ok(None) };
    let (name, program, found) = (target.name, program.display(), found.display());
    Ok(Some(format!(
        "{error:#}\n\n`{name}` found an input, whose path stands above; it is in {found}.\n\
         See it again:  {program} {found}/<input>\n\
         Make it small: {program} -minimize_crash=1 -runs=10000 {found}/<input>\n\
         Then mend it, put the input into {seeds}, where tests read it, and write a test where the mistake is."
    )))
}

/// What is built and found. Not the workspace's own folder: other flags would build everything there again.
fn built() -> PathBuf {
    root().join("fuzz/target")
}

/// How libFuzzer sees which ways an input takes; `cargo fuzz` says the same to an unstable compiler.
const INSTRUMENTED: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Seconds for each target, if nothing else is said.
const SECONDS: u32 = 20;
const MEMORY_MIB: u32 = 2048;
const ADDRESS_SPACE_KIB: u32 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_the_fuzz_package_is_a_target_with_seeds() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let programs = manifest["bin"].as_array().unwrap();
        let programs: Vec<&str> = programs.iter().map(|it| it["name"].as_str().unwrap()).collect();
        let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(targets, programs);
        for target in TARGETS {
            let seeds = fs::read_dir(root().join("fuzz/seeds").join(target.name)).unwrap();
            for seed in seeds {
                let length = seed.unwrap().metadata().unwrap().len();
                assert!(length <= u64::from(target.longest), "a seed of {} is cut", target.name);
            }
        }
    }

    #[test]
    fn targets_and_seconds_are_asked_for_by_name() {
        let (seconds, targets) = asked(&["--seconds", "7", "wire"]).unwrap();
        assert_eq!((seconds, targets.len(), targets[0].name), (7, 1, "wire"));
        let (seconds, targets) = asked(&[]).unwrap();
        assert_eq!((seconds, targets.len()), (SECONDS, TARGETS.len()));
        assert!(asked(&["nothing"]).err().unwrap().to_string().contains("tool_calls"));
        assert!(asked(&["--seconds", "0"]).is_err());
    }
}
