//! Decides how many guessed tokens are worth computing.
//!
//! A guess is right with some odds, which are learnt: of each sequence, and of the engine for those that have no
//! experience of their own yet, by how many tokens agreed where the guess was found. A right guess
//! saves a turn, and that is worth what a turn costs; a row more costs what the work model says. Each further token of a
//! draft is right only if those before it are, so drafts end where the next token costs more than it saves.
//! Where nothing is worth it, a token is tried now and then, and ever more rarely as long as that fails.
//!
//! Nobody else is to notice: of a step with sequences that gain less than that, drafts take
//! [`MAX_DELAY`] of its time at most.
//!
//! Invariant: knows nothing of texts and clocks. Outputs depend on none of this.

use crate::attribution::{Costs, Demand};

/// How often guesses were right, by how many tokens agreed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Experience([Tally; CLASSES.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    tried: f64,
    right: f64,
}

/// What became of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Tokens that agreed where it was found.
    pub(crate) length: u32,
    pub(crate) drafted: u32,
    pub(crate) accepted: u32,
}

impl Experience {
    /// What an engine believes before it has seen anything.
    pub(crate) fn hopeful() -> Self {
        let tally = |(_, odds)| Tally { tried: FIRST_WEIGHT, right: FIRST_WEIGHT * odds };
        Self(CLASSES.map(tally))
    }

    /// How likely the next token of a guess is right.
    fn odds(&self, length: u32, others: &Self) -> f64 {
        let class = class(length);
        let (own, others) = (self.0[class], others.0[class]);
        let prior = others.right / others.tried.max(1.0);
        (own.right + OTHERS_WEIGHT * prior) / (own.tried + OTHERS_WEIGHT)
    }

    /// Learns from a draft; what was learnt `memory` tokens ago counts a third of it.
    pub(crate) fn note(&mut self, trial: Trial, memory: f64) {
        let Trial { length, drafted, accepted } = trial;
        // Nobody knows of those behind the first wrong one.
        let tried = f64::from((accepted + 1).min(drafted));
        let tally = &mut self.0[class(length)];
        let fading = (-tried / memory).exp();
        tally.tried = tally.tried * fading + tried;
        tally.right = tally.right * fading + f64::from(accepted);
    }
}

fn class(length: u32) -> usize {
    CLASSES.iter().rposition(|(least, _)| length >= *least).unwrap_or(0)
}

/// When a sequence whose guesses are not worth it tries one all the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Tokens until then.
    left: u32,
    /// Tokens from one try to the next.
    pause: u32,
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self { left: FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    pub(crate) fn passed(&mut self, tokens: u32) {
        self.left = self.left.saturating_sub(tokens);
    }

    /// Notes how a draft did.
    pub(crate) fn note(&mut self, trial: Trial) {
        if trial.accepted > 0 {
            (self.pause, self.left) = (FIRST_PAUSE, 0);
        } else if trial.drafted == 1 {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.left = self.pause;
        }
    }

    const fn is_over(self) -> bool {
        self.left == 0
    }
}

/// A step to which drafts may be added.
pub(crate) struct Plan<'a> {
    costs: &'a Costs,
    /// All that it computes, drafts included.
    whole: Demand,
    /// The same without drafts, and what that takes.
    plain: Demand,
    plain_time: f64,
    /// Sequences in it.
    turns: usize,
    drafts: Vec<Draft>,
}

/// A draft that pays for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draft {
    /// Whose it is.
    pub(crate) turn: usize,
    pub(crate) tokens: u32,
    /// Tokens that it is expected to save.
    gain: f64,
    /// What it adds to the time of the step.
    cost: f64,
}

/// Who could have a draft.
pub(crate) struct Candidate {
    pub(crate) turn: usize,
    /// What it computes anyway.
    pub(crate) own: Demand,
    /// What each token of a draft adds to that.
    pub(crate) row: Demand,
    pub(crate) max_tokens: u32,
}

impl<'a> Plan<'a> {
    /// A step of so many `turns` that is `whole` without drafts.
    pub(crate) fn new(costs: &'a Costs, whole: Demand, turns: usize) -> Self {
        let plain_time = costs.predict(&whole);
        Self { costs, whole, plain: whole, plain_time, turns, drafts: Vec::new() }
    }

