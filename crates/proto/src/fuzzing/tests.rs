//! Every seed of the fuzz target, and what they are to show.

use std::path::Path;

use super::*;

#[test]
fn wire_seeds_are_understood_and_survive_another_journey_or_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/wire");
    for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        let seed = std::fs::read(file.path()).unwrap();
        assert_eq!(wire(&seed), !name.starts_with("refused"), "{name}");
    }
}
