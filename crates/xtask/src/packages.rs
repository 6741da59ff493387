//! Decides which programs the tests need, and gets those that are missing.
//!
//! On Debian and its relatives, as root or with a `sudo` that asks for no password, missing packages are
//! installed; anywhere else the answer is one line that says what to install. Does not know what the
//! programs are used for.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::command::{installed, program, run, succeeds};
use crate::servers::postgres_programs;

/// Something the tests cannot do without.
struct Need {
    name: &'static str,
    packages: &'static [&'static str],
    met: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { name: "redis-server", packages: &["redis-server"], met: || installed("redis-server") },
    Need {
        name: "the PostgreSQL server",
        packages: &["postgresql"],
        met: || postgres_programs().is_some(),
    },
    Need {
        name: "python3 with its venv module",
        packages: &["python3", "python3-venv"],
        met: || python().is_some(),
    },
    Need { name: "node", packages: &["nodejs"], met: || installed("node") },
    Need { name: "npm", packages: &["npm"], met: || installed("npm") },
];

/// A Python that can make virtual environments: the one on the search path, else the system's own.
pub(crate) fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| succeeds(program(python).args(["-c", "import venv, ensurepip"])))
}

/// Makes sure of everything the tests need, or says what is missing.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(rights) = rights() else { bail!("{}", advice(&missing)) };

    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    install(rights, &packages)?;
    for package in packages.iter().filter(|package| SERVICES.contains(package)) {
        quiet(rights, package);
    }

    let missing = self::missing();
    if !missing.is_empty() {
        bail!("{}", advice(&missing));
    }
    Ok(())
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.met)()).collect()
}

fn advice(missing: &[&Need]) -> String {
    let names: Vec<&str> = missing.iter().map(|need| need.name).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    format!(
        "the tests need {}; install them (on Debian: apt-get install {})",
        names.join(", "),
        packages.join(" ")
    )
}

/// How we may install packages here: the words to put in front of a command, if at all.
fn rights() -> Option<&'static [&'static str]> {
    if !Path::new("/etc/debian_version").exists() {
        return None;
    }
    if succeeds(program("sh").args(["-c", "test \"$(id -u)\" = 0"])) {
        return Some(&[]);
    }
    succeeds(program("sudo").args(["-n", "true"])).then_some(&["sudo", "-n"])
}

fn install(rights: &[&str], packages: &[&str]) -> anyhow::Result<()> {
    run(&mut privileged(rights, &["apt-get", "update", "--quiet"]))?;
    let mut words = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install"];
    words.extend(["--yes", "--quiet", "--no-install-recommends"]);
    words.extend(packages);
    run(&mut privileged(rights, &words))
}

/// Debian starts a server for whoever installs one; the tests bring up their own on a free port.
fn quiet(rights: &[&str], service: &str) {
    succeeds(&mut privileged(rights, &["service", service, "stop"]));
    succeeds(&mut privileged(rights, &["update-rc.d", service, "disable"]));
}

fn privileged(rights: &[&str], words: &[&str]) -> Command {
    let words: Vec<&str> = rights.iter().chain(words).copied().collect();
    let mut command = program(words[0]);
    command.args(&words[1..]);
    command
}

/// Packages that bring a running server along.
const SERVICES: &[&str] = &["redis-server", "postgresql"];
