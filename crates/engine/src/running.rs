//! A sequence inside the engine, from its arrival to its end.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{BlockHash, FinishReason, Logprobs, OutputRules, Priority};

use crate::adapter::Adapter;
use crate::attribution::{Loss, Phase, Work};
use crate::blocks::{Block, BlockPool};
use crate::fair::Place;
use crate::grammar::{Guide, Guides, Language, Next};
use crate::names::Names;
use crate::sampler::{Limits, Sampler, logprobs};
use crate::schedule::Need;
use crate::sequence::Outlet;
use crate::{Failure, Request};

mod drafts;
mod wording;

use drafts::Drafts;
use wording::{SoFar, banned, is_end};

/// A sequence that waits for blocks.
pub(crate) struct Arrival {
    /// Prompt and output so far.
    pub(crate) tokens: Vec<u32>,
    names: Names,
    request: Request,
    adapter: Option<Arc<Adapter>>,
    /// What its output must be a sentence of, if it has a format.
    language: Option<Arc<Language>>,
    pub(crate) place: Place,
    pub(crate) outlet: Outlet,
}

impl Arrival {
    /// `names` are to name its blocks; its output is kept in `language`, if there is one.
    pub(crate) fn new(
        request: Request,
        mut names: Names,
        language: Option<Arc<Language>>,
        outlet: Outlet,
    ) -> Self {
        let tokens = [&*request.prompt, &*request.generated].concat();
        names.follow(&tokens);
        let place = Place::new(request.share, Instant::now());
        Self { tokens, names, request, adapter: None, language, place, outlet }
    }

    /// The same, computed with an adapter.
    pub(crate) fn with(self, adapter: Option<Arc<Adapter>>) -> Self {
        Self { adapter, ..self }
    }

    /// What it needs of the cache.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let tokens = self.tokens.len() as u32;
        let left = self.request.max_output.saturating_sub(self.request.generated.len() as u32);
        Demand { tokens, left, usable: self.names.usable(tokens) }
    }

    /// Whether another worker has computed its prompt before.
    pub(crate) fn is_continuation(&self) -> bool {
        !self.request.generated.is_empty()
    }

    /// Whether nothing is left to produce. In a format only the guide knows how that ends.
    pub(crate) fn is_complete(&self) -> bool {
        self.language.is_none() && self.request.generated.len() as u32 >= self.request.max_output
    }

    /// Whether there is memory for a guide to follow its output, if it needs one.
    pub(crate) fn may_be_guided(&self, guides: &Guides) -> bool {
        let language = self.language.as_ref();
        language.is_none_or(|language| guides.has_room(self.place.share, language))
    }
}

/// What a sequence needs of the cache.
pub(crate) struct Demand<'a> {
    /// Tokens it has.
    pub(crate) tokens: u32,
    /// Tokens that may follow.
    pub(crate) left: u32,
    /// The names of the blocks that it need not compute if they are known.
    pub(crate) usable: &'a [BlockHash],
}

/// A sequence that holds blocks, or held some and gave them up for others.
pub(crate) struct Running {
    /// How many were admitted before it.
    age: u64,
    priority: Priority,
    tokens: Vec<u32>,
    names: Names,
    /// Blocks in front that others may find, or found before it.
    settled: usize,
    prompt_tokens: u32,
    /// Tokens whose keys and values are in the cache.
    computed: u32,
    /// Tokens whose keys and values another worker had.
    migrated: u32,
    /// Tokens whose keys and values this engine had, and gave up for others.
    preempted: u32,
    max_output: u32,
    allowance: u32,
    output: OutputRules,
    sampler: Sampler,
    /// What is added to the model for it. It is there until the last sequence that has it ends.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// Follows the output, if it has a format.
    guide: Option<Guide>,
    /// Logits that wait for the guide.
    held: Option<Held>,
    drafts: Drafts,
    pub(crate) place: Place,
    pub(crate) blocks: Vec<Block>,
    pub(crate) outlet: Outlet,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draw {
    /// Nothing where its rules leave nothing that could follow: that ends the output.
    pub(crate) id: Option<u32>,
    /// How probable it was, if that is wanted.
    pub(crate) logprobs: Option<Logprobs>,
}

/// Logits whose token cannot be drawn yet.
struct Held {
    logits: Vec<f32>,
    /// A step has waited for the guide before.
    waited_for: bool,
}

/// What a sequence did at the end of a step.
pub(crate) enum Outcome {
    Continues,
    Ended(End),
}

/// How a sequence ends.
pub(crate) enum End {
    Finished(FinishReason),
    Failed(Failure),
}

impl Running {
    /// Admits `arrival` after `age` others; it has no blocks yet, and its guide begins now.
    pub(crate) fn new(arrival: Arrival, age: u64, guides: &Guides) -> Self {
        let Arrival { tokens, names, request, adapter, language, place, outlet } = arrival;
        let guide =
            language.map(|language| guides.guide(place.share, language, &request.generated));
        let sampler = Sampler::new(request.sampling, &request.prompt, &request.generated);
        // Whoever produced the last token had not computed it yet.
        let migrated = if request.generated.is_empty() { 0 } else { tokens.len() as u32 - 1 };
        Self {
            age,
            priority: request.share.priority,
            prompt_tokens: request.prompt.len() as u32,
            tokens,
            names,
            settled: 0,
            computed: 0,
            migrated,
            preempted: 0,
            max_output: request.max_output,
            allowance: request.allowance,
            output: request.output,
            sampler,
            adapter,
            guide,
            held: None,
            drafts: Drafts::new(),
            place,
            blocks: Vec::new(),
            outlet,
        }
    }

