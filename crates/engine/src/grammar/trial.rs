//! Compiles any format and follows it with any tokens, on threads like the product's, for the fuzz targets.
//!
//! Holds what the module promises: a guide that replays an output stands where the first one stood.

use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle, scope};

use domain::{Format, ModelFiles, ModelInfo};

use super::language::Compiler;
use super::languages::STACK_BYTES;
use super::matching::{Matching, Outlook, Then};
use super::{Language, Mask};

/// What compiles formats for one model, and how many tokens that has.
pub(crate) struct Trial {
    compiler: Compiler,
    vocabulary: usize,
    stop_tokens: Vec<u32>,
}

impl Trial {
    pub(crate) fn new(files: &ModelFiles, model: &ModelInfo) -> Result<Self, String> {
        Ok(Self {
            compiler: Compiler::new(files, model)?,
            vocabulary: model.vocabulary as usize,
            stop_tokens: model.stop_tokens.clone(),
        })
    }

    /// Whether `format` compiles. If it does, an output is written in it: each of `draws` takes one of the tokens
    /// that may come.
    pub(crate) fn follow(&self, format: &Format, draws: &[u8]) -> bool {
        let compiled = scope(|scope| {
            let compiles = Builder::new().stack_size(STACK_BYTES);
            join(compiles.spawn_scoped(scope, || self.compiler.compile(format)))
        });
        let Ok(language) = compiled else { return false };
        scope(|scope| {
            join(Builder::new().spawn_scoped(scope, || self.write(&language, draws)));
        });
        true
    }

    /// Writes an output, and then reads it again from its beginning.
    fn write(&self, language: &Arc<Language>, draws: &[u8]) {
        let mut output = Vec::new();
        let mut matching = Matching::begin(language);
        let mut outlook = matching.replay(&output);
        for draw in draws {
            output.extend(outlook.forced.drain(..));
            let Then::Choice(mask) = &outlook.then else { break };
            let token = self.drawn(mask, *draw);
            if self.stop_tokens.contains(&token) || output.len() > MAX_OUTPUT {
                break;
            }
            output.push(token);
            outlook = matching.advance(token);
        }
        let again = Matching::begin(language).replay(&output);
        assert_eq!(told(&again), told(&outlook), "after {output:?}");
    }

    /// One of the tokens that `mask` allows.
    fn drawn(&self, mask: &Mask, draw: u8) -> u32 {
        let mut logits = vec![0.0; self.vocabulary];
        mask.apply(&mut logits);
        let allowed = logits.iter().enumerate().filter(|(_, logit)| logit.is_finite());
        let allowed: Vec<usize> = allowed.map(|(token, _)| token).collect();
        assert!(!allowed.is_empty(), "a mask without a token of the model");
        allowed[usize::from(draw) * allowed.len() / 256] as u32
    }
}

fn told(outlook: &Outlook) -> String {
    format!("{outlook:?}")
}

/// What the thread found; its panic is ours.
fn join<T>(thread: std::io::Result<ScopedJoinHandle<'_, T>>) -> T {
    let joined = thread.expect("a thread starts").join();
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Forced runs are long at times, and reading them again takes time.
const MAX_OUTPUT: usize = 4096;
