//! Every architecture against `transformers`, which computed in single precision: see
//! `tests/architectures/make.py`, and `tests/gguf/make.py` for the same in GGUF files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::*;
use crate::ModelSource;
use crate::adapter::Adapter;
use crate::checkpoint;
use crate::step::Blocks;

/// What another implementation says to a text.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) text: Vec<u32>,
    /// By position.
    logits: BTreeMap<String, Vec<f32>>,
    greedy: Vec<u32>,
}

impl Golden {
    pub(crate) fn read(folder: &Path) -> Self {
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        serde_json::from_slice(&golden).unwrap()
    }
}

/// What we say to it, with an adapter or without.
pub(crate) struct Case {
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) adapter: Option<Arc<Adapter>>,
    pub(crate) golden: Golden,
}

impl Case {
    fn open(name: &str) -> Self {
        Self::of(name, &ModelSource::Folder(folder().join(name)))
    }

    /// The same checkpoint as another program writes it into one file.
    fn open_gguf(name: &str) -> Self {
        let weights = gguf_folder().join(format!("{name}.gguf"));
        let tokenizer = gguf_folder();
        Self::of(name, &ModelSource::Gguf { weights, tokenizer })
    }

    fn of(name: &str, source: &ModelSource) -> Self {
        let golden = Golden::read(&folder().join(name));
        let mut opened = checkpoint::open(source).unwrap();
        let design = find(&opened.architecture).unwrap();
        let decoder = load(design, opened.checkpoint.as_mut(), &opened.shape, &mut |_| {}).unwrap();
        Self { decoder, adapter: None, golden }
    }

    /// The logits after each token of `text`, computed in chunks of this size.
    pub(crate) fn logits(&self, text: &[u32], chunk: usize) -> Vec<Vec<f32>> {
        let shape = self.decoder.shape();
        let cache = KvCache::new(shape, 16, BLOCK_TOKENS).unwrap();
        let pool = Pool::new(2).unwrap();
        let table: Vec<u32> = (0..16).rev().collect();
        let blocks = Blocks { table: &table, block_tokens: BLOCK_TOKENS };
        let mut all = Vec::new();
        for (number, tokens) in text.chunks(chunk).enumerate() {
            let mut step = Step::default();
            step.push(tokens, (number * chunk) as u32, blocks, 0);
            if let Some(adapter) = &self.adapter {
                step.adapt(adapter, tokens.len() as u32);
            }
            step.sampled = (0..tokens.len() as u32).collect();
            let mut logits = Vec::new();
            self.decoder.forward(&step, &cache, &pool, &mut logits).unwrap();
            all.extend(logits.chunks_exact(shape.vocabulary).map(<[f32]>::to_vec));
        }
        all
    }

    pub(crate) fn check_logits(&self, name: &str, bound: f32) {
        let logits = self.logits(&self.golden.text, 64);
        let mut worst = 0.0_f32;
        for (position, expected) in &self.golden.logits {
            worst = worst.max(distance(&logits[position.parse::<usize>().unwrap()], expected));
        }
        // Keys and values are kept in 16 bits here, and in 32 there.
        assert!(worst < bound, "{name}: logits are off by {worst} of their range");
    }

    pub(crate) fn check_greedy(&self, name: &str, equal: f32) {
        let mut text = self.golden.text[..30].to_vec();
        for expected in &self.golden.greedy {
            let logits = self.logits(&text, 64);
            let last = logits.last().unwrap();
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
            // Where two tokens are as good as equal, single precision does not decide.
            assert!(last[best] - last[*expected as usize] < equal, "{name} at {}", text.len());
            text.push(*expected);
        }
    }
}

/// How far logits are from others, in parts of the others' range.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let range = expected.iter().fold(0.0_f32, |range, logit| range.max(logit.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0_f32, f32::max) / range
}

#[test]
fn logits_are_those_of_another_implementation() {
    for name in names() {
        Case::open(&name).check_logits(&name, 2e-3);
    }
}

#[test]
fn greedy_continuations_are_those_of_another_implementation() {
    for name in names() {
        Case::open(&name).check_greedy(&name, 5e-3);
    }
}

#[test]
fn gguf_files_say_what_another_implementation_says_to_the_same_weights() {
    let entries = std::fs::read_dir(gguf_folder()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "gguf")).collect();
    assert!(files.len() >= 11, "{files:?}");
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let case = Case::open_gguf(name);
        case.check_logits(name, 2e-3);
        case.check_greedy(name, 5e-3);
    }
}

#[test]
fn no_architecture_depends_on_how_a_text_is_cut() {
    for name in names() {
        let case = Case::open(&name);
        let whole = case.logits(&case.golden.text, 64);
        for chunk in [1, 7, 32] {
            assert!(case.logits(&case.golden.text, chunk) == whole, "{name} in chunks of {chunk}");
        }
    }
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert!(names.len() >= 12, "{names:?}");
    names
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/architectures")
}

fn gguf_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gguf")
}

const BLOCK_TOKENS: u32 = 16;
