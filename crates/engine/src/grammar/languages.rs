//! Compiles formats, and keeps the recent ones.
//!
//! Compiling takes from a millisecond to as long as its limits allow, so it happens on threads of its own,
//! few at a time, and whoever waits for it does so for [`COMPILE_LIMIT`] at most. A compilation cannot be
//! interrupted: one that is too slow ends by itself, on a thread that nobody waits for, and what it found is
//! kept like any other, refusals included.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use domain::{Format, ModelFiles, ModelInfo};
use tokio::sync::watch;

use super::Language;
use super::language::Compiler;

/// The languages of one model.
#[derive(Clone)]
pub(crate) struct Languages(Arc<Shared>);

/// Why there is no language for a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotCompiled {
    /// It is no format that we can compile, and why.
    Wrong(String),
    /// Compiling takes too long.
    Slow,
    /// Too many formats are being compiled.
    Busy,
}

struct Shared {
    files: ModelFiles,
    model: ModelInfo,
    /// Made by the first compilation.
    compiler: OnceLock<Result<Compiler, String>>,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    kept: HashMap<Format, Kept>,
    queue: VecDeque<Order>,
    /// Threads that compile.
    threads: usize,
    /// Counts uses, to tell which is the oldest.
    uses: u64,
}

struct Kept {
    compiled: watch::Receiver<Compiled>,
    used: u64,
}

struct Order {
    format: Format,
    tell: watch::Sender<Compiled>,
}

#[derive(Clone, Default)]
enum Compiled {
    #[default]
    Waiting,
    Begun,
    Done(Result<Arc<Language>, String>),
}

impl std::fmt::Debug for Languages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Languages").finish_non_exhaustive()
    }
}

impl Languages {
    pub(crate) fn new(files: ModelFiles, model: ModelInfo) -> Self {
        let shelf = Mutex::default();
        Self(Arc::new(Shared { files, model, compiler: OnceLock::new(), shelf }))
    }

    /// The language of a format that is not text.
    pub(crate) async fn find(&self, format: &Format) -> Result<Arc<Language>, NotCompiled> {
        let mut compiled = self.ask(format)?;
        let done = compiled.wait_for(|compiled| matches!(compiled, Compiled::Done(_)));
        if let Ok(Err(_)) = tokio::time::timeout(COMPILE_LIMIT, done).await {
            return Err(NotCompiled::Wrong("it cannot be compiled".to_owned())); // its thread is gone
        }
        let state = compiled.borrow().clone();
        match state {
            Compiled::Done(Ok(language)) => Ok(language),
            Compiled::Done(Err(reason)) => Err(NotCompiled::Wrong(reason)),
            Compiled::Begun => Err(NotCompiled::Slow),
            Compiled::Waiting => Err(NotCompiled::Busy),
        }
    }

    /// Where the compiled format arrives, or has arrived.
    fn ask(&self, format: &Format) -> Result<watch::Receiver<Compiled>, NotCompiled> {
        let mut shelf = self.0.shelf();
        shelf.uses += 1;
        let used = shelf.uses;
        if let Some(kept) = shelf.kept.get_mut(format) {
            kept.used = used;
            return Ok(kept.compiled.clone());
        }
        if shelf.queue.len() >= MAX_WAITING {
            return Err(NotCompiled::Busy);
        }
        shelf.make_room();
        let (tell, compiled) = watch::channel(Compiled::Waiting);
        shelf.kept.insert(format.clone(), Kept { compiled: compiled.clone(), used });
        shelf.queue.push_back(Order { format: format.clone(), tell });
        if shelf.threads < MAX_THREADS {
            shelf.threads += 1;
            drop(shelf);
            Seat { shared: Arc::clone(&self.0), taken: true }.fill();
        }
        Ok(compiled)
    }
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile(&self, format: &Format) -> Result<Arc<Language>, String> {
        let compiler = self.compiler.get_or_init(|| Compiler::new(&self.files, &self.model));
        let compiler = compiler
            .as_ref()
            .map_err(|reason| format!("this model cannot be kept in a format: {reason}"))?;
        compiler.compile(format).map(Arc::new)
    }
}

impl Shelf {
    /// Lets go of the language that was used longest ago, if there are too many.
    fn make_room(&mut self) {
        if self.kept.len() < MAX_KEPT {
            return;
        }
        let done = |kept: &Kept| matches!(*kept.compiled.borrow(), Compiled::Done(_));
        let idle = self.kept.iter().filter(|(_, kept)| done(kept));
        if let Some(oldest) =
            idle.min_by_key(|(_, kept)| kept.used).map(|(format, _)| format.clone())
        {
            self.kept.remove(&oldest);
        }
    }
}

/// A thread that compiles. Dropping it makes room for another one.
struct Seat {
    shared: Arc<Shared>,
    taken: bool,
}

impl Seat {
    /// Starts the thread.
    fn fill(mut self) {
        let thread = std::thread::Builder::new()
            .name("engine-compile".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || self.work());
        if let Err(error) = thread {
            tracing::warn!(error = %error, "no thread to compile a format");
        }
    }

    /// Compiles what waits, and leaves when nothing does.
    fn work(&mut self) {
        while let Some(Order { format, tell }) = self.next() {
            tell.send_replace(Compiled::Begun);
            tell.send_replace(Compiled::Done(self.shared.compile(&format)));
        }
    }

    /// What waits. Without anything it leaves at once, so that whoever comes next finds the seat free.
    fn next(&mut self) -> Option<Order> {
        let mut shelf = self.shared.shelf();
        let order = shelf.queue.pop_front();
        if order.is_none() {
            shelf.threads -= 1;
            self.taken = false;
        }
        order
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.taken {
            self.shared.shelf().threads -= 1;
        }
    }
}

/// How long a request waits for its format.
pub(crate) const COMPILE_LIMIT: Duration = Duration::from_secs(5);
/// Compiling takes time from computing, so not many at once.
const MAX_THREADS: usize = 2;
const MAX_WAITING: usize = 64;
const MAX_KEPT: usize = 64;
/// Formats nest, and so do the functions that compile them.
pub(super) const STACK_BYTES: usize = 32 << 20;
