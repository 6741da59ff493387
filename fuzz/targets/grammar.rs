//! `engine::fuzzing::grammar`, on whatever libFuzzer thinks of.
#![no_main]

use std::panic::set_hook;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // The library catches its own panics, and the product expects that; libFuzzer's hook would take each
        // for a crash. A panic that is not caught still ends the run; only those of our own code are shown.
        set_hook(Box::new(|panic| {
            if panic.location().is_some_and(|at| at.file().contains("engine/src")) {
                eprintln!("{panic}");
            }
        }));
    },
    |bytes: &[u8]| {
        engine::fuzzing::grammar(bytes);
    }
);
