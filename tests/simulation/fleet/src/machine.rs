//! What a simulated machine computes: continuous batching with chunked prompts, in steps that take a time which grows
//! with what is in them, and seats that tenants take in turns.
//!
//! A pure state machine: [`Core::plan`] says what the next step does and how long it takes, [`Core::finish`] does it.
//! Its tokens are a function of prompt and position, like a real model's, so that it does not matter who
//! computes them. Knows nothing of the clock, of the contract's streams, or of what goes wrong.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::{BlockHash, BlockNames, FinishReason, GpuTime, NanoUsd, ProjectId, Times, Usage};
use proto::{Event, Start, WorkerError};

use crate::cache::{Cache, Pinned};
use crate::mailbox::Mailbox;

/// What a machine can do, and how fast.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Tokens of a KV block.
    pub block_tokens: u32,
    /// KV blocks.
    pub blocks: usize,
    /// Sequences computed at a time.
    pub max_running: usize,
    /// Sequences accepted beside those.
    pub max_waiting: usize,
    /// Prompt tokens computed in one step, at most.
    pub chunk: u32,
    /// What a step takes whatever is in it.
    pub step: Duration,
    /// What each running sequence adds to it.
    pub per_sequence: Duration,
    /// What each prompt token adds to it.
    pub per_prompt_token: Duration,
    /// What an hour of it costs.
    pub price_per_hour: NanoUsd,
    /// A reader is woken for its first token, and then at most this often.
    pub tell_every: Duration,
    /// Watchers are told of changes at most this often.
    pub push_every: Duration,
}

impl Machine {
    /// A large GPU in coarse tokens: a token of a prompt stands for 32, an output token for four, a step for four
    /// steps. That is a model that reads 10,000 prompt tokens in a second and makes 50 tokens of each of its
    /// sequences, or 800 of sixteen; its cache holds 480,000 tokens.
    pub fn coarse() -> Self {
        Self {
            block_tokens: 16,
            blocks: 940,
            max_running: 32,
            max_waiting: 8,
            chunk: 64,
            step: Duration::from_millis(76),
            per_sequence: Duration::from_millis(1),
            per_prompt_token: Duration::from_micros(3_200),
            price_per_hour: NanoUsd::from_dollars(2),
            tell_every: Duration::from_millis(250),
            push_every: Duration::from_millis(100),
        }
    }
}

/// What a machine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Time in which it computed.
    pub busy: Duration,
    /// Prompt tokens it computed.
    pub prompt_tokens: u64,
    /// Prompt tokens it found in its cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Sequences it accepted.
    pub accepted: u64,
    /// What it spent on tokens that another machine had computed before.
    pub recomputed: Duration,
}

/// How well a machine keeps to its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It does.
    Honest,
    /// Says that it is empty and fast, and refuses everything.
    Boaster,
    /// Says that it is empty and fast, whatever it runs.
    Flatterer,
    /// Says tokens that cannot be.
    Garbler,
    /// Accepts everything and never says a word.
    Staller,
}

/// One sequence on a machine.
struct Sequence {
    mailbox: Arc<Mailbox>,
    names: Vec<u64>,
    pinned: Pinned,
    /// Tokens that came with it: prompt, and output of other machines.
    given: u32,
    prompt: u32,
    /// Of those, whose keys and values are there.
    computed: u32,
    cached: u32,
    /// Output tokens, those of other machines included.
    produced: u32,
    begun_with: u32,
    max_output: u32,
    /// What its tokens follow from.
    root: u64,
    tenant: ProjectId,
    gpu: Duration,
    times: [Duration; 3],
    told_at: Duration,
}

/// The work of one step.
pub(crate) struct Step {
    pub(crate) takes: Duration,
    /// Sequences that get a token, by place.
    decode: Vec<usize>,
    /// Prompt tokens computed, by place.
    prefill: Vec<(usize, u32)>,
}

/// The state of a machine.
pub(crate) struct Core {
    pub(crate) machine: Machine,
    pub(crate) nature: Nature,
    pub(crate) cache: Cache,
    pub(crate) books: Books,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    vocabulary: u32,
    /// The sum of all its steps: its own clock, for who is told when.
    elapsed: Duration,
}

