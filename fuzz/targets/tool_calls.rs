//! `gateway::fuzzing::tool_calls`, on whatever libFuzzer thinks of.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    gateway::fuzzing::tool_calls(bytes);
});
