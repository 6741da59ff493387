//! Compiles formats, and keeps the recent ones.
//!
//! Compiling takes from a millisecond to as long as its limits allow, so it happens on threads of its own,
//! few at a time, and whoever waits for it does so for [`COMPILE_LIMIT`] at most. A compilation cannot be
//! interrupted: one that is too slow ends by itself, on a thread that nobody waits for, and what it found is
//! kept like any other, refusals included. One that nobody waits for any more is not begun.
//!
//! Tenants take turns by the time that compiling for them took, and none has more than one thread at a time. A full
//! queue takes who has less than its share of it, and what is kept longest unused goes first of the tenant that
//! has most. So formats of one tenant, however many, neither keep others' from being compiled nor drive them out.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use domain::{Format, ModelFiles, ModelInfo, ProjectId, Share};
use tokio::sync::watch;

use super::language::Compiler;
use super::{Language, text};
use crate::turns::Turns;

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
    queue: Turns<Order>,
    /// Threads that compile.
    threads: usize,
    /// For whom something is being compiled.
    served: HashSet<ProjectId>,
    /// Counts uses, to tell which is the oldest.
    uses: u64,
}

struct Kept {
    compiled: watch::Receiver<Compiled>,
    used: u64,
    /// Who asked for it first.
    tenant: ProjectId,
}

struct Order {
    format: Format,
    share: Share,
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

