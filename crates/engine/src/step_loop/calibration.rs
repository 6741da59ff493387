//! Measures a few steps before the first request, so that the first sequences are split by what this
//! machine does and not by a guess.
//!
//! Promise: it leaves nothing behind but what was learnt. It takes [`TIME_LIMIT`], or on a model that is too
//! large for that one step of one token: no step is begun that would take longer than what is left.

use std::time::{Duration, Instant};

use domain::{CacheSalt, GpuTime, OutputRules, ProjectId, Sampling, Share, Usage};

use super::StepLoop;
use crate::attribution::{Demand, Work};
use crate::running::{Arrival, Running};
use crate::schedule::{Need, Turn, schedule};
use crate::sequence::{Sequence, line};
use crate::{Failure, Request};

/// Some equal sequences that run together.
struct Scene {
    sequences: u32,
    prompt: u32,
    output: u32,
}

/// The steps measured so far.
struct Measured {
    steps: Vec<(Demand, GpuTime)>,
    deadline: Instant,
    /// The least that a token has taken; in a larger step it takes less.
    token: Option<Duration>,
}

impl StepLoop {
    /// Runs the scenes, as far as there is time, and takes the result up.
    pub(super) fn calibrate(&mut self) {
        let began = Instant::now();
        let deadline = began + TIME_LIMIT;
        let mut measured = Measured { steps: Vec::new(), deadline, token: None };
        for scene in SCENES {
            let played = self.play(scene, &mut measured);
            self.clear();
            if played.is_none() {
                break;
            }
        }
        // The first step touches everything for the first time; it counts only if it is the only one.
        let steps = &measured.steps[usize::from(measured.steps.len() > 1)..];
        self.attribution.calibrate(steps);
        tracing::debug!(
            steps = measured.steps.len(),
            took = ?began.elapsed(),
            costs = ?self.attribution.costs(),
            error_ppm = self.attribution.error_ppm(),
            "attribution calibrated"
        );
    }

    /// Runs one scene to its end; nothing if there was no time for that.
    fn play(&mut self, scene: &Scene, measured: &mut Measured) -> Option<()> {
        // Held until the scene is over: a sequence without a reader would be over at once.
        let _readers = self.set(scene)?;
        loop {
            let needs: Vec<Need> = self.running.iter().map(Running::need).collect();
            let order: Vec<usize> = (0..needs.len()).collect();
            let turns = schedule(&needs, &order, self.budget());
            if turns.is_empty() {
                return Some(());
            }
            let began = Instant::now();
            self.shift.let_others_go_first(&mut self.ledger);
            // Others' turns are none of the time there is.
            measured.deadline += began.elapsed();
            self.measure(&turns, measured)?;
        }
    }

    /// Puts a scene's sequences in; nothing if they do not fit.
    fn set(&mut self, scene: &Scene) -> Option<Vec<Sequence>> {
        let prompt = scene.prompt.min(self.max_tokens().saturating_sub(scene.output)).max(1);
        let vocabulary = self.info.vocabulary;
        let tokens = (0..prompt).map(|position| position * TOKEN_STRIDE % vocabulary);
        let request = Request {
            prompt: tokens.collect(),
            generated: Vec::new(),
            max_output: scene.output,
            allowance: scene.output,
            sampling: Sampling::greedy(),
            output: OutputRules { ignore_eos: true, ..OutputRules::default() },
            share: Share::of(ProjectId::from_u128(0)),
            salt: CacheSalt::from_bytes([0; 16]),
            adapter: None,
        };
        let mut readers = Vec::new();
        for _ in 0..scene.sequences.min(self.config.max_sequences) {
            let (reader, outlet) = line(&self.inbox, scene.output, Usage::default());
            let names = self.names(request.salt);
            let arrival = Arrival::new(request.clone(), names, None, outlet);
            // What is measured is computed, and never shown to others.
            let blocks = (prompt + scene.output).div_ceil(self.config.block_tokens);
            let blocks = self.blocks.take(blocks)?;
            let mut running = Running::new(arrival, 0, &self.guides);
            running.take_seat(Vec::new(), blocks);
            self.running.push(running);
            readers.push(reader);
        }
        Some(readers)
    }

    /// Computes a step and notes how long it took; nothing if there is no time for it, or if it failed.
    fn measure(&mut self, turns: &[Turn], measured: &mut Measured) -> Option<()> {
        let running = |turn: &Turn| &self.running[turn.sequence];
        let works: Vec<Work> = turns.iter().map(|turn| running(turn).work(turn.tokens)).collect();
        let tokens: u32 = turns.iter().map(|turn| turn.tokens).sum();
        let began = Instant::now();
        let expected = measured.token.map_or(Duration::ZERO, |token| token * tokens);
        if began + expected > measured.deadline {
            return None;
        }
        let drawn = self.compute(turns, &works);
        let took = began.elapsed();
        let token = took / tokens;
        measured.token = Some(measured.token.map_or(token, |least| least.min(token)));
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        measured.steps.push((Demand::of(&works), GpuTime::from_nanos(nanos)));
        for (turn, drawn) in turns.iter().zip(drawn) {
            match drawn {
                Some(Err(Failure::Forward(_))) => return None,
                // At its allowance a sequence pauses, and the scene is over when all of them have.
                Some(drawn) => drop(self.running[turn.sequence].accept(drawn, &[], Duration::ZERO)),
                None => {}
            }
        }
        Some(())
    }

    /// Takes the sequences of a scene out.
    fn clear(&mut self) {
        for running in self.running.drain(..) {
            self.blocks.give_back(&running.blocks);
        }
    }
}

/// One stream; short prompts side by side, and then as streams; a prompt long enough to show what attention
/// costs, and streams in number.
const SCENES: &[Scene] = &[
    Scene { sequences: 1, prompt: 1, output: 4 },
    Scene { sequences: 4, prompt: 4, output: 4 },
    Scene { sequences: 1, prompt: 128, output: 4 },
    Scene { sequences: 16, prompt: 1, output: 2 },
];

/// Well below what anybody notices of a start.
const TIME_LIMIT: Duration = Duration::from_millis(60);

/// Spreads the tokens of a prompt over the vocabulary.
const TOKEN_STRIDE: u32 = 31;