    /// Whether a draft would be worth it if all of it were right for sure.
    pub(crate) fn may_pay(&self, candidate: &Candidate) -> bool {
        candidate.max_tokens > 0 && self.saving(candidate) > self.price(candidate)
    }

    /// Gives a candidate the draft that is worth most, if any is. `length` tokens agreed where its guess was found.
    pub(crate) fn add(&mut self, candidate: &Candidate, length: u32, odds: &Odds<'_>) -> u32 {
        let each = odds.own.odds(length, odds.others);
        let saving = self.saving(candidate);
        let (mut tokens, mut gain, mut cost, mut right) = (0, 0.0, 0.0, each);
        while tokens < candidate.max_tokens.min(MAX_DRAFT) {
            let price = self.price(candidate);
            let is_try = tokens == 0 && odds.patience.is_over() && saving > price;
            if right * saving <= price && !is_try {
                break;
            }
            (tokens, gain, cost) = (tokens + 1, gain + right, cost + self.cost(candidate));
            right *= each;
            self.whole = self.whole.plus(&candidate.row);
        }
        if tokens > 0 {
            self.drafts.push(Draft { turn: candidate.turn, tokens, gain, cost });
        }
        tokens
    }

    /// The drafts of the step, in the order in which they were added.
    pub(crate) fn settle(mut self) -> Vec<Draft> {
        let total: f64 = self.drafts.iter().map(|draft| draft.cost).sum();
        let least = self.drafts.iter().map(|draft| draft.gain).fold(f64::INFINITY, f64::min);
        let all = self.drafts.len() == self.turns;
        // A sequence that is expected to gain a token may wait as long as a step takes.
        let everybody_gains = all && total <= self.plain_time * least;
        if self.turns < 2 || everybody_gains || total <= self.plain_time * MAX_DELAY {
            return self.drafts;
        }
        let mut left = self.plain_time * MAX_DELAY;
        for draft in &mut self.drafts {
            let each = draft.cost / f64::from(draft.tokens);
            let affordable = if each > 0.0 { (left / each) as u32 } else { draft.tokens };
            draft.tokens = draft.tokens.min(affordable);
            left -= each * f64::from(draft.tokens);
        }
        self.drafts.retain(|draft| draft.tokens > 0);
        self.drafts
    }

    /// What a turn that is saved is worth to whom it belongs.
    fn saving(&self, candidate: &Candidate) -> f64 {
        self.costs.share(&self.plain, &candidate.own, self.turns)
    }

    /// What a token more has to save.
    fn price(&self, candidate: &Candidate) -> f64 {
        let margin = if self.turns > 1 { MARGIN_IN_COMPANY } else { MARGIN };
        self.cost(candidate) * margin
    }

    /// What a token more adds to the step.
    fn cost(&self, candidate: &Candidate) -> f64 {
        let with = self.whole.plus(&candidate.row);
        self.costs.predict(&with) - self.costs.predict(&self.whole)
    }
}

/// What is known of the guesses of one sequence.
pub(crate) struct Odds<'a> {
    pub(crate) own: &'a Experience,
    pub(crate) others: &'a Experience,
    pub(crate) patience: Patience,
}

