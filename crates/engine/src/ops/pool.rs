//! A few threads that share the parts of one operation, and sleep in between.
//!
//! The engine shares its cores with a gateway: who waits gives its core to anybody who wants it, and sleeps
//! after [`PATIENCE`], which spans the gaps between the operations of one step. Parts are taken one by one, so
//! a helper that wakes late, or whose core is busy, takes fewer. Which thread computes a part changes
//! nothing in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The caller's thread and its helpers. Dropping it ends the helpers.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    board: Mutex<Board>,
    /// The number of the last task posted, to look at without the lock.
    number: AtomicU64,
    /// Helpers inside the current task, to look at without the lock.
    inside: AtomicUsize,
    posted: Condvar,
    left: Condvar,
}

/// What the helpers look at.
#[derive(Default)]
struct Board {
    task: Option<Task>,
    /// Helpers that sleep until a task is posted.
    asleep: usize,
    panicked: bool,
    closed: bool,
}

/// A borrowed operation, cut into parts.
#[derive(Clone, Copy)]
struct Task {
    part: *const (dyn Fn(usize) + Sync),
    next: *const AtomicUsize,
    parts: usize,
}

// SAFETY: what the pointers point to is `Sync`, and `Pool::run` keeps it alive until no helper is inside.
unsafe impl Send for Task {}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub(crate) fn new(threads: u32) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            board: Mutex::new(Board::default()),
            number: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            posted: Condvar::new(),
            left: Condvar::new(),
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for number in 1..threads {
            let shared = pool.shared.clone();
            let helper = std::thread::Builder::new()
                .name(format!("engine-help-{number}"))
                .spawn(move || shared.help())?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// Calls `part(0)` to `part(parts - 1)`, each once; `worth` is false if it is too little work to share.
    pub(crate) fn run(&self, parts: usize, worth: bool, part: &(dyn Fn(usize) + Sync)) {
        if !worth || parts < 2 || self.helpers.is_empty() {
            (0..parts).for_each(part);
            return;
        }
        let next = AtomicUsize::new(0);
        // SAFETY: only the lifetime changes. `Posted` waits, when dropped, until no helper can touch it.
        let part = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(part)
        };
        let task = Task { part, next: &raw const next, parts };
        let posted = Posted::new(&self.shared, task);
        // SAFETY: both borrows outlive this call.
        unsafe { task.work() };
        drop(posted);
        assert!(!std::mem::take(&mut self.shared.lock().panicked), "a helper panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.posted.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked was reported by `run`.
            drop(helper.join());
        }
    }
}

impl Task {
    /// Takes parts until none is left.
    ///
    /// # Safety
    /// What the task borrows must be alive.
    unsafe fn work(self) {
        // SAFETY: the caller keeps both alive.
        let (part, next) = unsafe { (&*self.part, &*self.next) };
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.parts {
                return;
            }
            part(index);
        }
    }
}

/// A task on the board. Dropping it takes the task down and waits for the helpers inside.
struct Posted<'a>(&'a Shared);

impl<'a> Posted<'a> {
    fn new(shared: &'a Shared, task: Task) -> Self {
        let mut board = shared.lock();
        board.task = Some(task);
        board.panicked = false;
        shared.number.fetch_add(1, Ordering::Release);
        if board.asleep > 0 {
            shared.posted.notify_all();
        }
        Self(shared)
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        // Nobody enters once the task is taken down.
        self.0.lock().task = None;
        let inside = || self.0.inside.load(Ordering::Acquire) > 0;
        if !patiently(|| !inside()) {
            let mut board = self.0.lock();
            while inside() {
                board = self.0.left.wait(board).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Shared {
    fn help(&self) {
        // The number of the last task this helper entered, so that it enters each at most once.
        let mut done = 0;
        let posted = |done| self.number.load(Ordering::Acquire) != done;
        let mut board = self.lock();
        while !board.closed {
            match board.task {
                Some(task) if posted(done) => {
                    done = self.number.load(Ordering::Acquire);
                    self.inside.fetch_add(1, Ordering::Relaxed);
                    drop(board);
                    let leaving = Leaving(self);
                    // SAFETY: `Posted` took the task's borrows and waits for us to leave.
                    let work = AssertUnwindSafe(|| unsafe { task.work() });
                    // The poster hears of it, and the helper is there for the next task.
                    if catch_unwind(work).is_err() {
                        self.lock().panicked = true;
                    }
                    drop(leaving);
                    patiently(|| posted(done));
                    board = self.lock();
                }
                _ => {
                    board.asleep += 1;
                    board = self.posted.wait(board).unwrap_or_else(PoisonError::into_inner);
                    board.asleep -= 1;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A helper inside a task. Dropping it lets the helper leave.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let _board = self.0.lock();
        self.0.inside.fetch_sub(1, Ordering::Release);
        self.0.left.notify_all();
    }
}

/// Waits for `is`, but not long, and only while nobody else wants the core; whether it came true.
fn patiently(is: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !is() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Longer than the single-threaded gaps between the operations of a step, shorter than anybody notices.
const PATIENCE: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once_whoever_takes_it() {
        let pool = Pool::new(3).unwrap();
        for parts in [0, 1, 2, 7, 100] {
            let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..50 {
                pool.run(parts, true, &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn a_part_that_panics_is_reported_and_the_next_task_is_done_by_all() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let run = || pool.run(30, true, &|part| assert!(part != 17, "a bad part"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "whoever took it");
            let count = AtomicUsize::new(0);
            pool.run(30, true, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 30);
        }
        let together = std::sync::Barrier::new(3);
        pool.run(3, true, &|_| {
            together.wait();
        });
    }
}