    /// How many were admitted before it.
    pub(crate) const fn age(&self) -> u64 {
        self.age
    }

    /// In which order sequences get blocks back: the most urgent first, and of those the oldest.
    pub(crate) const fn rank(&self) -> (Priority, u64) {
        (self.priority, self.age)
    }

    /// What it needs of the cache.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let tokens = self.tokens.len() as u32;
        let left = self.max_output.saturating_sub(self.written());
        Demand { tokens, left, usable: self.names.usable(tokens) }
    }

    /// Takes blocks: `found` hold its first tokens already, `fresh` are for the others. Returns the positions of
    /// its prompt that it need not compute and never had before.
    pub(crate) fn take_seat(&mut self, found: Vec<Block>, fresh: Vec<Block>) -> Range<u32> {
        self.settled = found.len();
        self.blocks = found;
        self.blocks.extend(fresh);
        self.skip_to(self.settled as u32 * self.names.block_tokens())
    }

    /// How many blocks it lacks to compute the next `count` tokens.
    pub(crate) fn blocks_short(&self, count: u32) -> u32 {
        let needed = (self.computed + count).div_ceil(self.names.block_tokens());
        needed.saturating_sub(self.blocks.len() as u32)
    }

    /// The name of the block that it computes now, if that is one that others can use in its place.
    pub(crate) fn block_now(&self) -> Option<BlockHash> {
        let usable = self.names.usable(self.tokens.len() as u32);
        usable.get((self.computed / self.names.block_tokens()) as usize).copied()
    }

    /// The same, if it has computed nothing of it yet: it may as well use another one's.
    pub(crate) fn block_next(&self) -> Option<BlockHash> {
        self.block_now().filter(|_| self.computed.is_multiple_of(self.names.block_tokens()))
    }

    /// Uses the known block `found` for what it would have computed next; returns the block that it no
    /// longer needs, and the positions of its prompt that it never had before.
    pub(crate) fn adopt(&mut self, found: Block) -> (Option<Block>, Range<u32>) {
        let block_tokens = self.names.block_tokens();
        let index = (self.computed / block_tokens) as usize;
        let spare = self.blocks.get_mut(index).map(|block| std::mem::replace(block, found));
        if spare.is_none() {
            self.blocks.push(found);
        }
        self.settled = index + 1;
        (spare, self.skip_to(self.computed + block_tokens))
    }

    fn skip_to(&mut self, position: u32) -> Range<u32> {
        let end = position.min(self.prompt_tokens);
        let first = self.computed.max(self.preempted).min(end);
        self.computed = position;
        first..end
    }

    /// Lets others find the blocks that are full and computed.
    pub(crate) fn show_blocks(&mut self, pool: &mut BlockPool) {
        let full = (self.computed / self.names.block_tokens()) as usize;
        if full <= self.settled {
            return;
        }
        self.names.follow(&self.tokens);
        for index in self.settled..full {
            pool.name(self.blocks[index], self.names.all()[index]);
        }
        self.settled = full;
    }

    /// Output tokens so far, and at most.
    pub(crate) fn output(&self) -> (u32, u32) {
        (self.written(), self.max_output)
    }

    /// Tokens whose keys and values it has.
    pub(crate) const fn computed(&self) -> u32 {
        self.computed
    }

    /// Reads what the reader asked for; returns why to end, if it is to end.
    pub(crate) fn obey(&mut self) -> Option<FinishReason> {
        let wish = self.outlet.wish();
        self.allowance = wish.allowance;
        wish.stop
    }

