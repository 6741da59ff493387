//! What a sequence says does not depend on its company, on chunking, or on where it was continued.

use domain::{OutputRules, Sampling};
use engine::{Engine, EngineConfig, ModelSource, Request};
use proptest::prelude::*;

use crate::support::{answer, answers, block_on, demo_file, gguf, golden, load, request, start};

/// Sixteen requests of mixed lengths; every second one is sampled, with every option.
fn requests(seed: u64) -> Vec<Request> {
    let cases = golden();
    let mut requests = Vec::new();
    for index in 0..16_u64 {
        let case = &cases[((seed + index * 7) % cases.len() as u64) as usize];
        // Some prompts are several conversations long.
        let prompt = case.prompt_token_ids.repeat(1 + (index % 4) as usize * 2);
        let mut request = request(&prompt[..prompt.len().min(400)], 12 + (index % 5) as u32 * 6);
        request.output.ignore_eos = index % 3 == 0;
        if index % 4 == 1 {
            request.output = worded(&case.prompt_token_ids, request.output);
        }
        if index % 2 == 1 {
            request.sampling = sampled(seed + index);
        }
        requests.push(request);
    }
    requests
}

/// The same rules, with some about tokens that this conversation is likely to have more of.
fn worded(conversation: &[u32], rules: OutputRules) -> OutputRules {
    let pairs = conversation.windows(2).step_by(2).map(<[u32]>::to_vec);
    OutputRules {
        stop_token_ids: [conversation[1]].into(),
        allowed_token_ids: Some((0..4096).filter(|id| id % 5 != 0).collect()),
        bad_words: pairs.chain([vec![198]]).collect(),
        min_tokens: 7,
        ..rules
    }
}

fn sampled(seed: u64) -> Sampling {
    Sampling {
        temperature: 1.3,
        top_p: 0.95,
        top_k: 200,
        min_p: 0.001,
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: 0.1,
        logit_bias: vec![(13, 1.5), (270, -2.0)],
        seed,
    }
}

fn alone(config: &EngineConfig, requests: &[Request]) -> Vec<Vec<u32>> {
    let engine = start(config.clone());
    requests.iter().map(|request| block_on(answer(&engine, request.clone())).ids).collect()
}

fn together(engine: &Engine, requests: &[Request]) -> Vec<Vec<u32>> {
    let answers = block_on(answers(engine, requests.to_vec()));
    answers.into_iter().map(|answer| answer.ids).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_sequence_says_the_same_alone_in_a_batch_and_in_any_chunks(
        seed in 0..1_000_u64,
        prefill_chunk in prop_oneof![1..9_u32, 9..500_u32],
        step_tokens in 17..300_u32,
        max_sequences in 1..17_u32,
        compute_threads in 1..4_u32,
        block_tokens in prop_oneof![Just(16), Just(32), Just(64)],
    ) {
        let requests = requests(seed);
        let plain = EngineConfig { compute_threads: 1, ..EngineConfig::default() };
        let cut = EngineConfig {
            prefill_chunk, step_tokens, max_sequences, compute_threads, block_tokens,
            ..EngineConfig::default()
        };
        let expected = alone(&plain, &requests);
        prop_assert!(expected.iter().any(|ids| ids.len() > 10));
        prop_assert_eq!(&together(&start(cut), &requests), &expected);
    }
}

#[test]
fn a_quantized_sequence_says_the_same_alone_and_in_a_batch() {
    let requests = requests(5);
    for file in ["tollgate-demo-q8_0.gguf", "tollgate-demo-q4_k_m.gguf"] {
        let model = || load(&gguf(demo_file(file)));
        let batch = Engine::start(model(), EngineConfig::default()).unwrap();
        let config = EngineConfig { prefill_chunk: 7, ..EngineConfig::default() };
        let single = Engine::start(model(), config).unwrap();

        let together = together(&batch, &requests);

        // Some of them: quantized kernels are slow where cores are shared.
        for (request, expected) in requests.iter().zip(together).take(5) {
            assert_eq!(block_on(answer(&single, request.clone())).ids, expected, "{file}");
        }
    }
}

#[test]
fn a_continuation_says_what_the_first_engine_would_have_said() {
    let here = start(EngineConfig::default());
    let there = start(EngineConfig { prefill_chunk: 5, ..EngineConfig::default() });
    for mut request in
        [&requests(3)[6], &requests(3)[7], &requests(8)[11], &requests(8)[13]].map(Clone::clone)
    {
        request.output.ignore_eos = true;
        let whole = block_on(answer(&here, request.clone()));

        for cut in 0..=whole.ids.len() {
            let rest = Request { generated: whole.ids[..cut].to_vec(), ..request.clone() };
            let continued = block_on(answer(&there, rest));

            assert_eq!(continued.ids, whole.ids[cut..], "continued after {cut} tokens");
            assert_eq!(continued.usage.completion_tokens, whole.usage.completion_tokens);
            assert_eq!(continued.reason, whole.reason);
        }
    }
}

#[test]
fn a_seed_decides_what_is_said() {
    let engine = start(EngineConfig::default());
    let say = |seed| {
        let request = Request { sampling: sampled(seed), ..request(&[4088, 280, 198], 40) };
        block_on(answer(&engine, request)).ids
    };
    assert_eq!(say(1), say(1));
    assert_ne!(say(1), say(2));
}

#[test]
fn the_demo_model_is_the_same_wherever_it_is_loaded_from() {
    let folder = Engine::start(load(&ModelSource::Folder(demo_file(""))), EngineConfig::default());
    let (folder, compiled_in) = (folder.unwrap(), start(EngineConfig::default()));
    let requests = requests(1);
    assert_eq!(together(&folder, &requests), together(&compiled_in, &requests));
}
