//! One output's place in its language.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;

use super::Mask;
use super::language::told;

/// An output's place in its language.
pub(crate) struct Matching {
    matcher: Matcher,
    stop_tokens: Arc<[u32]>,
}

/// How an output goes on.
#[derive(Debug)]
pub(crate) struct Outlook {
    /// Tokens that come next, whatever the model thinks.
    pub(crate) forced: VecDeque<u32>,
    /// What comes after them.
    pub(crate) then: Then,
}

/// How an output goes on when nothing is forced.
#[derive(Debug)]
pub(crate) enum Then {
    /// One of these tokens; a stop token among them ends the output.
    Choice(Mask),
    /// It ends: nothing can follow.
    Complete,
    /// It cannot go on, and why.
    Nothing(String),
    /// It is no beginning of a sentence: it was written elsewhere, in another language.
    Elsewhere,
}

impl Matching {
    pub(super) fn new(matcher: Matcher, stop_tokens: Arc<[u32]>) -> Self {
        Self { matcher, stop_tokens }
    }

    /// Goes on with a token that was drawn.
    pub(super) fn advance(&mut self, token: u32) -> Outlook {
        if self.matcher.consume_token(token).is_err() {
            return self.nothing();
        }
        let forced = self.run();
        self.outlook(forced)
    }

    /// Goes on with an output that was written before, from the beginning.
    pub(super) fn replay(&mut self, output: &[u32]) -> Outlook {
        let mut forced = self.run();
        for &token in output {
            match forced.pop_front() {
                Some(due) if due == token => {}
                Some(_) => return elsewhere(),
                None => {
                    if self.matcher.consume_token(token).is_err() {
                        return elsewhere();
                    }
                    forced = self.run();
                }
            }
        }
        self.outlook(forced)
    }

    /// Takes the tokens up that are forced from here.
    fn run(&mut self) -> VecDeque<u32> {
        let mut run = VecDeque::new();
        while run.len() < MAX_RUN && !self.matcher.is_stopped() {
            let forced = self.matcher.consume_ff_tokens();
            if forced.is_empty() {
                break;
            }
            run.extend(forced);
        }
        run
    }

    fn outlook(&mut self, forced: VecDeque<u32>) -> Outlook {
        Outlook { forced, ..self.here() }
    }

    /// How it goes on from where the matcher stands.
    fn here(&mut self) -> Outlook {
        if self.matcher.is_error() {
            return self.nothing();
        }
        if self.matcher.is_stopped() {
            let then = if self.matcher.stop_reason().is_ok() {
                Then::Complete
            } else {
                Then::Nothing(self.matcher.stop_reason().to_string())
            };
            return Outlook { forced: VecDeque::new(), then };
        }
        let (Ok(allowed), Ok(ends)) = (self.matcher.compute_mask(), self.matcher.is_accepting())
        else {
            return self.nothing();
        };
        // A stop token ends the output, so it is a choice only where a sentence ends.
        let not = if ends { &[][..] } else { &self.stop_tokens };
        let then = match Mask::new(allowed, not) {
            Some(mask) if ends && mask.is_only(&self.stop_tokens) => Then::Complete,
            Some(mask) => Then::Choice(mask),
            None => Then::Nothing(NOTHING_FITS.to_owned()),
        };
        Outlook { forced: VecDeque::new(), then }
    }

    fn nothing(&self) -> Outlook {
        // The library has no words for this one, only a name.
        let unnamed = StopReason::NoExtensionBias.to_string();
        let reason = match self.matcher.get_error() {
            Some(error) if !error.starts_with(&unnamed) => told(&error),
            Some(_) | None => NOTHING_FITS.to_owned(),
        };
        Outlook { forced: VecDeque::new(), then: Then::Nothing(reason) }
    }
}

fn elsewhere() -> Outlook {
    Outlook { forced: VecDeque::new(), then: Then::Elsewhere }
}

/// Longer runs are cut, at the same place wherever they are computed.
const MAX_RUN: usize = 4096;
const NOTHING_FITS: &str = "there is no text that fits it";
