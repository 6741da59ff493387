//! What a soak asks of a worker: sequences, each drawn with everything that will happen to it.
//!
//! One seed is one run of draws. Only which output is continued depends on time as well, because it must have been
//! written before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    CacheSalt, FinishReason, Format, ModelDigest, ModelInfo, OutputRules, Priority, ProjectId,
    RequestId, Sampling, Share,
};
use load_tests::Random;
use proto::Start;

/// One sequence, and what will happen to it.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) start: Start,
    pub(super) kind: Kind,
    pub(super) ending: Ending,
    /// How many tokens are paid for at a time, and how long after the last of them was read.
    pub(super) paid: (u32, Duration),
    /// How long its reader does something else after each event.
    pub(super) dawdles: Duration,
    /// Whether it is asked for over the worker link, as a gateway does, or of the worker itself.
    pub(super) over_link: bool,
    /// Whether its model comes and goes, so that it may be refused.
    pub(super) may_be_away: bool,
}

/// What the worker is to make of it.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Whatever the model says.
    New,
    /// This, of which it is given the beginning.
    Continued(Arc<[u32]>),
    /// Nothing: it is to be refused.
    Wrong,
}

/// Who ends it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// The model, or its limit.
    Own,
    /// Its reader leaves.
    Leaves(When),
    /// Its reader asks for an end, and reads on until it comes.
    Asks(When, FinishReason),
}

/// When a reader has had enough.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    /// When so many tokens were read.
    Tokens(usize),
    /// When it was there for so long.
    Time(Duration),
}

/// Draws orders.
pub(super) struct Orders {
    random: Random,
    models: Vec<ModelInfo>,
    guest: ModelDigest,
    /// Beginnings that many prompts have.
    beginnings: Vec<Vec<u32>>,
    /// Outputs that ended by themselves, the newest last.
    written: VecDeque<(Start, Arc<[u32]>)>,
    /// Orders that are still to come at this rate.
    left: u32,
    per_second: f64,
    mood: Mood,
}

/// How much of their limits outputs use, for some time. A worker that has seen many end at once lets in more than it has
/// room for, so that some must give way when others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Mixed,
    /// They end with their first tokens.
    Terse,
    /// They go on to their limit.
    Verbose,
}

impl Orders {
    /// The orders that belong to `seed`, for these models: those of one vocabulary, adapters among them. One of them,
    /// `guest`, comes and goes.
    pub(super) fn new(seed: u64, models: Vec<ModelInfo>, guest: ModelDigest) -> Self {
        let mut random = Random::seeded(seed);
        let vocabulary = models.iter().map(|model| model.vocabulary).min().unwrap_or(1);
        let beginnings = (0..BEGINNINGS)
            .map(|_| {
                let length = between(&mut random, 8, MAX_BEGINNING);
                tokens(&mut random, length, vocabulary)
            })
            .collect();
        Self {
            random,
            models,
            guest,
            beginnings,
            written: VecDeque::new(),
            left: 0,
            per_second: 1.0,
            mood: Mood::Mixed,
        }
    }

    /// Keeps an output that ended by itself, to continue it some day.
    pub(super) fn keep(&mut self, start: Start, output: Arc<[u32]>) {
        if output.len() < 2 {
            return;
        }
        if self.written.len() == MAX_WRITTEN {
            self.written.pop_front();
        }
        self.written.push_back((start, output));
    }

    /// How long it is until the next order: floods, trickles and silence take turns.
    pub(super) fn pause(&mut self) -> Duration {
        if self.left == 0 {
            self.per_second = RATES[self.random.below(RATES.len())];
            self.left = (self.per_second * MAX_TIDE * self.random.share()).ceil() as u32;
            let turns = self.chance(50);
            self.mood = match self.mood {
                Mood::Mixed if turns => Mood::Terse,
                Mood::Terse => Mood::Verbose,
                _ => Mood::Mixed,
            };
            // Whoever is to give way must not find the room free.
            if self.mood == Mood::Verbose {
                self.per_second = RATES[RATES.len() - 1];
            } else if self.chance(30) {
                return SILENCE;
            }
        }
        self.left -= 1;
        self.random.pause(self.per_second)
    }

