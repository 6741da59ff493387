//! One output's place in its language.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::api::StopReason;

use super::language::told;
use super::reader::Reader;
use super::{Language, Mask};

/// An output's place in its language.
pub(crate) struct Matching {
    language: Arc<Language>,
    reader: Reader,
    /// Tokens of the output that were not forced: they determine the others.
    drawn: Vec<u32>,
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
    /// Stands at the beginning of an output.
    pub(super) fn begin(language: &Arc<Language>) -> Self {
        Self { language: Arc::clone(language), reader: language.start(), drawn: Vec::new() }
    }

    /// Goes on with a token that was drawn.
    pub(super) fn advance(&mut self, token: u32) -> Outlook {
        if !self.read(token) {
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
                    if !self.read(token) {
                        return elsewhere();
                    }
                    forced = self.run();
                }
            }
        }
        self.outlook(forced)
    }

    /// Forgets what was explored beside the output: stands at the same place, and takes less memory.
    pub(super) fn shrink(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        self.reader = self.language.start();
        self.run();
        for token in drawn {
            if !self.read(token) {
                return;
            }
            self.run();
        }
    }

    /// The memory it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.reader.bytes() + self.drawn.len() * size_of::<u32>()
    }

    fn read(&mut self, token: u32) -> bool {
        self.drawn.push(token);
        self.reader.read(token)
    }

    /// Takes the tokens up that are forced from here.
    fn run(&mut self) -> VecDeque<u32> {
        let mut run = VecDeque::new();
        while run.len() < MAX_RUN && self.reader.stopped().is_none() {
            let forced = self.reader.read_forced();
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

    /// How it goes on from where the reader stands.
    fn here(&mut self) -> Outlook {
        if self.reader.broken().is_some() {
            return self.nothing();
        }
        if let Some(reason) = self.reader.stopped() {
            let then =
                if reason.is_ok() { Then::Complete } else { Then::Nothing(reason.to_string()) };
            return Outlook { forced: VecDeque::new(), then };
        }
        let (Some(allowed), Some(ends)) = (self.reader.allowed(), self.reader.may_end()) else {
            return self.nothing();
        };
        // A stop token ends the output, so it is a choice only where a sentence ends.
        let stop_tokens = self.language.stop_tokens();
        let not = if ends { &[][..] } else { stop_tokens };
        let then = match Mask::new(allowed, not) {
            Some(mask) if ends && mask.is_only(stop_tokens) => Then::Complete,
            Some(mask) => Then::Choice(mask),
            None => Then::Nothing(NOTHING_FITS.to_owned()),
        };
        Outlook { forced: VecDeque::new(), then }
    }

    fn nothing(&self) -> Outlook {
        // The library has no words for this one, only a name.
        let unnamed = StopReason::NoExtensionBias.to_string();
        Outlook::nothing(match self.reader.broken() {
            Some(error) if !error.starts_with(&unnamed) => told(error),
            Some(_) | None => NOTHING_FITS.to_owned(),
        })
    }
}

impl Outlook {
    /// Nothing can follow, and why.
    pub(super) fn nothing(reason: String) -> Self {
        Self { forced: VecDeque::new(), then: Then::Nothing(reason) }
    }
}

fn elsewhere() -> Outlook {
    Outlook { forced: VecDeque::new(), then: Then::Elsewhere }
}

/// Longer runs are cut, at the same place wherever they are computed.
const MAX_RUN: usize = 4096;
const NOTHING_FITS: &str = "there is no text that fits it";
