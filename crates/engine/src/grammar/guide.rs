//! Guides follow sequences on threads of their own, so that the step thread computes meanwhile.
//!
//! Whose turn it is says the [`Desk`]. A guide begins with its sequence and ends with it: what it has waiting is
//! withdrawn then. What it takes to follow an output is held in the engine's [`Memory`]; a guide that takes too much
//! forgets what it explored beside its output, and one that still takes too much says so and goes no further.
//!
//! Promise: all guides together take no more than the budget, and what each thread explores for one token beside it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use domain::Share;

use super::desk::{Desk, Move, Takes, Ticket};
use super::language::too_large;
use super::matching::{Matching, Outlook, Then};
use super::memory::{Hold, Memory};
use super::{Language, Mask};

/// The threads that guides work on. Dropping it ends them.
pub(crate) struct Guides {
    office: Arc<Office>,
    memory: Memory,
    threads: Vec<JoinHandle<()>>,
}

/// Follows one sequence through its language. Dropping it takes back what it has waiting.
pub(crate) struct Guide {
    office: Arc<Office>,
    share: Share,
    answer: Arc<Mutex<Option<Answer>>>,
    /// What it last asked for.
    ticket: Ticket,
    /// Here while there is nothing to do.
    following: Option<Box<Following>>,
    outlook: Option<Outlook>,
    took: Duration,
}

/// What comes next in a sequence, as far as its guide decides.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next<'a> {
    /// This token.
    Forced(u32),
    /// One of these.
    Choice(&'a Mask),
    /// The end.
    Complete,
    /// Nothing can.
    Nothing(&'a str),
    /// What was written before is not of this language.
    Elsewhere,
}

struct Office {
    work: Mutex<Work>,
    /// There is something to do, or nothing any more.
    more: Condvar,
    /// Something was done.
    done: Condvar,
    /// Called when something was done.
    ring: Box<dyn Fn() + Send + Sync>,
}

struct Work {
    desk: Desk<Task>,
    /// Tasks done so far.
    finished: u64,
    over: bool,
}

struct Task {
    what: What,
    answer: Arc<Mutex<Option<Answer>>>,
}

enum What {
    Begin(Arc<Language>, Vec<u32>, Hold),
    Advance(Box<Following>, u32),
}

/// An output's place in its language, and the memory that takes.
struct Following {
    matching: Matching,
    hold: Hold,
}

struct Answer {
    following: Box<Following>,
    outlook: Outlook,
    took: Duration,
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides").finish_non_exhaustive()
    }
}

impl Guides {
    /// Starts the threads. Guides may take so much memory in `bytes`; `ring` is called whenever one knows how its
    /// sequence goes on, or takes less.
    pub(crate) fn start(
        bytes: usize,
        ring: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let work = Mutex::new(Work { desk: Desk::new(), finished: 0, over: false });
        let (more, done, ring) = (Condvar::new(), Condvar::new(), Box::new(ring));
        let office = Arc::new(Office { work, more, done, ring });
        let mut guides = Self { office, memory: Memory::new(bytes), threads: Vec::new() };
        for takes in THREADS {
            let office = Arc::clone(&guides.office);
            let builder = std::thread::Builder::new().name("engine-guide".to_owned());
            guides.threads.push(builder.spawn(move || office.serve(takes))?);
        }
        Ok(guides)
    }

    /// Whether there is memory for one more guide through this language, for this tenant.
    pub(crate) fn has_room(&self, share: Share, language: &Language) -> bool {
        self.memory.has_room(share, language.bytes() + HEADROOM)
    }

    /// A guide for a tenant's sequence that has written `output` so far.
    pub(crate) fn guide(&self, share: Share, language: Arc<Language>, output: &[u32]) -> Guide {
        let hold = self.memory.hold(share, language.bytes() + HEADROOM);
        let (office, answer) = (Arc::clone(&self.office), Arc::default());
        let begin = What::Begin(language, output.to_vec(), hold);
        let ticket = office.ask(share, begin, &answer);
        Guide {
            office,
            share,
            answer,
            ticket,
            following: None,
            outlook: None,
            took: Duration::ZERO,
        }
    }

    /// Waits until `enough`, which is asked again whenever something was done, but not longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration, mut enough: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        let mut seen = self.office.lock().finished;
        while !enough() {
            let mut work = self.office.lock();
            while work.finished == seen {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                let waited = self.office.done.wait_timeout(work, left);
                work = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            seen = work.finished;
        }
    }
}