    /// The next sequences: one, or the choices of one prompt.
    pub(super) fn next(&mut self) -> Vec<Order> {
        let order = match self.random.below(100) {
            0..4 => self.wrong(),
            4..16 => self.continued(),
            _ => self.new_order(),
        };
        if !matches!(order.kind, Kind::New) || !self.chance(12) {
            return vec![order];
        }
        let choices = between(&mut self.random, 2, 7) as u32;
        let choice = |index| {
            let mut order = order.clone();
            order.start.sampling = order.start.sampling.of_choice(index);
            order
        };
        (0..choices).map(choice).collect()
    }

    fn new_order(&mut self) -> Order {
        let model = &self.models[self.random.below(self.models.len())];
        let (digest, vocabulary) = (model.digest.clone(), model.vocabulary);
        let prompt = self.prompt(vocabulary);
        let max_output = match self.random.below(10) {
            0 => 1,
            1..6 => between(&mut self.random, 2, 60),
            _ => between(&mut self.random, 60, MAX_OUTPUT),
        } as u32;
        let tenant = ProjectId::from_u128(1 + self.random.below(TENANTS) as u128);
        let start = Start {
            request: RequestId::generate(),
            model: digest,
            prompt: prompt.into(),
            generated: Vec::new(),
            max_output,
            allowance: max_output,
            sampling: self.sampling(vocabulary),
            output: self.rules(max_output),
            share: Share {
                tenant,
                weight: between(&mut self.random, 1, 5) as u32,
                priority: Priority::ALL[self.random.below(Priority::ALL.len())],
            },
            salt: CacheSalt::of(tenant),
        };
        match self.mood {
            Mood::Mixed => self.around(start, Kind::New),
            Mood::Terse => self.around(self.terse(start), Kind::New),
            Mood::Verbose => self.around(verbose(start), Kind::New),
        }
    }

    /// The same, ending at once although it may go on.
    fn terse(&self, mut start: Start) -> Start {
        let model = self.models.iter().find(|model| model.digest == start.model);
        let mut stop = model.map_or_else(Vec::new, |model| model.stop_tokens.clone());
        stop.sort_unstable();
        start.sampling.logit_bias = stop.into_iter().map(|token| (token, 100.0)).collect();
        start.output = OutputRules::default();
        (start.max_output, start.allowance) = (MAX_OUTPUT as u32, MAX_OUTPUT as u32);
        start
    }

    /// An order to go on with what was written before; a new one, if there is nothing yet.
    fn continued(&mut self) -> Order {
        if self.written.is_empty() {
            return self.new_order();
        }
        let (start, whole) = self.written[self.random.below(self.written.len())].clone();
        let cut = between(&mut self.random, 1, whole.len());
        let generated = whole[..cut].to_vec();
        let start = Start {
            request: RequestId::generate(),
            generated,
            allowance: start.max_output,
            ..start
        };
        self.around(start, Kind::Continued(whole))
    }

    /// An order that must be refused.
    fn wrong(&mut self) -> Order {
        let mut order = self.new_order();
        let start = &mut order.start;
        match self.random.below(6) {
            0 => start.prompt = [].into(),
            1 => start.max_output = u32::MAX / 2,
            2 => start.prompt = [u32::MAX].into(),
            3 => start.output.logprobs = Some(1_000),
            4 => start.output.format = Format::Regex("(never closed".into()),
            _ => start.model = ModelDigest::new("nobody's"),
        }
        order.kind = Kind::Wrong;
        order
    }

