//! The pool against a model of it that is too simple to be wrong.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Take so many.
    Take(u32),
    /// Hold what another one holds.
    Share(usize),
    /// Give everything of a holder back.
    GiveBack(usize),
    /// Name a block of a holder after this text.
    Name(usize, usize, u8),
    /// Look for a chain of two texts and hold it.
    Find(u8, u8),
    /// Distrust what a holder has.
    Distrust(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let (pick, text) = (any::<usize>, 0..20_u8);
    let act = prop_oneof![
        4 => (0..9_u32).prop_map(Act::Take),
        1 => pick().prop_map(Act::Share),
        4 => pick().prop_map(Act::GiveBack),
        6 => (pick(), pick(), text.clone()).prop_map(|(a, b, text)| Act::Name(a, b, text)),
        3 => (text.clone(), text).prop_map(|(a, b)| Act::Find(a, b)),
        1 => pick().prop_map(Act::Distrust),
    ];
    prop::collection::vec(act, 0..120)
}

fn hash(text: u8) -> BlockHash {
    BlockHash::from_bytes([text; 32])
}

/// Lists, searched from the front.
#[derive(Default)]
struct Model {
    holds: Vec<Vec<Block>>,
    names: Vec<(BlockHash, Block)>,
    /// Known blocks that nobody holds, the least recently used first.
    unused: Vec<Block>,
}

impl Model {
    fn held(&self, block: Block) -> bool {
        self.holds.iter().flatten().any(|held| *held == block)
    }

    fn find(&self, name: BlockHash) -> Option<Block> {
        self.names.iter().find(|(known, _)| *known == name).map(|(_, block)| *block)
    }

    fn named(&self, block: Block) -> bool {
        self.names.iter().any(|(_, named)| *named == block)
    }

    /// What the pool may give out: nameless blocks, and then the least recently used.
    fn take(&mut self, taken: Vec<Block>) {
        let nameless = (0..TOTAL).filter(|block| !self.held(*block) && !self.named(*block)).count();
        let evicted = taken.len().saturating_sub(nameless);
        let gone: Vec<Block> = self.unused.drain(..evicted).collect();
        assert!(gone.iter().all(|block| taken.contains(block)), "{gone:?} of {taken:?}");
        self.names.retain(|(_, block)| !gone.contains(block));
        self.holds.push(taken);
    }

    fn hold(&mut self, blocks: Vec<Block>) {
        self.unused.retain(|block| !blocks.contains(block));
        self.holds.push(blocks);
    }

    fn give_back(&mut self, index: usize) -> Vec<Block> {
        let blocks = self.holds.swap_remove(index);
        for &block in blocks.iter().rev() {
            if !self.held(block) && self.named(block) {
                self.unused.push(block);
            }
        }
        blocks
    }
}

fn check(pool: &BlockPool, model: &Model) -> Result<(), TestCaseError> {
    let held = (0..TOTAL).filter(|block| model.held(*block)).count() as u32;
    prop_assert_eq!(pool.free() + held, TOTAL);
    prop_assert_eq!(pool.known() as usize, model.names.len());
    for text in 0..20 {
        let found = pool.find(&[hash(text)]).first().copied();
        prop_assert_eq!(found, model.find(hash(text)), "text {}", text);
    }
    let unused: Vec<Block> = pool.unused.values().copied().collect();
    prop_assert_eq!(&unused, &model.unused);
    Ok(())
}

fn act(pool: &mut BlockPool, model: &mut Model, act: Act) -> Result<(), TestCaseError> {
    let holders = model.holds.len();
    match act {
        Act::Take(count) => {
            let room = pool.free() >= count;
            let taken = pool.take(count);
            prop_assert_eq!(taken.is_some(), room, "all or none");
            if let Some(taken) = taken {
                prop_assert_eq!(taken.len(), count as usize);
                prop_assert!(taken.iter().all(|block| !model.held(*block)));
                model.take(taken);
            }
        }
        Act::Find(first, second) => {
            let found = pool.find(&[hash(first), hash(second)]);
            let expected = [first, second].map(|text| model.find(hash(text)));
            let expected: Vec<Block> = expected.into_iter().map_while(|block| block).collect();
            prop_assert_eq!(&found, &expected);
            // A sequence has no block twice.
            if first != second {
                pool.hold(&found);
                model.hold(found);
            }
        }
        _ if holders == 0 => {}
        Act::Share(pick) => {
            let hold = model.holds[pick % holders].clone();
            pool.hold(&hold);
            model.hold(hold);
        }
        Act::GiveBack(pick) => {
            let blocks = model.give_back(pick % holders);
            pool.give_back(&blocks);
        }
        Act::Name(pick, block, text) => {
            let hold = &model.holds[pick % holders];
            let Some(&block) = hold.get(block % hold.len().max(1)) else { return Ok(()) };
            if !model.named(block) {
                pool.name(block, hash(text));
                if model.find(hash(text)).is_none() {
                    model.names.push((hash(text), block));
                }
            }
        }
        Act::Distrust(pick) => {
            let hold = &model.holds[pick % holders];
            pool.distrust(hold);
            model.names.retain(|(_, block)| !hold.contains(block));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_pool_does_what_its_model_does_and_everything_comes_back(acts in acts()) {
        let (mut pool, mut model) = (BlockPool::new(TOTAL), Model::default());
        let mut told = std::collections::BTreeSet::new();
        for step in acts {
            act(&mut pool, &mut model, step)?;
            check(&pool, &model)?;
            for change in pool.changes() {
                match change {
                    Change::Known(name) => prop_assert!(told.insert(name), "told once"),
                    Change::Gone(name) => prop_assert!(told.remove(&name), "was told before"),
                }
            }
            let known: std::collections::BTreeSet<_> = model.names.iter().map(|(name, _)| *name).collect();
            prop_assert_eq!(&told, &known, "whoever follows the changes knows what is known");
        }
        while !model.holds.is_empty() {
            let blocks = model.give_back(0);
            pool.give_back(&blocks);
        }
        prop_assert_eq!(pool.free(), TOTAL);
    }
}

#[test]
fn the_end_of_a_text_is_given_out_before_its_beginning() {
    let mut pool = BlockPool::new(3);
    let blocks = pool.take(3).unwrap();
    for (block, text) in blocks.iter().zip(0..) {
        pool.name(*block, hash(text));
    }
    pool.give_back(&blocks);

    pool.take(1).unwrap();

    assert_eq!(pool.find(&[hash(0), hash(1), hash(2)]).len(), 2);
}

const TOTAL: u32 = 24;
