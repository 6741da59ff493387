use candle_core::{DType, Device};

use super::*;
use crate::ops::rope::Store;
use crate::step::Blocks;

const HEADS: usize = 6;
const KV_HEADS: usize = 2;

/// One sequence's queries, keys and values, and the cache it writes to.
struct Scene {
    head_width: usize,
    block_tokens: usize,
    /// `[tokens, (HEADS + 2 * KV_HEADS) * head_width]`
    projection: Vec<f32>,
    table: Vec<u32>,
    keys: Tensor,
    values: Tensor,
    softcap: Option<f32>,
    window: Option<u32>,
}

impl Scene {
    fn new(tokens: usize, head_width: usize, block_tokens: usize) -> Self {
        let width = (HEADS + 2 * KV_HEADS) * head_width;
        let noise = |index| crate::random::uniform(9, index) as f32 * 4.0 - 2.0;
        let blocks = tokens.div_ceil(block_tokens);
        let zeros = |dims: (usize, usize, usize, usize)| {
            // What was never written must not matter, not even if it is no number.
            (Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap() * f64::NAN)
                .unwrap()
                .to_dtype(DType::F16)
                .unwrap()
        };
        Self {
            head_width,
            block_tokens,
            projection: (0..(tokens * width) as u32).map(noise).collect(),
            // Out of order, with gaps.
            table: (0..blocks as u32).rev().map(|block| 2 * block + 1).collect(),
            keys: zeros((2 * blocks + 1, KV_HEADS, head_width, block_tokens)),
            values: zeros((2 * blocks + 1, KV_HEADS, block_tokens, head_width)),
            softcap: None,
            window: None,
        }
    }

    fn width(&self) -> usize {
        (HEADS + 2 * KV_HEADS) * self.head_width
    }

    /// Stores and attends the tokens in chunks of this size; one row of output for each token.
    fn attend(&self, chunk: usize, pool: &Pool) -> Vec<f32> {
        let tokens = self.projection.len() / self.width();
        let mut out = Vec::new();
        for first in (0..tokens).step_by(chunk) {
            let rows = chunk.min(tokens - first);
            let mut step = Step::default();
            let blocks = Blocks { table: &self.table, block_tokens: self.block_tokens as u32 };
            step.push(&vec![0; rows], first as u32, blocks, 0);
            let part = &self.projection[first * self.width()..(first + rows) * self.width()];
            let projection = Tensor::from_slice(part, (rows, self.width()), &Device::Cpu).unwrap();
            self.store(&projection, &step.slots);
            let attention = Attention {
                heads: HEADS,
                kv_heads: KV_HEADS,
                head_width: self.head_width,
                block_tokens: self.block_tokens,
                scale: 1.0 / (self.head_width as f32).sqrt(),
                softcap: self.softcap,
                window: self.window.into(),
                step: &step,
                pool,
            };
            let attended = attention.apply(&projection, &self.keys, &self.values).unwrap();
            out.extend(attended.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        out
    }

    fn store(&self, projection: &Tensor, slots: &[u32]) {
        let keys = Store {
            column: HEADS * self.head_width,
            heads: KV_HEADS,
            head_width: self.head_width,
            block_tokens: self.block_tokens,
            transposed: true,
            slots,
            pool: &Pool::new(1).unwrap(),
        };
        keys.write(&self.keys, projection).unwrap();
        let column = (HEADS + KV_HEADS) * self.head_width;
        let values = Store { column, transposed: false, ..keys };
        values.write(&self.values, projection).unwrap();
    }

    /// The textbook's attention in double precision, for one row and head.
    fn expected(&self, row: usize, head: usize) -> Vec<f64> {
        let kv_head = head / (HEADS / KV_HEADS);
        let piece = |row: usize, head: usize| {
            let at = row * self.width() + head * self.head_width;
            // Keys and values are kept in 16 bits.
            let kept = move |n: f32| if head < HEADS { n } else { f16::from_f32(n).to_f32() };
            self.projection[at..at + self.head_width].iter().map(move |n| f64::from(kept(*n)))
        };
        let score = |token: usize| {
            let product: f64 =
                piece(row, head).zip(piece(token, HEADS + kv_head)).map(|(q, k)| q * k).sum();
            let score = product / (self.head_width as f64).sqrt();
            self.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh()).exp()
        };
        let first = self.window.map_or(0, |window| (row + 1).saturating_sub(window as usize));
        let weights: Vec<f64> = (first..=row).map(score).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0; self.head_width];
        for (token, weight) in (first..).zip(&weights) {
            for (out, value) in out.iter_mut().zip(piece(token, HEADS + KV_HEADS + kv_head)) {
                *out += value * weight / total;
            }
        }
        out
    }
}

#[test]
fn attention_is_that_of_the_textbook() {
    let pool = Pool::new(2).unwrap();
    for (tokens, head_width, block_tokens) in
        [(1, 16, 16), (70, 32, 32), (50, 48, 16), (40, 64, 64)]
    {
        let scene = Scene::new(tokens, head_width, block_tokens);
        check(&scene, tokens, &pool);
    }
}

#[test]
fn windows_and_caps_are_those_of_the_textbook() {
    let pool = Pool::new(2).unwrap();
    for window in [Some(1), Some(5), Some(32), Some(33), None] {
        for softcap in [Some(3.0), None] {
            let scene = Scene { softcap, window, ..Scene::new(70, 32, 32) };
            check(&scene, 70, &pool);
            assert!(scene.attend(70, &pool) == scene.attend(9, &pool), "chunks change a bit");
        }
    }
}

fn check(scene: &Scene, tokens: usize, pool: &Pool) {
    let head_width = scene.head_width;
    {
        let out = scene.attend(tokens, pool);
        for row in 0..tokens {
            for head in 0..HEADS {
                let at = (row * HEADS + head) * head_width;
                for (out, expected) in
                    out[at..at + head_width].iter().zip(scene.expected(row, head))
                {
                    assert!(
                        (f64::from(*out) - expected).abs() < 1e-5,
                        "{row} {head}: {out} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn chunks_and_threads_change_no_bit() {
    let (alone, shared) = (Pool::new(1).unwrap(), Pool::new(3).unwrap());
    let scene = Scene::new(150, 32, 32);
    let expected = scene.attend(150, &alone);
    for chunk in [1, 7, 32, 100] {
        assert!(scene.attend(chunk, &shared) == expected, "chunks of {chunk}");
    }
}