    /// What happens to a sequence beside being computed.
    fn around(&mut self, mut start: Start, kind: Kind) -> Order {
        let ending = self.ending(start.max_output as usize);
        let mut paid = (start.max_output, Duration::ZERO);
        if self.chance(20) {
            let at_a_time = between(&mut self.random, 1, 40) as u32;
            paid = (at_a_time, self.time(MAX_UNPAID));
            start.allowance = (start.generated.len() as u32 + at_a_time).min(start.max_output);
        }
        let dawdles = if self.chance(10) { self.time(MAX_DAWDLING) } else { Duration::ZERO };
        let over_link = self.chance(50);
        let may_be_away = start.model == self.guest;
        Order { start, kind, ending, paid, dawdles, over_link, may_be_away }
    }

    fn ending(&mut self, max_output: usize) -> Ending {
        let (what, at_tokens) = (self.random.below(100), self.chance(50));
        let when = if at_tokens {
            When::Tokens(self.random.below(max_output + 1))
        } else {
            When::Time(self.time(MAX_PATIENCE))
        };
        let reasons = [FinishReason::Stop, FinishReason::Budget, FinishReason::Cancelled];
        match what {
            0..15 => Ending::Leaves(when),
            15..30 => Ending::Asks(when, reasons[self.random.below(reasons.len())]),
            _ => Ending::Own,
        }
    }

    fn prompt(&mut self, vocabulary: u32) -> Vec<u32> {
        let length = between(&mut self.random, 1, MAX_PROMPT);
        let mut prompt = Vec::new();
        if self.chance(60) {
            let beginning = &self.beginnings[self.random.below(self.beginnings.len())];
            // Some leave a beginning in the middle of it.
            let shared =
                if length.is_multiple_of(4) { beginning.len() / 2 } else { beginning.len() };
            prompt.extend_from_slice(&beginning[..shared]);
        }
        prompt.extend(tokens(&mut self.random, length, vocabulary));
        prompt
    }

    fn sampling(&mut self, vocabulary: u32) -> Sampling {
        let seed = self.random.number();
        if self.chance(25) {
            return Sampling { seed, ..Sampling::greedy() };
        }
        let [temperature, top_p, min_p] = [(); 3].map(|()| self.random.share() as f32);
        let mut sampling = Sampling {
            temperature: 2.0 * temperature,
            top_p: if self.chance(50) { top_p } else { 1.0 },
            top_k: if self.chance(30) { between(&mut self.random, 1, 100) as u32 } else { 0 },
            min_p: if self.chance(20) { min_p / 10.0 } else { 0.0 },
            seed,
            ..Sampling::greedy()
        };
        if self.chance(20) {
            sampling.repetition_penalty = 1.1;
            sampling.presence_penalty = 0.5;
            sampling.frequency_penalty = -0.25;
        }
        if self.chance(10) {
            let token = self.random.below(vocabulary as usize) as u32;
            sampling.logit_bias = vec![(token, 5.0)];
        }
        sampling
    }

    fn rules(&mut self, max_output: u32) -> OutputRules {
        OutputRules {
            format: self.format(),
            logprobs: self.chance(20).then(|| self.random.below(21) as u32),
            min_tokens: if self.chance(15) { max_output / 2 } else { 0 },
            ignore_eos: self.chance(25),
            ..OutputRules::default()
        }
    }

    /// Any text most of the time. Formats come from a stock that is larger than what a worker remembers of them, so
    /// that some are compiled and some are not.
    fn format(&mut self) -> Format {
        let variant = between(&mut self.random, 1, FORMATS);
        match self.random.below(14) {
            0 => Format::JsonObject,
            1 => Format::JsonSchema(schema(variant).into()),
            2 => Format::Regex(format!("[a-z]{{3,{}}}( [a-z]+)?", 3 + variant).into()),
            3 => {
                let choices = ["yes", "no", "it depends"].map(|word| format!("{word} {variant}"));
                Format::Choice(choices.into())
            }
            4 => Format::Grammar(
                format!("start: word (\" \" word)*\nword: /[a-z]{{1,{}}}/", 1 + variant).into(),
            ),
            _ => Format::Text,
        }
    }

    fn time(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.share())
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }
}