impl Drop for Guides {
    fn drop(&mut self) {
        let mut work = self.office.lock();
        work.over = true;
        work.desk = Desk::new();
        drop(work);
        self.office.more.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine's guides had panicked");
            }
        }
    }
}

impl Guide {
    /// What comes next, if it is known by now.
    pub(crate) fn next(&mut self) -> Option<Next<'_>> {
        self.look();
        let Outlook { forced, then } = self.outlook.as_ref()?;
        Some(match (forced.front(), then) {
            (Some(&token), _) => Next::Forced(token),
            (None, Then::Choice(mask)) => Next::Choice(mask),
            (None, Then::Complete) => Next::Complete,
            (None, Then::Nothing(reason)) => Next::Nothing(reason),
            (None, Then::Elsewhere) => Next::Elsewhere,
        })
    }

    /// Notes that the sequence goes on with `token`: what was forced, or drawn from the choice.
    pub(crate) fn follow(&mut self, token: u32) {
        self.look();
        match &mut self.outlook {
            Some(outlook) if !outlook.forced.is_empty() => drop(outlook.forced.pop_front()),
            Some(_) | None => {
                self.outlook = None;
                // A guide that is busy has given no choice to draw from.
                if let Some(following) = self.following.take() {
                    let advance = What::Advance(following, token);
                    self.ticket = self.office.ask(self.share, advance, &self.answer);
                }
            }
        }
    }

    /// How long it took to find out how the sequence goes on; once.
    pub(crate) fn took(&mut self) -> Option<Duration> {
        self.look();
        let took = std::mem::take(&mut self.took);
        (!took.is_zero()).then_some(took)
    }

    /// Takes the answer up, if there is one.
    fn look(&mut self) {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Answer { following, outlook, took }) = answer {
            self.following = Some(following);
            self.outlook = Some(outlook);
            self.took = took;
        }
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        self.office.lock().desk.withdraw(self.ticket);
    }
}