impl Core {
    pub(crate) fn new(machine: Machine, nature: Nature, vocabulary: u32) -> Self {
        let cache = Cache::new(machine.blocks);
        Self {
            machine,
            nature,
            cache,
            books: Books::default(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            vocabulary,
            elapsed: Duration::ZERO,
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Prompt tokens that are still to be computed.
    pub(crate) fn waiting_tokens(&self) -> u64 {
        let left = |sequence: &Sequence| u64::from(sequence.given - sequence.computed);
        self.running.iter().chain(&self.waiting).map(left).sum()
    }

    /// Until one that came now would be seated: as long as those before it wait for others to end.
    pub(crate) fn seat_free_in(&self) -> Duration {
        let running = self.running.len() as u32;
        let waiting = self.waiting.len() as u32;
        if waiting == 0 && self.running.len() < self.machine.max_running {
            return Duration::ZERO;
        }
        let left = |sequence: &Sequence| sequence.max_output - sequence.produced;
        let mean = self.running.iter().map(left).sum::<u32>() / running.max(1);
        self.step_time() * mean / running.max(1) * (waiting + 1)
    }

    pub(crate) fn step_time(&self) -> Duration {
        self.machine.step + self.machine.per_sequence * self.running.len() as u32
    }

    /// Takes a sequence, or says why not.
    pub(crate) fn accept(&mut self, start: &Start) -> Result<Arc<Mailbox>, WorkerError> {
        let machine = &self.machine;
        let given = (start.prompt.len() + start.generated.len()) as u32;
        let most = start.prompt.len() as u32 + start.max_output;
        if most.div_ceil(machine.block_tokens) as usize > machine.blocks {
            return Err(WorkerError::Invalid("it is longer than the cache".to_owned()));
        }
        if self.nature == Nature::Boaster {
            return Err(WorkerError::Full { retry_in: Duration::from_millis(1) });
        }
        if self.running.len() + self.waiting.len() >= machine.max_running + machine.max_waiting {
            return Err(WorkerError::Full { retry_in: self.seat_free_in() });
        }
        let text = BlockNames::new(&start.model, start.salt, machine.block_tokens);
        let names = if start.generated.is_empty() {
            text.all(&start.prompt)
        } else {
            let tokens: Vec<u32> = start.prompt.iter().chain(&start.generated).copied().collect();
            text.all(&tokens)
        };
        let produced = start.generated.len() as u32;
        let mailbox = Arc::new(Mailbox::new(produced, start.allowance));
        self.waiting.push_back(Sequence {
            mailbox: Arc::clone(&mailbox),
            names: names.iter().map(BlockHash::short).collect(),
            pinned: Pinned::default(),
            given,
            prompt: start.prompt.len() as u32,
            computed: 0,
            cached: 0,
            produced,
            begun_with: produced,
            max_output: start.max_output,
            root: root(&start.prompt),
            tenant: start.share.tenant,
            gpu: Duration::ZERO,
            times: [Duration::ZERO; 3],
            told_at: Duration::ZERO,
        });
        self.books.accepted += 1;
        Ok(mailbox)
    }

    /// What the next step does; `None` if there is nothing to do.
    pub(crate) fn plan(&mut self) -> Option<Step> {
        self.sweep();
        self.seat_waiting();
        let mut step = Step { takes: Duration::ZERO, decode: Vec::new(), prefill: Vec::new() };
        let mut chunk = self.machine.chunk;
        for (at, sequence) in self.running.iter_mut().enumerate() {
            if chunk > 0 && sequence.computed < sequence.given {
                // Those before it may have computed what it needs.
                let found = sequence.look_again(&mut self.cache, self.machine.block_tokens);
                self.books.cached_tokens += u64::from(found);
            }
            let left = sequence.given - sequence.computed;
            if left > 0 {
                let part = left.min(chunk);
                chunk -= part;
                if part > 0 {
                    step.prefill.push((at, part));
                }
            } else if sequence.produced < sequence.mailbox.wishes().allowance {
                step.decode.push(at);
            }
        }
        if step.decode.is_empty() && step.prefill.is_empty() {
            return None;
        }
        let tokens = self.machine.chunk - chunk;
        step.takes = self.machine.step
            + self.machine.per_sequence * step.decode.len() as u32
            + self.machine.per_prompt_token * tokens;
        Some(step)
    }

    /// Does what was planned.
    pub(crate) fn finish(&mut self, step: &Step) {
        self.elapsed += step.takes;
        self.books.busy += step.takes;
        if self.nature == Nature::Staller {
            return;
        }
        let everybody = (step.decode.len() + step.prefill.len()) as u32;
        let share = self.machine.step / everybody;
        for (at, tokens) in &step.prefill {
            let took = share + self.machine.per_prompt_token * *tokens;
            self.compute_prompt(*at, *tokens, took);
        }
        for at in &step.decode {
            let took = share + self.machine.per_sequence;
            let sequence = &mut self.running[*at];
            sequence.times[1] += took;
            self.produce(*at, took);
        }
        self.sweep();
    }

    /// Everything ends without a word, and nobody can say what was used.
    pub(crate) fn die(&mut self) {
        for sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            sequence.mailbox.end(gone());
        }
    }

    /// Everything is handed over at the end of the step that is under way.
    pub(crate) fn hand_all_over(&mut self) {
        for sequence in self.running.iter().chain(&self.waiting) {
            sequence.mailbox.wish(|wishes| wishes.hand_over = true);
        }
    }

    fn compute_prompt(&mut self, at: usize, tokens: u32, took: Duration) {
        let again = self.running[at].begun_with > 0;
        self.books.prompt_tokens += u64::from(tokens);
        let sequence = &mut self.running[at];
        sequence.computed += tokens;
        if again {
            sequence.times[2] += took;
            self.books.recomputed += took;
        } else {
            sequence.times[0] += took;
            sequence.gpu += took;
        }
        let sealed = (sequence.computed / self.machine.block_tokens) as usize;
        let sealed = sealed.min(sequence.names.len());
        for at in sequence.pinned.named..sealed {
            let name = sequence.names[at];
            self.cache.seal(&mut sequence.pinned, name);
        }
        if sequence.computed == sequence.given {
            // The first token comes out of the prompt's own step.
            self.produce(at, if again { Duration::ZERO } else { took });
        }
    }

    fn produce(&mut self, at: usize, took: Duration) {
        let sequence = &mut self.running[at];
        if sequence.produced >= sequence.mailbox.wishes().allowance.min(sequence.max_output) {
            return;
        }
        let mut id = token(sequence.root, sequence.produced, self.vocabulary);
        let ours = sequence.produced - sequence.begun_with;
        if self.nature == Nature::Garbler && ours >= GARBLED_AFTER {
            id += self.vocabulary;
        }
        if ours > 0 {
            sequence.gpu += took;
        }
        sequence.produced += 1;
        self.books.output_tokens += 1;
        let paused = sequence.produced >= sequence.mailbox.wishes().allowance;
        let due = self.elapsed >= sequence.told_at + self.machine.tell_every;
        let told = ours == 0 || due || paused;
        if told {
            sequence.told_at = self.elapsed;
        }
        sequence.mailbox.put(id, GpuTime::from_nanos(took.as_nanos() as u64), told);
    }

    /// Lets go of what ended, or is to end.
    fn sweep(&mut self) {
        let cache = &mut self.cache;
        let mut stays = |sequence: &Sequence| {
            let wishes = sequence.mailbox.wishes();
            let full = sequence.produced >= sequence.max_output;
            let reason = full.then_some(FinishReason::Length).or(wishes.stop);
            if reason.is_none() && !wishes.gone && !wishes.hand_over {
                return true;
            }
            cache.release(&sequence.names, &sequence.pinned);
            let usage = sequence.usage();
            sequence.mailbox.end(match reason {
                Some(reason) => Event::Finished { reason, usage },
                None => Event::HandedOver { usage },
            });
            false
        };
        self.running.retain(&mut stays);
        self.waiting.retain(&mut stays);
    }

    /// The first of those whose tenant has least running.
    fn next_waiting(&mut self) -> Option<Sequence> {
        let running = |tenant: ProjectId| {
            self.running.iter().filter(|sequence| sequence.tenant == tenant).count()
        };
        let waiting = self.waiting.iter().enumerate();
        let (at, _) = waiting.min_by_key(|(at, sequence)| (running(sequence.tenant), *at))?;
        self.waiting.remove(at)
    }

    fn seat_waiting(&mut self) {
        while self.running.len() < self.machine.max_running && !self.waiting.is_empty() {
            let Some(mut sequence) = self.next_waiting() else { return };
            let most = sequence.prompt + sequence.max_output;
            let blocks = most.div_ceil(self.machine.block_tokens) as usize;
            let Some(pinned) = self.cache.admit(&sequence.names, blocks) else {
                self.waiting.push_front(sequence);
                return;
            };
            // The last token is computed in any case: the next one comes out of it.
            let found = pinned.named as u32 * self.machine.block_tokens;
            sequence.computed = found.min(sequence.given - 1);
            sequence.cached = sequence.computed;
            sequence.pinned = pinned;
            self.books.cached_tokens += u64::from(sequence.cached);
            self.running.push(sequence);
        }
    }
}

impl Sequence {
    /// Tokens that others have computed since it looked last.
    fn look_again(&mut self, cache: &mut Cache, block_tokens: u32) -> u32 {
        let whole = self.computed.is_multiple_of(block_tokens);
        if !whole || !cache.find_more(&self.names, &mut self.pinned) {
            return 0;
        }
        // The last token is computed in any case: the next one comes out of it.
        let known = (self.pinned.named as u32 * block_tokens).min(self.given - 1);
        let found = known.saturating_sub(self.computed);
        self.computed += found;
        self.cached += found;
        found
    }

    fn usage(&self) -> Usage {
        let time = |time: Duration| GpuTime::from_nanos(time.as_nanos() as u64);
        let [prefill, decode, recompute] = self.times.map(time);
        Usage {
            prompt_tokens: self.prompt,
            cached_tokens: self.cached,
            completion_tokens: self.produced,
            gpu: prefill + decode,
            times: Times { prefill, decode, recompute, ..Times::default() },
        }
    }
}

/// What the tokens after `prompt` follow from.
pub(crate) fn root(prompt: &[u32]) -> u64 {
    prompt.iter().fold(ROOT, |root, token| {
        (root ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

/// The token at `position` of an output.
pub(crate) fn token(root: u64, position: u32, vocabulary: u32) -> u32 {
    let mixed = (root ^ u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)) % u64::from(vocabulary)) as u32
}

/// What the streams of a machine that vanishes end with.
pub(crate) fn gone() -> Event {
    Event::lost(WorkerError::Unreachable("it is gone".to_owned()))
}

const ROOT: u64 = 0xcbf2_9ce4_8422_2325;
/// Tokens of its own that a garbler gets right.
const GARBLED_AFTER: u32 = 3;