/// The same with a short prompt, going on to a high limit.
fn verbose(mut start: Start) -> Start {
    let length = start.prompt.len().min(MAX_VERBOSE_PROMPT);
    start.prompt = start.prompt[start.prompt.len() - length..].into();
    start.output = OutputRules { ignore_eos: true, ..OutputRules::default() };
    (start.max_output, start.allowance) = (MAX_OUTPUT as u32, MAX_OUTPUT as u32);
    start
}

fn schema(variant: usize) -> String {
    let properties = serde_json::json!({
        format!("field-{variant}"): { "type": "string", "maxLength": 20 },
        "count": { "type": "integer", "minimum": 0, "maximum": 1_000 },
        "kind": { "enum": ["small", "large"] },
        "parts": { "type": "array", "items": { "type": "boolean" }, "maxItems": 4 },
    });
    serde_json::json!({
        "type": "object",
        "properties": properties,
        "required": ["count", "kind"],
        "additionalProperties": false,
    })
    .to_string()
}

/// `low` at least, below `end`.
fn between(random: &mut Random, low: usize, end: usize) -> usize {
    low + random.below(end - low)
}

fn tokens(random: &mut Random, length: usize, vocabulary: u32) -> Vec<u32> {
    (0..length).map(|_| random.below(vocabulary as usize) as u32).collect()
}

const TENANTS: usize = 6;
const BEGINNINGS: usize = 12;
const MAX_BEGINNING: usize = 300;
const MAX_PROMPT: usize = 300;
const MAX_OUTPUT: usize = 300;
const MAX_VERBOSE_PROMPT: usize = 40;
const MAX_WRITTEN: usize = 64;
const FORMATS: usize = 40;
/// Orders a second; the highest are more than an engine can do, so that some are refused.
const RATES: [f64; 4] = [5.0, 30.0, 100.0, 400.0];
/// How long a rate lasts at most, in seconds.
const MAX_TIDE: f64 = 8.0;
const SILENCE: Duration = Duration::from_secs(2);
const MAX_UNPAID: Duration = Duration::from_millis(300);
const MAX_DAWDLING: Duration = Duration::from_millis(50);
const MAX_PATIENCE: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64) -> Vec<Order> {
        let model = ModelInfo {
            name: domain::ModelName::new("a model"),
            digest: ModelDigest::new("ab"),
            context_length: 2048,
            vocabulary: 4096,
            stop_tokens: vec![1],
            weights: "f16".to_owned(),
            kind: domain::ModelKind::Text,
        };
        let mut orders = Orders::new(seed, vec![model], ModelDigest::new("cd"));
        (0..2_000).flat_map(|_| orders.next()).collect()
    }

    #[test]
    fn one_seed_draws_the_same_orders_and_another_does_not() {
        let told = |seed| {
            let mut drawn = drawn(seed);
            for order in &mut drawn {
                order.start.request = RequestId::from_u128(0);
            }
            format!("{drawn:?}")
        };

        assert_eq!(told(3), told(3));
        assert_ne!(told(3), told(4));
    }

    #[test]
    fn everything_that_may_happen_is_drawn() {
        let drawn = drawn(1);
        let some = |is: &dyn Fn(&Order) -> bool| drawn.iter().any(is);

        assert!(some(&|order| matches!(order.kind, Kind::Wrong)));
        assert!(some(&|order| matches!(order.ending, Ending::Leaves(When::Tokens(_)))));
        assert!(some(&|order| matches!(order.ending, Ending::Asks(When::Time(_), _))));
        assert!(some(&|order| order.start.allowance < order.start.max_output));
        assert!(some(&|order| matches!(order.start.output.format, Format::Grammar(_))));
        assert!(drawn.windows(2).any(|two| two[0].start.prompt == two[1].start.prompt));
    }

    #[test]
    fn what_was_written_is_continued_from_within() {
        let mut orders = Orders::new(1, vec![], ModelDigest::new("cd"));
        let mut order = drawn(1).remove(0);
        order.start.max_output = 9;
        orders.keep(order.start, [7, 8, 9].into());

        let continued = orders.continued();

        assert!([[7].as_slice(), &[7, 8]].contains(&continued.start.generated.as_slice()));
    }
}
