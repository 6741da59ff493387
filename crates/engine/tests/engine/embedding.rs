//! Texts to vectors, for many at once.

use std::path::Path;
use std::sync::Arc;

use domain::{ModelKind, ModelName, ProjectId, Share};
use engine::{Embedder, EmbedderConfig, Encoder, Failure, Refusal};

use crate::support::block_on;

fn embedder(max_waiting: u32) -> Embedder {
    embedder_of("bert", max_waiting)
}

fn embedder_of(name: &str, max_waiting: u32) -> Embedder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoders").join(name);
    let encoder = Encoder::load(ModelName::new(name), &folder, &mut |_| {}).unwrap();
    Embedder::start(encoder, EmbedderConfig { max_waiting, compute_threads: 2 }).unwrap()
}

fn share() -> Share {
    Share::of(ProjectId::from_u128(1))
}

fn text(tokens: impl IntoIterator<Item = u32>) -> Arc<[u32]> {
    tokens.into_iter().collect()
}

#[test]
fn a_text_has_the_same_vector_whatever_it_comes_with() {
    for name in ["bert", "modernbert", "nomic"] {
        let embedder = embedder_of(name, 10);
        let texts = vec![text(2..40), text([5]), text(2..40)];
        let answer = embedder.submit(texts, share()).unwrap();
        let alone = embedder.submit(vec![text([5])], share()).unwrap();

        let (together, alone) = (block_on(answer.wait()).unwrap(), block_on(alone.wait()).unwrap());

        assert_eq!(together.vectors[0], together.vectors[2]);
        assert_eq!(together.vectors[1], alone.vectors[0]);
        assert_eq!((together.usage.prompt_tokens, together.usage.completion_tokens), (77, 0));
        assert_eq!(embedder.info().kind, ModelKind::Embedding { dimensions: 64 });
    }
}

#[test]
fn every_nanosecond_of_an_embedder_has_an_owner() {
    let embedder = embedder(100);
    let mut billed = 0;
    for number in 0..20 {
        let answer = embedder.submit(vec![text(2..3 + number)], share()).unwrap();
        if number % 5 == 4 {
            drop(answer); // left
        } else {
            billed += block_on(answer.wait()).unwrap().usage.gpu.nanos();
        }
    }
    // With its answer, everything before it is in the books.
    let last = embedder.submit(vec![text([7])], share()).unwrap();
    billed += block_on(last.wait()).unwrap().usage.gpu.nanos();
    let states = embedder.watch();
    drop(embedder);

    let accounts = states.borrow().accounts;

    assert_eq!(accounts.owned(), accounts.wall);
    assert_eq!(accounts.requests.nanos(), billed);
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let embedder = embedder(10);
    let refusal = |texts| embedder.submit(texts, share()).err().unwrap();
    assert!(matches!(refusal(vec![text([])]), Refusal::Invalid(_)));
    assert!(matches!(refusal(vec![text([96])]), Refusal::Invalid(_)));
    assert!(matches!(
        refusal(vec![text(vec![2; 131])]),
        Refusal::TooLong { tokens: 131, max: 130 }
    ));
    embedder.drain();
    assert!(matches!(refusal(vec![text([2])]), Refusal::Draining));
}

#[test]
fn a_full_queue_says_when_to_come_again_and_a_stopped_one_fails_what_waits() {
    let embedder = embedder(3);
    let long = || vec![text(vec![3; 128]); 50];
    let mut waiting = Vec::new();
    let full = loop {
        match embedder.submit(long(), share()) {
            Ok(answer) => waiting.push(answer),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(full, Refusal::Full { retry_in } if !retry_in.is_zero()), "{full:?}");

    drop(embedder);

    let last = block_on(waiting.pop().unwrap().wait());
    assert_eq!(last, Err(Failure::Stopped));
}
