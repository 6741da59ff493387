//! Installs the client libraries that the system tests drive the product with.
//!
//! What is installed is decided by the pinned lists in `tests/clients`; it goes below `target/clients`
//! and nowhere else. A set that is already as its list says is left alone, so that only the first run,
//! and the first after a list changed, needs a network. Knows nothing of the tests themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::command::{program, root, run, succeeds, target};
use crate::packages;

/// One virtual environment for each of these: `tests/clients/python/<name>.txt`.
const PYTHON_SETS: &[&str] = &["openai-2", "openai-3", "minilm"];

const NODE_FILES: &[&str] = &[".npmrc", "package.json", "package-lock.json"];

/// Installs every set that is not as its list says, and returns where they all are.
pub(crate) fn install() -> anyhow::Result<PathBuf> {
    let clients = target().join("clients");
    for set in PYTHON_SETS {
        install_python(set, &clients.join("python").join(set))
            .with_context(|| format!("install the python clients `{set}`"))?;
    }
    install_node(&clients.join("node")).context("install the node clients")?;
    Ok(clients)
}

fn install_python(set: &str, environment: &Path) -> anyhow::Result<()> {
    let list = root().join("tests/clients/python").join(format!("{set}.txt"));
    let installed = environment.join("installed.txt");
    let python = environment.join("bin/python");
    if same(&list, &installed) && succeeds(program(&python).arg("--version")) {
        return Ok(());
    }

    let system = packages::python().context("find a python3 with its venv module")?;
    run(program(system).args(["-m", "venv", "--clear"]).arg(environment))?;
    // A list is all there is to install.
    run(program(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .arg("--requirement")
        .arg(&list))?;
    // Last: a list beside an environment means that all of it was installed.
    fs::copy(&list, &installed).context("note what was installed")?;
    Ok(())
}

fn install_node(folder: &Path) -> anyhow::Result<()> {
    let lists = root().join("tests/clients/node");
    let installed = folder.join("installed.json");
    if same(&lists.join("package-lock.json"), &installed) {
        return Ok(());
    }

    fs::create_dir_all(folder).context("create the folder for node's packages")?;
    for name in NODE_FILES {
        fs::copy(lists.join(name), folder.join(name)).with_context(|| format!("copy {name}"))?;
    }
    run(program("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(folder))?;
    fs::copy(lists.join("package-lock.json"), &installed).context("note what was installed")?;
    Ok(())
}

fn same(list: &Path, installed: &Path) -> bool {
    fs::read(list).ok().is_some_and(|list| fs::read(installed).ok() == Some(list))
}
