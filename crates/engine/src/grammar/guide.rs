//! Guides follow sequences on threads of their own, so that the step thread computes meanwhile.
//!
//! A guide has at most one thing to do at a time, so no more wait than there are sequences. Going on comes before
//! beginning, and one thread never begins: beginning may mean to replay a long output, or to find a long forced
//! run, and nobody else's stream is to wait for that.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::matching::{Matching, Outlook, Then};
use super::{Language, Mask};

/// The threads that guides work on. Dropping it ends them.
pub(crate) struct Guides {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
}

/// Follows one sequence through its language.
pub(crate) struct Guide {
    desk: Arc<Desk>,
    answer: Arc<Mutex<Option<Answer>>>,
    /// Here while there is nothing to do.
    matching: Option<Box<Matching>>,
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

struct Desk {
    work: Mutex<Work>,
    /// There is something to do, or nothing any more.
    more: Condvar,
    /// Something was done.
    done: Condvar,
    /// Called when something was done.
    ring: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Work {
    /// Sequences that wait to go on.
    going: VecDeque<Task>,
    /// Sequences that wait to begin.
    beginning: VecDeque<Task>,
    /// Tasks done so far.
    finished: u64,
    over: bool,
}

/// Whether a thread also begins with sequences.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Never,
    Too,
}

struct Task {
    what: What,
    answer: Arc<Mutex<Option<Answer>>>,
}

enum What {
    Begin(Arc<Language>, Vec<u32>),
    Advance(Box<Matching>, u32),
}

struct Answer {
    matching: Box<Matching>,
    outlook: Outlook,
    took: Duration,
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides").finish_non_exhaustive()
    }
}

impl Guides {
    /// Starts the threads; `ring` is called whenever a guide knows how its sequence goes on.
    pub(crate) fn start(ring: impl Fn() + Send + Sync + 'static) -> std::io::Result<Self> {
        let (work, ring) = (Mutex::default(), Box::new(ring));
        let desk = Arc::new(Desk { work, more: Condvar::new(), done: Condvar::new(), ring });
        let mut guides = Self { desk, threads: Vec::new() };
        for begins in THREADS {
            let desk = Arc::clone(&guides.desk);
            let builder = std::thread::Builder::new().name("engine-guide".to_owned());
            guides.threads.push(builder.spawn(move || desk.serve(begins))?);
        }
        Ok(guides)
    }

    /// A guide for a sequence that has written `output` so far.
    pub(crate) fn guide(&self, language: Arc<Language>, output: &[u32]) -> Guide {
        let guide = Guide {
            desk: Arc::clone(&self.desk),
            answer: Arc::default(),
            matching: None,
            outlook: None,
            took: Duration::ZERO,
        };
        guide.ask(What::Begin(language, output.to_vec()));
        guide
    }

    /// Waits until `enough`, which is asked again whenever something was done, but not longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration, mut enough: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        let mut seen = self.desk.lock().finished;
        while !enough() {
            let mut work = self.desk.lock();
            while work.finished == seen {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                let waited = self.desk.done.wait_timeout(work, left);
                work = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            seen = work.finished;
        }
    }
}

impl Drop for Guides {
    fn drop(&mut self) {
        let mut work = self.desk.lock();
        work.over = true;
        (work.going, work.beginning) = Default::default();
        drop(work);
        self.desk.more.notify_all();
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
                if let Some(matching) = self.matching.take() {
                    self.ask(What::Advance(matching, token));
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
        if let Some(Answer { matching, outlook, took }) = answer {
            self.matching = Some(matching);
            self.outlook = Some(outlook);
            self.took = took;
        }
    }

    fn ask(&self, what: What) {
        let answer = Arc::clone(&self.answer);
        let mut work = self.desk.lock();
        let queue = match what {
            What::Begin(..) => &mut work.beginning,
            What::Advance(..) => &mut work.going,
        };
        queue.push_back(Task { what, answer });
        drop(work);
        self.desk.more.notify_all();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what there is to do, until it is over; beginning only if `begins`.
    fn serve(&self, begins: Begins) {
        while let Some(Task { what, answer }) = self.next(begins) {
            let began = Instant::now();
            let (matching, outlook) = match what {
                What::Begin(language, output) => {
                    let mut matching = Box::new(language.begin());
                    let outlook = matching.replay(&output);
                    (matching, outlook)
                }
                What::Advance(mut matching, token) => {
                    let outlook = matching.advance(token);
                    (matching, outlook)
                }
            };
            let told = Answer { matching, outlook, took: began.elapsed() };
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            self.lock().finished += 1;
            self.done.notify_all();
            (self.ring)();
        }
    }

    fn next(&self, begins: Begins) -> Option<Task> {
        let mut work = self.lock();
        loop {
            if work.over {
                return None;
            }
            let mut task = work.going.pop_front();
            if task.is_none() && begins == Begins::Too {
                task = work.beginning.pop_front();
            }
            if task.is_some() {
                return task;
            }
            work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Two, so that one slow language does not hold up all the others.
const THREADS: [Begins; 2] = [Begins::Never, Begins::Too];
