//! Reads one sequence as its order says, and counts what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{FinishReason, GpuTime, Usage};
use proto::{Control, Event, Generation, Start, Worker, WorkerError};
use tokio::time::Instant;

use super::orders::{Ending, Kind, Order, When};

/// What became of sequences.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) sequences: u64,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
    /// How they ended, by name: reasons, refusals, and readers that left.
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) continued: u64,
    /// How often one had no paid token left.
    pub(super) paused: u64,
    /// Of those whose last event was read.
    pub(super) billable: GpuTime,
    /// Left by their reader while they were over the worker link: their end may have been read by it.
    pub(super) left_over_link: u64,
    /// What must not be, in words.
    pub(super) wrong: Vec<String>,
}

/// A sequence that was followed to its end.
pub(super) struct Followed {
    pub(super) tally: Tally,
    /// What it wrote, if it ended by itself.
    pub(super) written: Option<(Start, Arc<[u32]>)>,
}

/// One sequence while it is read.
struct Reading {
    order: Order,
    control: Control,
    output: Vec<u32>,
    allowance: u32,
    began: Instant,
    /// It was asked to end.
    asked: bool,
    tally: Tally,
}

/// Asks `worker` for what is ordered, and does with it what the order says.
pub(super) async fn follow(worker: Arc<dyn Worker>, order: Order) -> Followed {
    let mut tally = Tally { sequences: 1, ..Tally::default() };
    let generation = match worker.generate(order.start.clone()).await {
        Ok(generation) => generation,
        Err(error) => {
            tally.refused(&order, &error);
            return Followed { tally, written: None };
        }
    };
    if matches!(order.kind, Kind::Wrong) {
        tally.wrong.push(format!("accepted: {:?}", order.start));
    }
    let reading = Reading {
        control: generation.control(),
        output: order.start.generated.clone(),
        allowance: order.start.allowance,
        began: Instant::now(),
        asked: false,
        order,
        tally,
    };
    reading.follow_to_its_end(generation).await
}

impl Reading {
    async fn follow_to_its_end(mut self, mut generation: Generation) -> Followed {
        loop {
            if self.has_enough(None) && self.ends() {
                return self.leave();
            }
            self.pay().await;
            let enough = self.enough_at();
            let event = tokio::select! {
                event = generation.next() => event,
                () = tokio::time::sleep_until(enough.unwrap_or_else(Instant::now)), if enough.is_some() => {
                    if self.has_enough(enough) && self.ends() {
                        return self.leave();
                    }
                    continue;
                }
            };
            match event {
                Some(Event::Tokens { first, ids, logprobs, .. }) => {
                    self.check_tokens(first, &ids, logprobs.len());
                    self.output.extend(ids);
                    tokio::time::sleep(self.order.dawdles).await;
                }
                Some(Event::Finished { reason, usage }) => return self.finished(reason, &usage),
                Some(Event::Failed { error, usage }) => {
                    self.tally.failed(&error, usage.as_ref());
                    return self.over();
                }
                Some(Event::HandedOver { .. }) | None => {
                    self.tally.wrong.push("a stream ended without a last event".to_owned());
                    return self.over();
                }
            }
        }
    }

    /// Until when its reader is there, if that was not reached yet and is a matter of time.
    fn enough_at(&self) -> Option<Instant> {
        match self.order.ending {
            Ending::Leaves(When::Time(time)) | Ending::Asks(When::Time(time), _) if !self.asked => {
                Some(self.began + time)
            }
            _ => None,
        }
    }

    /// Whether its reader has had enough; `at` is a moment that has come.
    fn has_enough(&self, at: Option<Instant>) -> bool {
        match self.order.ending {
            Ending::Own => false,
            Ending::Leaves(when) | Ending::Asks(when, _) => match when {
                When::Tokens(tokens) => self.output.len() >= tokens,
                When::Time(_) => {
                    at.or_else(|| self.enough_at()).is_some_and(|at| at <= Instant::now())
                }
            },
        }
    }

    /// Does what its reader does who has had enough; whether that is to leave.
    fn ends(&mut self) -> bool {
        match self.order.ending {
            Ending::Own => false,
            Ending::Leaves(_) => true,
            Ending::Asks(_, reason) => {
                self.control.stop(reason);
                self.asked = true;
                false
            }
        }
    }

