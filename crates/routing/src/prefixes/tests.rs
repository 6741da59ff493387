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

#[test]
fn a_prompt_that_was_sent_is_expected_until_its_worker_tells_or_its_sequence_leaves() {
    let prefixes = Arc::new(Prefixes::default());
    let prompt: Arc<[u64]> = [1, 2, 3].into();
    assert!(prefixes.expect(1, &prompt).is_none(), "nobody knows whether it keeps prefixes");
    prefixes.learn(1, &holds(&[9]));
    let (first, second) = (prefixes.expect(1, &prompt), prefixes.expect(1, &prompt));
    assert_eq!(prefixes.find(&prompt), [(1, 3)]);

    drop(first);
    assert_eq!(prefixes.find(&prompt), [(1, 3)], "the second one will bring it");
    prefixes.learn(1, &holds(&[1]));
    drop(second);
    assert_eq!(prefixes.find(&prompt), [(1, 1)], "only what it told of is left");
}

#[test]
fn nothing_is_expected_of_a_worker_that_begins_anew() {
    let prefixes = Arc::new(Prefixes::default());
    prefixes.learn(1, &holds(&[9]));
    let expected = prefixes.expect(1, &[1, 2].into());
    prefixes.learn(1, &PrefixChange { reset: true, added: vec![7], removed: vec![] });
    assert!(prefixes.find(&[1, 2]).is_empty());

    drop(expected);
    assert_eq!(prefixes.find(&[7]), [(1, 1)]);
    prefixes.forget(1);
    assert!(prefixes.is_empty());
    assert!(prefixes.shards.iter().all(|shard| shard.read().unwrap().is_empty()));
}

#[test]
fn what_is_expected_of_a_worker_has_a_bound() {
    let prefixes = Arc::new(Prefixes::default());
    prefixes.learn(1, &holds(&[u64::MAX]));
    let names: Arc<[u64]> = (0..MAX_EXPECTED as u64 + 1000).collect();
    let expected = prefixes.expect(1, &names);
    assert_eq!(prefixes.find(&names)[0].1 as usize, MAX_EXPECTED);
    drop(expected);
    assert!(prefixes.find(&names).is_empty());
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