    pub(crate) fn need(&self) -> Need {
        // What is written to its full length waits only to hear how it ended.
        let full = self.written() >= self.max_output;
        Need {
            // A turn serves one end, so that its time has one owner.
            pending: if full { 0 } else { self.phase_end() - self.computed },
            paused: self.outlet.usage().completion_tokens >= self.allowance,
        }
    }

    /// Prompt tokens that are still to be computed.
    pub(crate) fn prompt_left(&self) -> u32 {
        match self.pending() {
            1 => 0,
            pending => pending,
        }
    }

    /// To what end it computes its next token.
    pub(crate) fn phase(&self) -> Phase {
        match self.computed {
            next if next < self.preempted => Phase::Recompute(Loss::Preemption),
            next if next < self.migrated => Phase::Recompute(Loss::Migration),
            next if next < self.prompt_tokens => Phase::Prefill,
            _ => Phase::Decode,
        }
    }

    /// The next `count` tokens to compute, the position of the first, and whether the last of them is
    /// followed by a token to sample. What was guessed is the end of them, and each guess is followed by one more.
    pub(crate) fn turn(&self, count: u32) -> (&[u32], u32, bool) {
        if let Some(run) = self.drafts.run() {
            return (run, self.computed, true);
        }
        let (start, end) = (self.computed as usize, (self.computed + count) as usize);
        (&self.tokens[start..end], self.computed, end == self.tokens.len())
    }

    /// What computing the next `count` tokens is.
    pub(crate) fn work(&self, count: u32) -> Work {
        let (_, first, sampled) = self.turn(count);
        let extra = self.adapter.as_ref().map_or(0, |adapter| adapter.extra_work());
        Work { tokens: count, first, sampled, phase: self.phase(), extra, drafted: self.drafted() }
    }

    /// Notes that `count` tokens were computed.
    pub(crate) fn advance(&mut self, count: u32) {
        self.computed += count;
    }

    /// Draws the next token from its logits. In a format that needs the guide; if it does not know yet what may
    /// come, the logits are kept for [`settle`](Self::settle), and there is no token.
    pub(crate) fn draw(
        &mut self,
        logits: &mut [f32],
        stop_tokens: &[u32],
    ) -> Option<Result<Draw, Failure>> {
        let ahead = self.drafts.ahead();
        let position = self.tokens.len() as u32 + ahead;
        let so_far = SoFar {
            written: &self.tokens[self.prompt_tokens as usize..],
            ahead: self.drafts.drawn(),
        };
        let banned = banned(&self.output, stop_tokens, so_far, self.guide.is_some());
        let only = self.output.allowed_token_ids.as_deref();
        let mut limits = Limits { allowed: None, only, banned: &banned.all };
        let wanted = self.output.logprobs;
        if let Some(guide) = &mut self.guide {
            match guide.next() {
                Some(Next::Choice(mask)) => {
                    // It is never of the model's stop tokens alone; a format goes before what else is banned.
                    if mask.is_only(limits.banned) {
                        limits.banned = banned.of_model;
                    }
                    limits.allowed = Some(mask);
                }
                Some(Next::Forced(id)) => {
                    let logprobs = wanted.map(|count| logprobs(logits, id, count));
                    return Some(Ok(Draw { id: Some(id), logprobs }));
                }
                // It is over, and settling ends it.
                Some(Next::Complete | Next::Nothing(_) | Next::Elsewhere) => return None,
                None => {
                    self.held = Some(Held { logits: logits.to_vec(), waited_for: false });
                    return None;
                }
            }
        }
        if banned.leaves_nothing(&self.output, logits.len()) {
            return Some(Ok(Draw { id: None, logprobs: None }));
        }
        let raw = wanted.map(|count| (logits.to_vec(), count));
        let drawn = self.sampler.sample(logits, position, limits);
        Some(drawn.map(|id| {
            let logprobs = raw.map(|(raw, count)| logprobs(&raw, id, count));
            Draw { id: Some(id), logprobs }
        }))
    }

    /// Takes a sampled token up, and sends it unless it ends the sequence. Its reader is woken at most every
    /// `interval`.
    pub(crate) fn accept(
        &mut self,
        drawn: Result<Draw, Failure>,
        stop_tokens: &[u32],
        interval: Duration,
    ) -> Outcome {
        let Draw { id, logprobs } = match drawn {
            Ok(draw) => draw,
            Err(failure) => return Outcome::Ended(End::Failed(failure)),
        };
        let Some(id) = id.filter(|id| !self.is_end(*id, stop_tokens)) else {
            return Outcome::Ended(End::Finished(FinishReason::Stop));
        };
        self.append(id, logprobs, interval);
        if self.guide.is_none() && self.written() >= self.max_output {
            return Outcome::Ended(End::Finished(FinishReason::Length));
        }
        Outcome::Continues
    }

