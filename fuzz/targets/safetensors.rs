//! `engine::fuzzing::safetensors`, on whatever libFuzzer thinks of.
#![no_main]

use std::sync::LazyLock;

use engine::fuzzing::Folder;
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> =
    LazyLock::new(|| Folder::new("safetensors").expect("a folder for files"));

fuzz_target!(|bytes: &[u8]| {
    engine::fuzzing::safetensors(&FOLDER, bytes).expect("write files");
});
