//! Every seed of the fuzz target, and what they are to show.

use self::seeds::seeds;
use super::*;

#[path = "../../../../fuzz/seeds.rs"]
mod seeds;

#[test]
fn wire_seeds_are_understood_and_survive_another_journey_or_are_refused() {
    for (name, seed) in seeds("wire") {
        assert_eq!(wire(&seed), !name.starts_with("refused"), "{name}");
    }
}
