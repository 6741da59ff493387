//! `proto::fuzzing::wire`, on whatever libFuzzer thinks of.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    proto::fuzzing::wire(bytes);
});
