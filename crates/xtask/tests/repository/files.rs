//! Finds the repository's own files: everything that is neither built, fetched nor stored by git.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file, and where it lies below the repository's root.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = self.path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
    }

    /// A problem in this file, as a reader or an editor can follow it; lines count from 1.
    pub(crate) fn problem(&self, line: usize, problem: &str) -> String {
        format!("{}:{line}: {problem}", self.path.display())
    }
}

pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this package lies in crates/xtask")
}

/// Every text file of the repository, in order.
pub(crate) fn texts() -> Vec<File> {
    let mut files = Vec::new();
    collect(root(), &mut files);
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

pub(crate) fn rust() -> Vec<File> {
    let rust: Vec<File> = texts().into_iter().filter(|file| file.has_extension(&["rs"])).collect();
    assert!(!rust.is_empty(), "there are Rust files to look at");
    rust
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for entry in
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !NOT_OURS.contains(&entry.file_name().to_str().unwrap_or_default()) {
            collect(&entry.path(), files);
        }
        // What is not UTF-8 is no text: a model's weights, a picture.
        if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            let path = entry.path().strip_prefix(root()).unwrap().to_owned();
            files.push(File { path, text });
        }
    }
}

const NOT_OURS: &[&str] = &["target", ".git", "node_modules", "tollgate-data", "__pycache__"];
