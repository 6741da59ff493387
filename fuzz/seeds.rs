//! The seeds of the fuzz targets, for the tests of the crates whose functions the targets call.

use std::path::Path;

/// The seeds of a target, by name, in order.
pub(crate) fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut seeds: Vec<_> = files
        .map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()))
        .collect();
    seeds.sort_unstable();
    seeds
}