/// Agreeing tokens from which on guesses are counted together, and how often they are right at first sight.
const CLASSES: [(u32, f64); 4] = [(2, 0.4), (3, 0.5), (4, 0.6), (8, 0.8)];
/// Tokens that the first sight counts for.
const FIRST_WEIGHT: f64 = 8.0;
/// Tokens that the experience of others counts for.
const OTHERS_WEIGHT: f64 = 2.0;
/// Tokens of drafts that a sequence remembers, and an engine.
pub(crate) const OWN_MEMORY: f64 = 16.0;
pub(crate) const ENGINE_MEMORY: f64 = 256.0;
/// A draft has to save so many times what it costs: both are guesses, and a saving of a few parts in a hundred is none.
const MARGIN: f64 = 1.25;
/// The same beside others. What a turn shares with theirs is not saved while they go on, and threads that divided a step
/// evenly wait for the one that has a row more.
const MARGIN_IN_COMPANY: f64 = 2.0;
/// The part of a step's time that drafts may add where somebody gains nothing by them: less than steps differ by themselves.
const MAX_DELAY: f64 = 1.0 / 64.0;
/// Tokens of a draft at most.
pub(crate) const MAX_DRAFT: u32 = 15;
/// Tokens until the first try, and until the last ones.
const FIRST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a step takes as long as `fixed` tokens do beside its own.
    const fn costs(fixed: f64) -> Costs {
        Costs { fixed, token: 1.0, knee: 1.0, pair: 0.0, read: 0.0, row: 0.0 }
    }

    const TOKEN: Demand = Demand { tokens: 1.0, pairs: 0.0, reads: 0.0, rows: 1.0 };

    const fn candidate(turn: usize) -> Candidate {
        Candidate { turn, own: TOKEN, row: TOKEN, max_tokens: MAX_DRAFT }
    }

    fn step(costs: &Costs, turns: usize) -> Plan<'_> {
        let whole = (0..turns).fold(Demand::default(), |sum, _| sum.plus(&TOKEN));
        Plan::new(costs, whole, turns)
    }

    /// A sequence whose guesses were right so often.
    fn seasoned(odds: f64) -> Experience {
        Experience([Tally { tried: 1e6, right: 1e6 * odds }; CLASSES.len()])
    }

    fn odds(own: &Experience) -> Odds<'_> {
        Odds { own, others: own, patience: Patience::new() }
    }

    fn drafted(plan: &mut Plan<'_>, turn: usize, chance: f64) -> u32 {
        plan.add(&candidate(turn), 4, &odds(&seasoned(chance)))
    }

    #[test]
    fn a_draft_ends_where_the_next_token_costs_more_than_it_saves() {
        let costs = costs(3.0);
        // Alone, a turn takes 4 and a token more takes 1: worth it down to odds of 0.31.
        for (chance, tokens) in [(0.3, 0), (0.35, 1), (0.57, 2), (0.8, 5), (1.0, MAX_DRAFT)] {
            let mut plan = step(&costs, 1);
            assert_eq!(drafted(&mut plan, 0, chance), tokens, "odds of {chance}");
        }
    }

    #[test]
    fn where_tokens_are_what_takes_the_time_nobody_guesses() {
        let costs = costs(3.0);
        let plan = step(&costs, 64);
        assert!(!plan.may_pay(&candidate(0)));
        // Nobody looks for guesses then; if somebody did, there would be none.
        assert_eq!(drafted(&mut step(&costs, 64), 0, 1.0), 0);
    }

    #[test]
    fn who_gains_nothing_waits_next_to_no_longer() {
        let costs = costs(254.0);
        // Of two, one guesses: of a step of 256 that is four tokens.
        let mut plan = step(&costs, 2);
        assert_eq!(drafted(&mut plan, 1, 1.0), MAX_DRAFT);
        let drafts = plan.settle();
        assert_eq!((drafts[0].turn, drafts[0].tokens, drafts.len()), (1, 4, 1));

        // Both gain more than they wait.
        let mut plan = step(&costs, 2);
        let both = [drafted(&mut plan, 0, 1.0), drafted(&mut plan, 1, 1.0)];
        assert_eq!(both, [MAX_DRAFT; 2]);
        assert_eq!(plan.settle().len(), 2);
    }

    #[test]
    fn who_guesses_wrong_tries_ever_more_rarely_and_again_once_it_was_right() {
        let mut patience = Patience::new();
        let mut tries = 0;
        for _ in 0..10_000 {
            patience.passed(1);
            if patience.is_over() {
                tries += 1;
                patience.note(Trial { length: 2, drafted: 1, accepted: 0 });
            }
        }
        assert!((10..20).contains(&tries), "{tries}");
        patience.note(Trial { length: 2, drafted: 1, accepted: 1 });
        assert!(patience.is_over());
    }

    #[test]
    fn a_sequence_without_experience_has_that_of_others() {
        let (mut others, mut own) = (Experience::hopeful(), Experience::default());
        for _ in 0..200 {
            others.note(Trial { length: 3, drafted: 5, accepted: 0 }, ENGINE_MEMORY);
        }
        assert!(own.odds(3, &others) < 0.05);
        assert!(own.odds(2, &others) > 0.3, "of other guesses that says nothing");
        for _ in 0..10 {
            own.note(Trial { length: 3, drafted: 5, accepted: 5 }, OWN_MEMORY);
        }
        assert!(own.odds(3, &others) > 0.8);
    }
}
