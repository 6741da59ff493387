//! The sequences of one request, run side by side under one lease.
//!
//! Dropping this cancels them all. What one has used is known from its last piece; what it did on which worker,
//! once it has ended or was given up.

use std::time::Duration;

use domain::{FinishReason, NanoUsd, Usage, Work};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use routing::{Answer, Piece, RouteError, Used};
use tokio::sync::watch;

use super::sharing::Sharing;

/// What runs, and how it is steered.
pub(super) struct Sequences {
    running: FuturesUnordered<BoxFuture<'static, Step>>,
    steering: Vec<watch::Sender<Wish>>,
    used: Vec<Used>,
    work: Vec<Vec<Work>>,
    sharing: Sharing,
}

/// What is wished of one sequence; only the latest wish counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    allowance: u32,
    stop: Option<FinishReason>,
    /// Its first tokens that count, if it is to stop and not all of them do.
    kept: Option<u32>,
    /// Whatever comes, it is not waited for any longer.
    give_back: bool,
}

/// One sequence between two pieces.
struct Runner {
    at: usize,
    answer: Box<Answer>,
    wishes: watch::Receiver<Wish>,
}

/// A sequence that has something to say; `None` if it was told not to wait for it.
struct Step {
    runner: Runner,
    piece: Option<Result<Piece, RouteError>>,
}

impl Runner {
    /// The next piece. Wishes are few; nothing else disturbs an answer that is on its way to another worker.
    async fn next(mut self) -> Step {
        loop {
            tokio::select! {
                biased;
                changed = self.wishes.changed() => {
                    let wish = *self.wishes.borrow_and_update();
                    if changed.is_err() || wish.give_back {
                        return Step { runner: self, piece: None };
                    }
                    self.answer.extend(wish.allowance);
                    match (wish.stop, wish.kept) {
                        (Some(reason), Some(kept)) => self.answer.stop_after(reason, kept),
                        (Some(reason), None) => self.answer.stop(reason),
                        (None, _) => {}
                    }
                }
                piece = self.answer.next() => return Step { runner: self, piece: Some(piece) },
            }
        }
    }
}

impl Sequences {
    /// Runs `answers`, which have begun with what `sharing` gave them.
    pub(super) fn of(answers: Vec<Answer>, sharing: Sharing) -> Self {
        let mut sequences = Self {
            running: FuturesUnordered::new(),
            steering: Vec::new(),
            used: Vec::new(),
            work: Vec::new(),
            sharing,
        };
        for (at, answer) in answers.into_iter().enumerate() {
            let allowance = sequences.sharing.allowance(at);
            let (wish, wishes) = watch::channel(Wish { allowance, ..Wish::default() });
            sequences.steering.push(wish);
            sequences.used.push(answer.used());
            sequences.work.push(Vec::new());
            sequences.run(Runner { at, answer: Box::new(answer), wishes });
        }
        sequences
    }

    fn run(&self, runner: Runner) {
        self.running.push(Box::pin(runner.next()));
    }

    /// What one of them says next; `None` when all have ended. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<(usize, Result<Piece, RouteError>)> {
        let Step { runner, piece } = self.running.next().await?;
        let at = runner.at;
        self.used[at] = runner.answer.used();
        self.sharing.produced(at, self.used[at].usage.completion_tokens);
        if let Some(Ok(Piece::Tokens { .. })) = &piece {
            self.run(runner);
        } else {
            self.work[at] = runner.answer.work();
            self.sharing.ended(at);
        }
        let given_up =
            || Err(RouteError::Worker(proto::WorkerError::Unreachable(GIVEN_UP.to_owned())));
        Some((at, piece.unwrap_or_else(given_up)))
    }

    /// Whether a sequence goes on that may become longer.
    pub(super) fn want_more(&self) -> bool {
        self.sharing.wants_more()
    }

    /// Divides `paid` tokens between those that go on.
    pub(super) fn share(&mut self, paid: u32) {
        self.sharing.divide(paid);
        for (at, steering) in self.steering.iter().enumerate() {
            let allowance = self.sharing.allowance(at);
            steering.send_if_modified(|wish| {
                let raised = allowance > wish.allowance;
                wish.allowance = wish.allowance.max(allowance);
                raised
            });
        }
    }

    pub(super) fn stop(&self, at: usize, reason: FinishReason) {
        self.steering[at].send_if_modified(|wish| {
            let first = wish.stop.is_none();
            wish.stop = wish.stop.or(Some(reason));
            first
        });
    }

    /// Stops one that is complete with its first `kept` tokens; what it has beyond them is not used.
    pub(super) fn stop_after(&self, at: usize, kept: u32) {
        self.steering[at].send_if_modified(|wish| {
            let first = wish.stop.is_none();
            if first {
                (wish.stop, wish.kept) = (Some(FinishReason::Stop), Some(kept));
            }
            first
        });
    }

    /// Stops those that would go on.
    pub(super) fn stop_open(&self, reason: FinishReason) {
        for at in self.sharing.open() {
            self.stop(at, reason);
        }
    }

    /// Ends sequences nobody reads, and waits for the workers' last words on what they used.
    pub(super) async fn give_up(&mut self) {
        for at in 0..self.steering.len() {
            self.stop(at, FinishReason::Cancelled);
        }
        let last_words = async { while self.next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORD_TIMEOUT, last_words).await.is_ok() {
            return;
        }
        tracing::warn!(
            sequences = self.running.len(),
            "workers did not confirm cancelled sequences"
        );
        for steering in &self.steering {
            steering.send_modify(|wish| wish.give_back = true);
        }
        while self.next().await.is_some() {}
    }

    /// What they used together. They have one prompt; what was cached of it is what the first one found.
    pub(super) fn used(&self) -> Used {
        let mut usage = Usage::default();
        let mut cost = NanoUsd::ZERO;
        for (at, used) in self.used.iter().enumerate() {
            if at == 0 {
                usage.prompt_tokens = used.usage.prompt_tokens;
                usage.cached_tokens = used.usage.cached_tokens;
            }
            usage.completion_tokens += used.usage.completion_tokens;
            usage.gpu += used.usage.gpu;
            usage.times = usage.times + used.usage.times;
            cost += used.cost;
        }
        Used { usage, cost }
    }

    /// Which workers did it.
    pub(super) fn work(&self) -> Vec<Work> {
        self.work.concat()
    }
}

const GIVEN_UP: &str = "it was not waited for";
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