    /// Pays for more, late, if all that was paid for was read.
    async fn pay(&mut self) {
        let Start { max_output, .. } = self.order.start;
        if self.asked || self.allowance >= max_output || (self.output.len() as u32) < self.allowance
        {
            return;
        }
        let (at_a_time, late) = self.order.paid;
        self.tally.paused += 1;
        tokio::time::sleep(late).await;
        self.allowance = self.allowance.saturating_add(at_a_time).min(max_output);
        self.control.extend(self.allowance);
    }

    fn check_tokens(&mut self, first: u32, ids: &[u32], logprobs: usize) {
        if first as usize != self.output.len() || ids.is_empty() {
            let (count, known) = (ids.len(), self.output.len());
            self.tally.wrong.push(format!("{count} tokens came as number {first} after {known}"));
        }
        let asked = self.order.start.output.logprobs.is_some();
        if logprobs != if asked { ids.len() } else { 0 } {
            let count = ids.len();
            self.tally.wrong.push(format!("{logprobs} log-probabilities came with {count} tokens"));
        }
    }

    fn finished(mut self, reason: FinishReason, usage: &Usage) -> Followed {
        self.tally.used(usage);
        self.tally.end(reason.name());
        if usage.completion_tokens as usize != self.output.len() {
            let (said, read) = (usage.completion_tokens, self.output.len());
            self.tally.wrong.push(format!("{said} tokens were used, {read} were read"));
        }
        let by_itself = !self.asked && reason != FinishReason::Cancelled;
        if let Kind::Continued(whole) = &self.order.kind {
            self.tally.continued += 1;
            let same = if by_itself {
                self.output[..] == whole[..]
            } else {
                whole.starts_with(&self.output)
            };
            if !same {
                self.tally.wrong.push(format!(
                    "continued after {} tokens, it is {:?} and was {whole:?}",
                    self.order.start.generated.len(),
                    self.output
                ));
            }
        }
        let written = (by_itself && matches!(self.order.kind, Kind::New))
            .then(|| (self.order.start.clone(), Arc::from(self.output.as_slice())));
        Followed { written, ..self.over() }
    }

    /// Its reader leaves.
    fn leave(mut self) -> Followed {
        self.tally.end("reader left");
        self.tally.left_over_link += u64::from(self.order.over_link);
        self.over()
    }

    fn over(mut self) -> Followed {
        let new = self.output.len() - self.order.start.generated.len();
        self.tally.output_tokens += new as u64;
        Followed { tally: self.tally, written: None }
    }
}

impl Tally {
    /// Adds what became of others.
    pub(super) fn add(&mut self, other: Self) {
        let Self { sequences, prompt_tokens, cached_tokens, output_tokens, .. } = other;
        self.sequences += sequences;
        self.prompt_tokens += prompt_tokens;
        self.cached_tokens += cached_tokens;
        self.output_tokens += output_tokens;
        for (name, count) in other.endings {
            *self.endings.entry(name).or_default() += count;
        }
        self.continued += other.continued;
        self.paused += other.paused;
        self.billable += other.billable;
        self.left_over_link += other.left_over_link;
        self.wrong.extend(other.wrong);
    }

    pub(super) fn ended(&self, name: &str) -> u64 {
        self.endings.get(name).copied().unwrap_or(0)
    }

    fn end(&mut self, name: &'static str) {
        *self.endings.entry(name).or_default() += 1;
    }

    fn used(&mut self, usage: &Usage) {
        self.prompt_tokens += u64::from(usage.prompt_tokens);
        self.cached_tokens += u64::from(usage.cached_tokens);
        self.billable += usage.gpu;
    }

    fn refused(&mut self, order: &Order, error: &WorkerError) {
        match (error, &order.kind) {
            (WorkerError::Full { .. }, _) => self.end("refused: full"),
            (
                WorkerError::Invalid(_)
                | WorkerError::TooLong(_)
                | WorkerError::Format(_)
                | WorkerError::ModelNotFound(_),
                Kind::Wrong,
            ) => self.end("refused: wrong"),
            (WorkerError::ModelNotFound(_), _) if order.may_be_away => self.end("refused: away"),
            _ => self.wrong.push(format!("refused: {error}")),
        }
    }

    fn failed(&mut self, error: &WorkerError, usage: Option<&Usage>) {
        match usage {
            Some(usage) => self.used(usage),
            None => self.wrong.push("a failed sequence does not say what it used".to_owned()),
        }
        match error {
            // A model may write itself where its grammar takes too long to follow.
            WorkerError::Format(_) => self.end("failed: format"),
            _ => self.wrong.push(format!("failed: {error}")),
        }
    }
}