    /// The language of a format that is not text, for a tenant.
    pub(crate) async fn find(
        &self,
        format: &Format,
        share: Share,
    ) -> Result<Arc<Language>, NotCompiled> {
        let mut compiled = self.ask(format, share)?;
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
    fn ask(&self, format: &Format, share: Share) -> Result<watch::Receiver<Compiled>, NotCompiled> {
        let mut shelf = self.0.shelf();
        if let Some(compiled) = shelf.find(format) {
            return Ok(compiled);
        }
        if !shelf.queue.has_room(share, MAX_WAITING) {
            return Err(NotCompiled::Busy);
        }
        let compiled = shelf.order(format, share);
        if shelf.threads < MAX_THREADS {
            shelf.threads += 1;
            drop(shelf);
            Seat { shared: Arc::clone(&self.0), taken: true, serves: None }.fill();
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
        compiler.compile(format)
    }
}

impl Kept {
    fn is_done(&self) -> bool {
        matches!(*self.compiled.borrow(), Compiled::Done(_))
    }
}

impl Shelf {
    /// Where a format that is kept arrives, or has arrived.
    fn find(&mut self, format: &Format) -> Option<watch::Receiver<Compiled>> {
        self.uses += 1;
        let kept = self.kept.get_mut(format)?;
        kept.used = self.uses;
        Some(kept.compiled.clone())
    }

    /// Has a format compiled; returns where it arrives.
    fn order(&mut self, format: &Format, share: Share) -> watch::Receiver<Compiled> {
        self.make_room(format);
        let (tell, compiled) = watch::channel(Compiled::Waiting);
        let kept = Kept { compiled: compiled.clone(), used: self.uses, tenant: share.tenant };
        self.kept.insert(format.clone(), kept);
        self.queue.push(share, Order { format: format.clone(), share, tell });
        compiled
    }

    /// Lets go of languages until there is room for this one's: of the tenant that has most, what was used longest
    /// ago. What is being compiled stays.
    fn make_room(&mut self, format: &Format) {
        let more = text::bytes(format);
        loop {
            let bytes: usize = self.kept.keys().map(text::bytes).sum();
            if self.kept.len() < MAX_KEPT && bytes + more <= MAX_KEPT_BYTES {
                return;
            }
            let mut kept_for: HashMap<ProjectId, usize> = HashMap::new();
            for (format, kept) in &self.kept {
                *kept_for.entry(kept.tenant).or_default() += text::bytes(format) + KEPT_UNIT;
            }
            let idle = self.kept.iter().filter(|(_, kept)| kept.is_done());
            let last = |kept: &Kept| (Reverse(kept_for[&kept.tenant]), kept.used);
            let Some((oldest, _)) = idle.min_by_key(|(_, kept)| last(kept)) else { return };
            let oldest = oldest.clone();
            self.kept.remove(&oldest);
        }
    }

    /// What is to be compiled next, if there is anything for whom nothing is being compiled.
    fn next(&mut self) -> Option<Order> {
        loop {
            let Self { queue, served, .. } = self;
            let order = queue.pop(|tenant, _| !served.contains(&tenant))?;
            // One receiver is kept here.
            if order.tell.receiver_count() > 1 {
                served.insert(order.share.tenant);
                return Some(order);
            }
            self.kept.remove(&order.format);
        }
    }

    /// Notes that something was compiled, or was given up.
    fn compiled(&mut self, share: Share, time: Duration) {
        self.served.remove(&share.tenant);
        self.queue.charge(share, time);
    }
}

/// A thread that compiles. Dropping it makes room for another one.
struct Seat {
    shared: Arc<Shared>,
    taken: bool,
    /// For whom it compiles.
    serves: Option<Share>,
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
        while let Some(Order { format, share, tell }) = self.next() {
            let began = Instant::now();
            self.serves = Some(share);
            tell.send_replace(Compiled::Begun);
            tell.send_replace(Compiled::Done(self.shared.compile(&format)));
            self.serves = None;
            self.shared.shelf().compiled(share, began.elapsed());
        }
    }

    /// What waits. Without anything it leaves at once, so that whoever comes next finds the seat free.
    fn next(&mut self) -> Option<Order> {
        let mut shelf = self.shared.shelf();
        let order = shelf.next();
        if order.is_none() {
            shelf.threads -= 1;
            self.taken = false;
        }
        order
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shelf = self.shared.shelf();
        if self.taken {
            shelf.threads -= 1;
        }
        if let Some(share) = self.serves {
            shelf.compiled(share, Duration::ZERO);
        }
    }
}

/// How long a request waits for its format.
pub(crate) const COMPILE_LIMIT: Duration = Duration::from_secs(5);
/// Compiling takes time from computing, so not many at once.
const MAX_THREADS: usize = 2;
const MAX_WAITING: usize = 64;
const MAX_KEPT: usize = 64;
/// What is kept, in bytes of formats: a compiled one takes some three hundred times its length.
const MAX_KEPT_BYTES: usize = 512 << 10;
/// What a format counts for that is kept, however short it is.
const KEPT_UNIT: usize = MAX_KEPT_BYTES / MAX_KEPT;
/// Formats nest, and so do the functions that compile them.
pub(super) const STACK_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: u128) -> Share {
        Share::of(ProjectId::from_u128(tenant))
    }

    fn schema(tenant: u128, number: usize) -> Format {
        Format::Regex(format!("tenant {tenant} number {number}").into())
    }

    impl Shelf {
        /// Asks for a format as `Languages` does, and starts no thread.
        fn ask(&mut self, tenant: u128, number: usize) -> Option<watch::Receiver<Compiled>> {
            if !self.queue.has_room(share(tenant), MAX_WAITING) {
                return None;
            }
            Some(self.order(&schema(tenant, number), share(tenant)))
        }

        /// Compiles what is next, which takes so many milliseconds; for whom.
        fn serve(&mut self, millis: impl Fn(ProjectId) -> u64) -> Option<ProjectId> {
            let Order { share, tell, .. } = self.next()?;
            tell.send_replace(Compiled::Done(Err("of no matter".to_owned())));
            self.compiled(share, Duration::from_millis(millis(share.tenant)));
            Some(share.tenant)
        }
    }

    #[test]
    fn one_tenants_many_slow_formats_keep_no_other_from_compiling() {
        let mut shelf = Shelf::default();
        let flood: Vec<_> = (0..200).map_while(|number| shelf.ask(1, number)).collect();
        assert_eq!(flood.len(), MAX_WAITING, "one alone may fill the queue");
        let slow = |tenant| if tenant == ProjectId::from_u128(1) { 1_000 } else { 1 };
        shelf.serve(slow);

        let calm: Vec<_> = (0..10).map_while(|number| shelf.ask(2, number)).collect();

        assert_eq!(calm.len(), 10, "its share of the queue is taken");
        let served: Vec<_> = (0..11).filter_map(|_| shelf.serve(slow)).collect();
        let others = served.iter().filter(|tenant| **tenant == ProjectId::from_u128(1)).count();
        assert!(others <= 1, "{served:?}");
    }

    #[test]
    fn a_tenant_has_one_thread_at_a_time() {
        let mut shelf = Shelf::default();
        let _waits: Vec<_> = (0..3).map(|number| shelf.ask(1, number)).collect();
        let first = shelf.next().unwrap();
        assert!(shelf.next().is_none(), "the other thread is left to others");
        let _other = shelf.ask(2, 0);
        assert_eq!(shelf.next().unwrap().share, share(2));
        shelf.compiled(first.share, Duration::from_millis(1));
        assert_eq!(shelf.next().unwrap().share, share(1));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_compiled() {
        let mut shelf = Shelf::default();
        let left = shelf.ask(1, 0);
        let _waits = shelf.ask(1, 1);
        drop(left);
        assert_eq!(shelf.next().unwrap().format, schema(1, 1));
        assert!(!shelf.kept.contains_key(&schema(1, 0)), "whoever asks again is a new order");
    }

    #[test]
    fn one_tenants_many_formats_drive_out_its_own() {
        let mut shelf = Shelf::default();
        let _calm = shelf.ask(2, 0);
        shelf.serve(|_| 1);
        for number in 0..3 * MAX_KEPT {
            let _waits = shelf.ask(1, number);
            shelf.serve(|_| 1);
        }
        assert_eq!(shelf.kept.len(), MAX_KEPT);
        assert!(
            shelf.kept.contains_key(&schema(2, 0)),
            "the oldest, and the only one of its tenant"
        );
    }
}