    /// Whether this token ends it.
    fn is_end(&self, id: u32, stop_tokens: &[u32]) -> bool {
        is_end(&self.output, stop_tokens, self.guide.is_some(), id)
    }

    fn append(&mut self, id: u32, logprobs: Option<Logprobs>, interval: Duration) {
        self.tokens.push(id);
        self.sampler.note(id);
        self.outlet.send(id, logprobs, interval);
        if let Some(guide) = &mut self.guide {
            guide.follow(id);
        }
    }

    /// Output tokens so far.
    fn written(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_tokens
    }

    /// Whether its guide has yet to say what may come.
    pub(crate) fn waits_for_guide(&mut self) -> bool {
        self.guide.as_mut().is_some_and(|guide| guide.next().is_none())
    }

    /// Whether its logits wait for its guide.
    pub(crate) fn is_late(&mut self) -> bool {
        self.held.is_some() && self.waits_for_guide()
    }

    /// Whether a step should wait a moment for its guide, as none has before; if so, this was that step.
    pub(crate) fn deserves_wait(&mut self) -> bool {
        let late = self.waits_for_guide();
        let Some(held) = &mut self.held else { return false };
        late && !std::mem::replace(&mut held.waited_for, true)
    }

    /// How long its guide took to say what may come; once.
    pub(crate) fn guide_took(&mut self) -> Option<Duration> {
        self.guide.as_mut()?.took()
    }

    /// Does what its guide allows between steps: draws from logits that were kept, appends what is forced,
    /// ends what is over.
    ///
    /// Forced tokens whose log-probabilities are wanted come one by one, because each needs its own logits.
    pub(crate) fn settle(&mut self, stop_tokens: &[u32], interval: Duration) -> Outcome {
        if self.is_late() {
            // Whatever the guide says from now on, the logits that are kept come first.
            return Outcome::Continues;
        }
        if let Some(mut held) = self.held.take()
            && let Some(drawn) = self.draw(&mut held.logits, stop_tokens)
            && let Outcome::Ended(end) = self.accept(drawn, stop_tokens, interval)
        {
            return Outcome::Ended(end);
        }
        loop {
            let full = self.written() >= self.max_output;
            let Some(guide) = &mut self.guide else { return Outcome::Continues };
            let Some(next) = guide.next() else { return Outcome::Continues };
            let end = match next {
                Next::Complete => End::Finished(FinishReason::Stop),
                Next::Nothing(reason) => End::Failed(Failure::Format(reason.to_owned())),
                Next::Elsewhere => End::Failed(Failure::Elsewhere),
                Next::Forced(id) if self.output.stop_token_ids.contains(&id) => {
                    End::Finished(FinishReason::Stop)
                }
                Next::Forced(_) | Next::Choice(_) if full => End::Finished(FinishReason::Length),
                Next::Choice(_) => return Outcome::Continues,
                Next::Forced(id) => {
                    let paused = self.written() >= self.allowance;
                    if paused || self.output.logprobs.is_some() {
                        return Outcome::Continues;
                    }
                    self.append(id, None, interval);
                    continue;
                }
            };
            return Outcome::Ended(end);
        }
    }

    /// Gives its blocks up. What it had computed is computed again, and not at its expense.
    pub(crate) fn preempt(&mut self) -> Vec<Block> {
        self.preempted = self.preempted.max(self.computed);
        self.computed = 0;
        self.settled = 0;
        self.held = None;
        self.drop_draft();
        // What it wrote since may be found again too.
        self.names.follow(&self.tokens);
        std::mem::take(&mut self.blocks)
    }

    fn pending(&self) -> u32 {
        self.tokens.len() as u32 - self.computed
    }

    /// The first token after the next one that is computed to another end.
    fn phase_end(&self) -> u32 {
        let tokens = self.tokens.len() as u32;
        let ends = [self.preempted, self.migrated];
        ends.into_iter().filter(|end| *end > self.computed).fold(tokens, u32::min)
    }
}

/// Guesses from the ends of sequences when the next one comes.
pub(crate) struct Turnover {
    last: Instant,
    mean_nanos: u64,
}

impl Turnover {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), mean_nanos: FIRST_GUESS_NANOS }
    }

    /// Notes that a sequence ended now; returns the time until the next end, roughly.
    pub(crate) fn note(&mut self) -> Duration {
        let now = Instant::now();
        let nanos = now.duration_since(self.last).as_nanos().min(u128::from(MAX_HINT_NANOS)) as u64;
        self.last = now;
        self.mean_nanos = (self.mean_nanos * 7 + nanos) / 8;
        Duration::from_nanos(self.mean_nanos.clamp(MIN_HINT_NANOS, MAX_HINT_NANOS))
    }
}

