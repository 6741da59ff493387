use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn holds(added: &[u64]) -> PrefixChange {
    PrefixChange { reset: false, added: added.to_vec(), removed: Vec::new() }
}

#[test]
fn the_longest_match_comes_first() {
    let prefixes = Prefixes::default();
    let prompt: Vec<u64> = (100..200).collect();
    prefixes.learn(1, &holds(&prompt[..10]));
    prefixes.learn(2, &holds(&prompt[..70]));
    prefixes.learn(3, &holds(&prompt[..10]));
    prefixes.learn(4, &holds(&[7, 8, 9]));

    let mut found = prefixes.find(&prompt);
    assert_eq!(found[0], (2, 70));
    found.sort_unstable();
    assert_eq!(found, [(1, 10), (2, 70), (3, 10)]);
}

#[test]
fn what_was_reset_or_removed_is_not_found() {
    let prefixes = Prefixes::default();
    assert!(prefixes.is_empty());
    prefixes.learn(1, &holds(&[1, 2, 3]));
    assert!(!prefixes.is_empty());
    prefixes.learn(1, &PrefixChange { reset: false, added: vec![], removed: vec![3] });
    assert_eq!(prefixes.find(&[1, 2, 3]), [(1, 2)]);

    prefixes.learn(1, &PrefixChange { reset: true, added: vec![9], removed: vec![] });
    assert!(prefixes.find(&[1, 2, 3]).is_empty());
    prefixes.forget(1);
    assert!(prefixes.find(&[9]).is_empty() && prefixes.is_empty());
    assert!(prefixes.shards.iter().all(|shard| shard.read().unwrap().is_empty()));
}

#[test]
fn a_worker_that_pushes_without_end_is_remembered_up_to_a_bound() {
    let prefixes = Prefixes::default();
    let flood: Vec<u64> = (0..MAX_BLOCKS as u64 + 1000).collect();
    prefixes.learn(1, &holds(&flood));
    let remembered: usize = prefixes.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
    assert_eq!(remembered, MAX_BLOCKS);
}

proptest! {
    #[test]
    fn matches_are_those_of_looking_at_each_worker(lengths in prop::collection::vec(0_u32..60, 1..7)) {
        let prefixes = Prefixes::default();
        let prompt: Vec<u64> = (1000..1050).collect();
        let mut expected = BTreeMap::new();
        for (worker, length) in (0..).zip(&lengths) {
            let length = (*length).min(50);
            prefixes.learn(worker, &holds(&prompt[..length as usize]));
            if length > 0 {
                expected.insert(worker, length);
            }
        }
        let found: BTreeMap<u32, u32> = prefixes.find(&prompt).into_iter().collect();
        prop_assert_eq!(found, expected);
    }
}
