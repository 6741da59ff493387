//! Holds that every configuration we ship can be read. What its keys mean is checked where they are known.

use std::fs;

use crate::files::root;

#[test]
fn every_configuration_file_is_toml() {
    let folder = root().join("config");
    // A checkout has no folder for what it has no file in.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            let read = text.parse::<toml::Table>();
            assert!(read.is_ok(), "{}: {}", path.display(), read.unwrap_err());
        }
    }
}