const FIRST_GUESS_NANOS: u64 = 1_000_000_000;
const MIN_HINT_NANOS: u64 = 20_000_000;
const MAX_HINT_NANOS: u64 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{BlockNames, CacheSalt, ModelDigest, ProjectId, Sampling, Share, Usage};

    use super::*;
    use crate::inbox::Inbox;
    use crate::sequence::line;

    /// A sequence of four prompt tokens and the output so far.
    fn running(generated: &[u32]) -> Running {
        let (_, outlet) = line(&Arc::new(Inbox::new(1)), 10, Usage::default());
        let request = Request {
            prompt: [1, 2, 3, 4].into(),
            generated: generated.to_vec(),
            max_output: 10,
            allowance: 10,
            sampling: Sampling::greedy(),
            output: OutputRules { ignore_eos: true, ..OutputRules::default() },
            share: Share::of(ProjectId::from_u128(1)),
            salt: SALT,
            adapter: None,
        };
        let names = Names::new(BlockNames::new(&ModelDigest::new("model"), SALT, 2), 2);
        let guides = Guides::start(0, || {}).unwrap();
        let mut running = Running::new(Arrival::new(request, names, None, outlet), 0, &guides);
        assert_eq!(running.take_seat(Vec::new(), vec![0]), 0..0);
        running
    }

    const SALT: CacheSalt = CacheSalt::from_bytes([1; 16]);

    /// The phases of the turns it takes, at most `chunk` tokens each, with the tokens of each turn.
    fn turns(running: &mut Running, chunk: u32) -> Vec<(Phase, u32)> {
        let mut turns = Vec::new();
        while running.pending() > 0 {
            let count = running.need().pending.min(chunk);
            turns.push((running.work(count).phase, count));
            running.advance(count);
        }
        turns
    }

    #[test]
    fn a_continuation_pays_for_the_first_token_that_nobody_computed() {
        let turns = turns(&mut running(&[5, 6]), 3);
        let again = Phase::Recompute(Loss::Migration);
        assert_eq!(turns, [(again, 3), (again, 2), (Phase::Decode, 1)]);
    }

    #[test]
    fn a_preempted_sequence_pays_for_nothing_twice() {
        let mut running = running(&[5, 6]);
        running.advance(2);

        assert_eq!(running.preempt(), [0]);

        let again = Phase::Recompute(Loss::Preemption);
        let migrated = Phase::Recompute(Loss::Migration);
        assert_eq!(turns(&mut running, 9), [(again, 2), (migrated, 3), (Phase::Decode, 1)]);
    }

    #[test]
    fn what_the_cache_holds_is_not_computed_and_counts_once() {
        let mut running = running(&[]);
        let usable = |running: &Running| running.demand().usable.len();
        assert_eq!(usable(&running), 1, "the last token is always computed");
        assert_eq!(running.take_seat(vec![7], vec![8]), 0..2);
        assert_eq!(turns(&mut running, 3), [(Phase::Prefill, 2)]);
        running.accept(Ok(Draw { id: Some(7), logprobs: None }), &[], Duration::ZERO);

        assert_eq!(running.preempt(), [7, 8]);

        assert_eq!(usable(&running), 2);
        assert_eq!(running.take_seat(vec![7], vec![9]), 2..2, "it had that before");
        let again = Phase::Recompute(Loss::Preemption);
        assert_eq!(turns(&mut running, 3), [(again, 2), (Phase::Decode, 1)]);
    }

    #[test]
    fn a_block_that_somebody_else_computed_meanwhile_is_used_in_place_of_its_own() {
        let mut running = running(&[5, 6]);
        running.blocks = vec![1, 2, 3];
        assert_eq!(running.block_next(), running.block_now());

        assert_eq!(running.adopt(9), (Some(1), 0..2));

        running.advance(1);
        assert_eq!((running.block_next(), running.block_now().is_some()), (None, true));
        running.advance(1);
        assert_eq!(running.block_now(), None, "the block of the last token is always its own");
    }

    #[test]
    fn a_prompt_is_prefill_and_what_follows_is_decode() {
        let mut running = running(&[]);
        assert_eq!(turns(&mut running, 3), [(Phase::Prefill, 3), (Phase::Prefill, 1)]);
        running.accept(Ok(Draw { id: Some(7), logprobs: None }), &[], Duration::ZERO);
        assert_eq!(turns(&mut running, 3), [(Phase::Decode, 1)]);
    }
}