impl Office {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, share: Share, what: What, answer: &Arc<Mutex<Option<Answer>>>) -> Ticket {
        let moves = match what {
            What::Begin(..) => Move::Begins,
            What::Advance(..) => Move::GoesOn,
        };
        let task = Task { what, answer: Arc::clone(answer) };
        let ticket = self.lock().desk.leave(share, moves, task);
        self.more.notify_all();
        ticket
    }

    /// Does what there is to do, until it is over.
    fn serve(&self, takes: Takes) {
        while let Some((share, moves, Task { what, answer })) = self.next(takes) {
            let began = Instant::now();
            let (following, outlook) = what.find_out();
            let took = began.elapsed();
            let told = Answer { following, outlook, took };
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            // If its guide is gone, so is what it held.
            drop(answer);
            let mut work = self.lock();
            work.desk.done(share, moves, took);
            work.finished += 1;
            drop(work);
            self.done.notify_all();
            (self.ring)();
        }
    }

    fn next(&self, takes: Takes) -> Option<(Share, Move, Task)> {
        let mut work = self.lock();
        loop {
            if work.over {
                return None;
            }
            let next = work.desk.take(takes);
            if next.is_some() {
                return next;
            }
            work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl What {
    /// How the sequence goes on.
    fn find_out(self) -> (Box<Following>, Outlook) {
        let (mut following, outlook) = match self {
            Self::Begin(language, output, hold) => {
                let mut matching = Matching::begin(&language);
                let outlook = matching.replay(&output);
                (Box::new(Following { matching, hold }), outlook)
            }
            Self::Advance(mut following, token) => {
                let outlook = following.matching.advance(token);
                (following, outlook)
            }
        };
        let outlook = following.fit(outlook, MAX_BYTES);
        (following, outlook)
    }
}

impl Following {
    /// Keeps to the memory there is, and to `max` bytes. The outlook stays what it is, if that can be done.
    fn fit(&mut self, outlook: Outlook, max: usize) -> Outlook {
        let bytes = self.matching.bytes();
        if bytes <= max && self.hold.try_resize(bytes) {
            return outlook;
        }
        self.matching.shrink();
        let bytes = self.matching.bytes();
        self.hold.resize(bytes);
        if bytes <= max {
            return outlook;
        }
        Outlook::nothing(too_large(bytes, max))
    }
}

const THREADS: [Takes; 2] = [Takes::Everything, Takes::WhatIsQuick];
/// What a guide may take.
const MAX_BYTES: usize = 16 << 20;
/// What a guide is expected to explore.
const HEADROOM: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use domain::{Format, ModelName, ProjectId};

    use super::super::language::Compiler;
    use super::*;
    use crate::{Model, ModelSource};

    fn language(format: &Format) -> Arc<Language> {
        let model = Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut |_| {}).unwrap();
        let compiler = Compiler::new(model.files(), model.info()).unwrap();
        compiler.compile(format).unwrap()
    }

    fn share(tenant: u128) -> Share {
        Share::of(ProjectId::from_u128(tenant))
    }

    /// Guides whose threads have not come to work yet.
    fn idle(bytes: usize) -> Guides {
        let work = Mutex::new(Work { desk: Desk::new(), finished: 0, over: false });
        let (more, done, ring) = (Condvar::new(), Condvar::new(), Box::new(|| {}));
        let office = Arc::new(Office { work, more, done, ring });
        Guides { office, memory: Memory::new(bytes), threads: Vec::new() }
    }

    #[test]
    fn a_guide_that_is_gone_leaves_nothing_to_do_and_holds_no_memory() {
        let (guides, language) = (idle(1 << 30), language(&Format::JsonObject));
        let begun: Vec<Guide> =
            (0..20).map(|_| guides.guide(share(1), Arc::clone(&language), &[])).collect();
        assert_eq!(guides.office.lock().desk.len(), 20);
        assert!(guides.memory.all() >= 20 * language.bytes());

        drop(begun);

        assert_eq!((guides.office.lock().desk.len(), guides.memory.all()), (0, 0));
    }

    #[test]
    fn there_is_room_for_a_few_guides_and_then_for_other_tenants_only() {
        let language = language(&Format::JsonObject);
        let guides = idle(4 * (language.bytes() + HEADROOM));
        let begin = |tenant| {
            let room = guides.has_room(share(tenant), &language);
            room.then(|| guides.guide(share(tenant), Arc::clone(&language), &[]))
        };
        let flood: Vec<Guide> = (0..100).map_while(|_| begin(1)).collect();
        let calm: Vec<Guide> = (0..100).map_while(|_| begin(2)).collect();
        assert_eq!((flood.len(), calm.len()), (4, 2));
    }

    /// Follows a language that explores much, with draws of all kinds; what was said, and the most bytes it took.
    fn follow(language: &Arc<Language>, hold: Hold, vocabulary: usize) -> (Vec<String>, usize) {
        let begin = What::Begin(Arc::clone(language), Vec::new(), hold);
        let (mut following, mut outlook) = begin.find_out();
        let (mut said, mut most) = (Vec::new(), 0);
        for draw in 0..60 {
            said.push(format!("{outlook:?}"));
            let Then::Choice(mask) = &outlook.then else { break };
            let mut logits = vec![0.0; vocabulary];
            mask.apply(&mut logits);
            let allowed: Vec<usize> =
                (0..vocabulary).filter(|token| logits[*token].is_finite()).collect();
            let token = allowed[draw * 7_919 % allowed.len()] as u32;
            (following, outlook) = What::Advance(following, token).find_out();
            most = most.max(following.matching.bytes());
        }
        (said, most)
    }

    #[test]
    fn a_guide_that_must_forget_what_it_explored_says_the_same() {
        let language = language(&Format::Regex("\\p{L}{1,200}\\w{1,200}".into()));
        let (roomy, full) = (Memory::new(1 << 30), Memory::new(0));
        let _others = full.hold(share(2), 1);

        let (expected, explored) = follow(&language, roomy.hold(share(1), 0), 4096);
        let (said, kept) = follow(&language, full.hold(share(1), 0), 4096);

        assert!(expected.len() > 30, "{} tokens", expected.len());
        assert_eq!(said, expected);
        assert!(kept < explored / 2, "{kept} bytes, and {explored} where there is room");
    }

    #[test]
    fn a_choice_may_hold_any_character() {
        let all: String = (1..128).map(char::from).collect();
        let language = language(&Format::Choice([format!("{all}日本")].into()));
        let outlook = Matching::begin(&language).replay(&[]);
        assert!(!matches!(outlook.then, Then::Nothing(_)), "{outlook:?}");
    }

    #[test]
    fn a_guide_that_takes_too_much_says_so_and_what_to_do() {
        let language = language(&Format::JsonObject);
        let hold = Memory::new(1 << 30).hold(share(1), 0);
        let mut following = Following { matching: Matching::begin(&language), hold };
        let outlook = following.matching.replay(&[]);
        let outlook = following.fit(outlook, 1_024);
        let Then::Nothing(reason) = outlook.then else { panic!("{outlook:?}") };
        assert!(reason.contains("at most 1 KiB") && reason.contains("use fewer"), "{reason}");
    }
}
